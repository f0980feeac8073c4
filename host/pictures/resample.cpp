// SPDX-License-Identifier: MIT
#include "host/pictures/resample.hpp"

#include <nca/sizes.hpp>

#include <new>

#define STB_IMAGE_RESIZE_STATIC
#define STB_IMAGE_RESIZE_IMPLEMENTATION
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb_image_resize.h>
#pragma GCC diagnostic pop

namespace nca {

Image resample(const Image& image, int height, int width) {
    Image result{.height = height, .width = width, .pixels = {}, .had_alpha = image.had_alpha};
    result.pixels.resize(std::size_t(height) * width * 4);
    // Averages the bytes themselves and not the light that they stand for. The notebook's image
    // library does the same, with the same filter.
    const int done = stbir_resize_uint8_generic(
        image.pixels.data(), image.width, image.height, 0, result.pixels.data(), width, height, 0,
        4, alpha_channel, 0, STBIR_EDGE_CLAMP, STBIR_FILTER_CATMULLROM, STBIR_COLORSPACE_LINEAR,
        nullptr);
    if (done == 0) throw std::bad_alloc();
    return result;
}

}  // namespace nca
