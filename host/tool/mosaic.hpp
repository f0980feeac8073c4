// SPDX-License-Identifier: MIT
#pragma once

#include "host/core/grid.hpp"

#include <nca/image.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

// Several pictures in one, with small gaps between them.
namespace nca::tool {

struct Layout {
    int columns = 1;
    int rows = 1;
};

inline Layout nearly_square(std::size_t pictures) {
    const int count = int(pictures);
    const int columns = int(std::ceil(std::sqrt(count)));
    return {columns, (count + columns - 1) / columns};
}

inline int mosaic_gap(int picture_width) { return std::max(1, picture_width / 24); }

inline GridSize mosaic_size(const Layout& layout, const GridSize& picture) {
    const int gap = mosaic_gap(picture.width);
    return {layout.rows * (picture.height + gap) - gap,
            layout.columns * (picture.width + gap) - gap};
}

// Places pictures of one size row by row. All bytes between and after them are `background`.
inline Image mosaic(std::span<const Image> pictures, const Layout& layout,
                    std::uint8_t background) {
    const Image& first = pictures.front();
    const int gap = mosaic_gap(first.width);
    const GridSize size = mosaic_size(layout, {first.height, first.width});
    Image whole{.height = size.height, .width = size.width, .pixels = {}};
    whole.pixels.assign(std::size_t(size.height) * size.width * 4, background);
    int index = 0;
    for (const Image& picture : pictures) {
        const int top = index / layout.columns * (picture.height + gap);
        const int left = index % layout.columns * (picture.width + gap);
        for (int y = 0; y < picture.height; ++y) {
            std::copy_n(picture.pixel(y, 0), picture.width * 4, whole.pixel(top + y, left));
        }
        ++index;
    }
    return whole;
}

}  // namespace nca::tool
