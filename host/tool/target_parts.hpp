// SPDX-License-Identifier: MIT
#pragma once

#include "host/core/grid.hpp"

#include <nca/sizes.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <span>
#include <vector>

namespace nca::tool {

// Cells of a target that growth from the start cells does not reach.
struct Unreached {
    int cells = 0;
    int all = 0;  // cells of the target with an alpha above living_threshold
    Place first;  // the first of the unreached ones, row by row
};

// target is [grid, grid, 4] in all of these.
inline bool lives(std::span<const float> target, int cell) {
    return target[std::size_t(cell) * visible_channels + alpha_channel] > living_threshold;
}

// Counts the cells for which is_reached(row, column) is false.
template <class Predicate>
Unreached count_unreached(std::span<const float> target, int grid, Predicate is_reached) {
    Unreached unreached;
    for (int y = 0; y < grid; ++y) {
        for (int x = 0; x < grid; ++x) {
            if (!lives(target, y * grid + x)) continue;
            ++unreached.all;
            if (is_reached(y, x)) continue;
            if (unreached.cells == 0) unreached.first = {y, x};
            ++unreached.cells;
        }
    }
    return unreached;
}

// The living cell that is nearest to a place; of equally near ones the first, row by row. The place
// itself where none lives.
inline Place nearest_living(std::span<const float> target, int grid, const Place& place) {
    Place nearest = place;
    std::int64_t least = std::numeric_limits<std::int64_t>::max();
    for (int cell = 0; cell < grid * grid; ++cell) {
        if (!lives(target, cell)) continue;
        const std::int64_t down = cell / grid - place.y, right = cell % grid - place.x;
        if (down * down + right * right >= least) continue;
        least = down * down + right * right;
        nearest = {cell / grid, cell % grid};
    }
    return nearest;
}

// How far from a grown cell the next one may be: training finds its way over a gap of two cells,
// and never over three (docs/architecture.md, "Parts that do not grow").
inline constexpr int growth_reach = 3;

// Those that lie too far from the others. wraps: the grid's edges are circular.
inline Unreached find_unreached(std::span<const float> target, int grid,
                                std::span<const Place> starts, bool wraps) {
    std::vector<bool> reached(std::size_t(grid) * std::size_t(grid));
    std::vector<int> to_visit;
    for (const Place& start : starts) {
        to_visit.push_back(start.y * grid + start.x);
        reached[std::size_t(to_visit.back())] = true;
    }
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
            if (reached[std::size_t(other)] || !lives(target, other)) continue;
            reached[std::size_t(other)] = true;
            to_visit.push_back(other);
        }
    }
    return count_unreached(target, grid, [&](int y, int x) {
        const int cell = y * grid + x;
        return bool{reached[std::size_t(cell)]};
    });
}

// Those that so many steps do not reach: growth goes one cell in a step, in all eight directions.
inline Unreached find_too_far(std::span<const float> target, int grid,
                              std::span<const Place> starts, bool wraps, int steps) {
    const auto distance = [&](int a, int b) {
        const int along = std::abs(a - b);
        return wraps ? std::min(along, grid - along) : along;
    };
    return count_unreached(target, grid, [&](int y, int x) {
        return std::ranges::any_of(starts, [&](const Place& start) {
            return std::max(distance(y, start.y), distance(x, start.x)) <= steps;
        });
    });
}

}  // namespace nca::tool
