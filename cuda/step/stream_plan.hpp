// SPDX-License-Identifier: MIT
#pragma once

// How a grid is shared out among warps that stream (stream_forward.cu): cut into strips of columns,
// and these into segments of rows.

#include "cuda/rule/model.hpp"

namespace nca::cuda {

struct StreamPlan {
    int strips;    // of a row
    int segments;  // of a strip
    int rows;      // of a segment; the last one may have fewer
    int items;     // batch * segments * strips

    static constexpr int width = 28;    // columns of a strip; the last one may have fewer
    static constexpr int overhead = 6;  // a segment's begin and end take as long as so many rows
};

// The plan for this number of warps. It chooses the length of segments by which the busiest warp
// has the fewest rows to pass.
inline StreamPlan plan_stream(const BatchShape& grid, int warps) {
    const int strips = (grid.width + StreamPlan::width - 1) / StreamPlan::width;
    const long long columns = static_cast<long long>(grid.batch) * strips;
    StreamPlan best = {};
    long long best_rows = 0;  // that the busiest warp passes
    constexpr int fewest_rows = 4, most_tried = 256;
    for (int wanted = 1; wanted <= most_tried; ++wanted) {
        const int rows = (grid.height + wanted - 1) / wanted;
        if (wanted > 1 && rows < fewest_rows) break;
        const int segments = (grid.height + rows - 1) / rows;
        const long long items = columns * segments;
        const long long turns = (items + warps - 1) / warps;
        const long long passed = turns * (rows + StreamPlan::overhead);
        if (wanted > 1 && passed >= best_rows) continue;
        best = {strips, segments, rows, int(items)};
        best_rows = passed;
    }
    return best;
}

}  // namespace nca::cuda
