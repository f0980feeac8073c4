// SPDX-License-Identifier: MIT
#pragma once

#include <nca/place.hpp>

namespace nca {

struct GridSize {  // in cells
    int height = 72;
    int width = 72;
};

inline bool contains(const GridSize& grid, const Place& place) {
    return place.y >= 0 && place.y < grid.height && place.x >= 0 && place.x < grid.width;
}

inline Place middle_of(const GridSize& grid) { return {grid.height / 2, grid.width / 2}; }

}  // namespace nca
