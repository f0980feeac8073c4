// SPDX-License-Identifier: MIT
#pragma once

#include "host/pictures/image_header.hpp"

#include <nca/image.hpp>

#include <cstdint>
#include <span>
#include <string>

// stb.cpp and resample.cpp are the only files that include the stb libraries, and hide their
// symbols, so that a program with its own copy of stb can link this library. The other function of
// stb.cpp, encode_png, is declared in nca/image.hpp.
namespace nca {

// Decodes PNG, JPEG, BMP, TGA or the first frame of a GIF, as it is stored; messages call the file
// `name`. Throws FormatError where the bytes are no such image or end too early. header is what
// read_image_header returns for these bytes.
Image decode_by_stb(std::span<const std::uint8_t> bytes, const std::string& name,
                    const ImageHeader& header);

}  // namespace nca
