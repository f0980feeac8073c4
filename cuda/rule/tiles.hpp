// SPDX-License-Identifier: MIT
#pragma once

// How many tiles cover a grid; those at the lower and right edge may reach beyond it.

#include "cuda/rule/model.hpp"

namespace nca::cuda {

NCA_HOST_DEVICE constexpr int tiles_down(const BatchShape& grid) {
    return (grid.height + Traits::tile_height - 1) / Traits::tile_height;
}
NCA_HOST_DEVICE constexpr int tiles_across(const BatchShape& grid) {
    return (grid.width + Traits::tile_width - 1) / Traits::tile_width;
}
// More than 2^31 would be 16 TiB of states.
NCA_HOST_DEVICE constexpr int tile_count(const BatchShape& grid) {
    return grid.batch * tiles_down(grid) * tiles_across(grid);
}

}  // namespace nca::cuda
