// SPDX-License-Identifier: MIT
#pragma once

namespace nca::tool {

// In cells.
struct GridSize {
    int height = 72;
    int width = 72;
};

// A cell's place, counted from 0. On the command line the column comes first.
struct Place {
    int y = 0;  // row, from the top
    int x = 0;  // column, from the left

    bool operator==(const Place&) const = default;
};

}  // namespace nca::tool
