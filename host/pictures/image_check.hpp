// SPDX-License-Identifier: MIT
#pragma once

#include <nca/error.hpp>
#include <nca/image.hpp>

#include <vector>

#include "host/core/throw_error.hpp"

namespace nca {

// Throws InvalidArgument where the image has no pixels, not as many as its size says, or 2^31 bytes
// or more: the encoders count bytes in an int.
inline void check_image(const Image& image) {
    constexpr std::size_t largest_bytes = (std::size_t{1} << 31) - 1;
    constexpr std::size_t bytes_per_pixel = 4;
    if (image.height < 1 || image.width < 1 ||
        std::size_t(image.height) > largest_bytes / (bytes_per_pixel * image.width + 1)) {
        throw_error<InvalidArgument>(
            "an image of {} x {} pixels, expected at least 1 x 1 and less than 2 GB", image.width,
            image.height);
    }
    const std::size_t expected = std::size_t(image.height) * image.width * bytes_per_pixel;
    if (image.pixels.size() != expected) {
        throw_error<InvalidArgument>("an image of {} x {} pixels with {} bytes, expected {}",
                                     image.width, image.height, image.pixels.size(), expected);
    }
}

// Whether the predicate holds for the alpha of any pixel; values is [pixels, 4].
template <class Value, class Predicate>
bool any_alpha(const std::vector<Value>& values, Predicate predicate) {
    for (std::size_t i = alpha_channel; i < values.size(); i += visible_channels) {
        if (predicate(values[i])) return true;
    }
    return false;
}

// Throws InvalidArgument unless the view is one grid in host memory.
inline void check_grid(ConstStateView grid) {
    if (grid.data == nullptr || grid.space != MemorySpace::host) {
        throw InvalidArgument("the grid is not in host memory; copy it there first");
    }
    if (grid.batch != 1 || grid.height < 1 || grid.width < 1) {
        throw_error<InvalidArgument>(
            "a batch of {} grids of {} x {} cells, expected one grid; take one with sample()",
            grid.batch, grid.height, grid.width);
    }
}

}  // namespace nca
