// SPDX-License-Identifier: MIT
#pragma once

#include <nca/image.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

// The stb libraries behind three functions, of which encode_png is in nca/image.hpp. Their own
// symbols stay inside stb.cpp, so that a program with stb of its own can link the library.
namespace nca {

// Decodes PNG, JPEG, BMP, TGA or the first frame of a GIF; name stands for the file in messages.
// Throws FormatError where the bytes are no such image, end early, or a side is longer than
// largest_image_side (before the pixels get memory).
Image decode_image(std::span<const std::uint8_t> bytes, const std::string& name);

// To another size by the Catmull-Rom filter, widened where pixels are merged; colours are weighted
// by alpha, edges repeated. The same size gives the same pixels.
Image resample(const Image& image, int height, int width);

}  // namespace nca
