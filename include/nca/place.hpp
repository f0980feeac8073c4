// SPDX-License-Identifier: MIT
#pragma once

namespace nca {

/// A cell of a grid.
struct Place {
    int y = 0;  ///< its row, counted from 0, from the top
    int x = 0;  ///< its column, counted from 0, from the left

    /// Whether it is the same cell.
    bool operator==(const Place&) const = default;
};

/// How many start cells a training may have.
inline constexpr int most_start_cells = 64;

}  // namespace nca
