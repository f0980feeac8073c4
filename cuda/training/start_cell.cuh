// SPDX-License-Identifier: MIT
#pragma once

// The grid that training starts from: empty except for the start cells.

#include "cuda/device/device.cuh"
#include "cuda/training/training_kernels.hpp"

namespace nca::cuda {

// Channels 4 q .. 4 q + 3 of a cell; piece = cell * Traits::quads + q, counted from the first cell
// of its own grid.
__device__ inline float4 start_state_piece(const StartCell& start, std::size_t piece) {
    const int cell = int(piece / Traits::quads);
    for (int i = 0; i < start.count; ++i) {
        if (start.cells[i] != cell) continue;
        const float* values = start.values + piece % Traits::quads * 4;
        return make_float4(values[0], values[1], values[2], values[3]);
    }
    return zero4();
}

}  // namespace nca::cuda
