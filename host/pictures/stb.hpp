// SPDX-License-Identifier: MIT
#pragma once

#include <nca/image.hpp>

#include <cstdint>
#include <span>
#include <string>

// stb.cpp is the only file that includes the stb libraries, and hides their symbols, so that a
// program with its own copy of stb can link this library. Its third function, encode_png, is
// declared in nca/image.hpp.
namespace nca {

// Decodes PNG, JPEG, BMP, TGA or the first frame of a GIF; messages call the file `name`. Throws
// FormatError where the bytes are no such image, end too early, or are what read_image_header
// refuses; in the last case no memory is allocated for the pixels.
Image decode_image(std::span<const std::uint8_t> bytes, const std::string& name);

// Resamples to another size with the Catmull-Rom filter, which is widened where pixels are merged.
// Colours are weighted by alpha; beyond an edge its pixels are repeated. The same size gives the
// same pixels.
Image resample(const Image& image, int height, int width);

}  // namespace nca
