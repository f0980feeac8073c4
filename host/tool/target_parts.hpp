// SPDX-License-Identifier: MIT
#pragma once

#include "host/core/grid.hpp"

#include <nca/sizes.hpp>

#include <cstddef>
#include <span>
#include <vector>

namespace nca::tool {

// Cells of a target that growth does not reach from the start cell in the middle.
struct Unreached {
    int cells = 0;
    int all = 0;  // cells of the target with an alpha above living_threshold
    Place first;  // the first of the unreached ones, row by row
};

// How far from a grown cell the next one may be: training finds its way over a gap of two cells,
// and never over three (docs/architecture.md, "Parts that do not grow").
inline constexpr int growth_reach = 3;

// target is [grid, grid, 4]. wraps: the grid's edges are circular.
inline Unreached find_unreached(std::span<const float> target, int grid, bool wraps) {
    const auto lives = [&](int cell) {
        return target[std::size_t(cell) * visible_channels + alpha_channel] > living_threshold;
    };
    std::vector<bool> reached(std::size_t(grid) * std::size_t(grid));
    const int middle = grid / 2 * grid + grid / 2;
    std::vector<int> to_visit = {middle};
    reached[std::size_t(middle)] = true;
    while (!to_visit.empty()) {
        const int cell = to_visit.back();
        to_visit.pop_back();
        constexpr int side = 2 * growth_reach + 1;
        for (int neighbour = 0; neighbour < side * side; ++neighbour) {
            int y = cell / grid + neighbour / side - growth_reach;
            int x = cell % grid + neighbour % side - growth_reach;
            if (wraps) {
                y = (y + grid) % grid;
                x = (x + grid) % grid;
            }
            if (y < 0 || y >= grid || x < 0 || x >= grid) continue;
            const int other = y * grid + x;
            if (reached[std::size_t(other)] || !lives(other)) continue;
            reached[std::size_t(other)] = true;
            to_visit.push_back(other);
        }
    }
    Unreached unreached;
    for (int cell = 0; cell < grid * grid; ++cell) {
        if (!lives(cell)) continue;
        ++unreached.all;
        if (reached[std::size_t(cell)]) continue;
        if (unreached.cells == 0) unreached.first = {cell / grid, cell % grid};
        ++unreached.cells;
    }
    return unreached;
}

}  // namespace nca::tool
