// SPDX-License-Identifier: MIT
#pragma once

namespace nca::tool {

// In cells.
struct GridSize {
    int height = 72;
    int width = 72;
};

// Column first, as on the command line. Both count from 0, from the left and from the top.
struct Cell {
    int x = 0;
    int y = 0;

    bool operator==(const Cell&) const = default;
};

}  // namespace nca::tool
