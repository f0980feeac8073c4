// SPDX-License-Identifier: MIT
#pragma once

// The start cells of a training, as texts and checked.

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>

#include "host/core/grid.hpp"

namespace nca {

// "36,20 and 4,8", each the column and the row, at most so many of them. "the middle" where there
// are none.
inline std::string start_cells_text(std::span<const Place> cells,
                                    std::size_t most = most_start_cells) {
    if (cells.empty()) return "the middle";
    std::string text;
    const std::size_t shown = std::min(cells.size(), most);
    for (std::size_t i = 0; i < shown; ++i) {
        const bool last = i + 1 == cells.size();
        text += fmt::format("{}{},{}", i == 0 ? "" : last ? " and " : ", ", cells[i].x, cells[i].y);
    }
    return shown < cells.size() ? text + fmt::format(" and {} more", cells.size() - shown) : text;
}

// What is wrong with the start cells of such a grid; empty: nothing.
inline std::string wrong_start_cells(std::span<const Place> cells, const GridSize& grid) {
    if (cells.size() > most_start_cells) {
        return fmt::format("{} start cells: expected at most {}", cells.size(), most_start_cells);
    }
    for (auto cell = cells.begin(); cell != cells.end(); ++cell) {
        if (!contains(grid, *cell)) {
            return fmt::format(
                "the start cell in column {} and row {} is outside the grid of {}x{} cells, whose "
                "columns and rows count from 0",
                cell->x, cell->y, grid.height, grid.width);
        }
        if (std::find(cells.begin(), cell, *cell) != cell) {
            return fmt::format("the start cell in column {} and row {} is given twice", cell->x,
                               cell->y);
        }
    }
    return {};
}

}  // namespace nca
