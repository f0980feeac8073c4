// SPDX-License-Identifier: MIT
#pragma once

#include "host/pictures/image_header.hpp"

#include <nca/image.hpp>

#include <cstdint>
#include <span>
#include <string>

// stb.cpp is the only file that includes the stb libraries, and hides their symbols, so that a
// program with its own copy of stb can link this library. Its third function, encode_png, is
// declared in nca/image.hpp.
namespace nca {

// Decodes PNG, JPEG, BMP, TGA or the first frame of a GIF, as it is stored; messages call the file
// `name`. Throws FormatError where the bytes are no such image or end too early. header is what
// read_image_header returns for these bytes.
Image decode_by_stb(std::span<const std::uint8_t> bytes, const std::string& name,
                    const ImageHeader& header);

// Resamples to another size with the Catmull-Rom filter, which is widened where pixels are merged.
// Colours are weighted by alpha; beyond an edge its pixels are repeated.
Image resample(const Image& image, int height, int width);

}  // namespace nca
