// SPDX-License-Identifier: MIT
#pragma once

#include "host/core/grid.hpp"
#include "host/core/start_cells.hpp"
#include "host/core/throw_error.hpp"
#include "host/tool/arguments/arguments.hpp"

#include <fmt/format.h>

#include <string>
#include <vector>

namespace nca::tool {

// For messages about a place outside.
inline std::string cells_of(const GridSize& grid) {
    return fmt::format("the grid of {}x{} cells, where X is in 0..{} and Y in 0..{}", grid.height,
                       grid.width, grid.width - 1, grid.height - 1);
}

// Throws UsageError where a start cell that --seed-at names is outside the grid.
inline void require_inside(const std::vector<Place>& starts, const GridSize& grid) {
    for (const Place& start : starts) {
        if (contains(grid, start)) continue;
        throw_error<UsageError>("--seed-at {},{}: outside {}", start.x, start.y, cells_of(grid));
    }
}

// Throws UsageError where the start cells are not those of a training.
inline void require_start_cells(const TrainingConfig& config) {
    const GridSize grid{config.grid(), config.grid()};
    require_inside(config.start_cells, grid);
    const std::string wrong = wrong_start_cells(config.start_cells, grid);
    if (!wrong.empty()) throw_error<UsageError>("--seed-at: {}", wrong);
}

}  // namespace nca::tool
