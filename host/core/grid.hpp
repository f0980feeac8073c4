// SPDX-License-Identifier: MIT
#pragma once

namespace nca {

struct GridSize {  // in cells
    int height = 72;
    int width = 72;
};

// Of a cell in its grid, counted from 0.
struct Place {
    int y = 0;  // row, from the top
    int x = 0;  // column, from the left

    bool operator==(const Place&) const = default;
};

}  // namespace nca
