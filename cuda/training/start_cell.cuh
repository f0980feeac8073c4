// SPDX-License-Identifier: MIT
#pragma once

// The grid that training starts from: empty except for the rule's start cell at its middle,
// (height / 2, width / 2).

#include "cuda/device/device.cuh"
#include "cuda/training/training_kernels.hpp"

namespace nca::cuda {

// Channels 4 q .. 4 q + 3 of a cell; piece = cell * Traits::quads + q, counted from the first cell
// of its own grid.
__device__ inline float4 start_state_piece(const StartCell& start, const BatchShape& grid,
                                           std::size_t piece) {
    const std::size_t middle = std::size_t(grid.height / 2) * grid.width + grid.width / 2;
    if (piece / Traits::quads != middle) return zero4();
    const float* values = start.values + piece % Traits::quads * 4;
    return make_float4(values[0], values[1], values[2], values[3]);
}

}  // namespace nca::cuda
