// SPDX-License-Identifier: MIT
#pragma once

// The loss of a cell, and its sums. loss.cu has the formulas.

#include "cuda/device/device.cuh"
#include "cuda/rule/model.hpp"

namespace nca::cuda {

// Adds a cell's squared error, counts it if its alpha is above the threshold, and sets the gradient
// of its visible channels.
__device__ inline void add_loss(LossPartial& sum, float4& grad, float4 x, float4 target,
                                float scale) {
    const float4 error =
        make_float4(x.x - target.x, x.y - target.y, x.z - target.z, x.w - target.w);
    grad = zero4();
    add_scaled(grad, scale, error);
    sum.squares += double(error.x) * error.x + double(error.y) * error.y +
                   double(error.z) * error.z + double(error.w) * error.w;
    sum.living += x.w > living_threshold;
}

__device__ inline LossPartial sum_of_warp(const LossPartial& own) {
    return {sum_of_warp(own.squares), sum_of_warp(own.living)};
}

// loss and living [batch] from the partial sums, in their order. Each warp of the block has every
// eighth sample.
__device__ inline void finish_losses(float* loss, float* living, const LossPartial* partial,
                                     int per_sample, const BatchShape& grid, int thread) {
    const int lane = thread % Traits::warp_size;
    const double values = double(grid.height) * grid.width * visible_channels;
    for (int sample = thread / Traits::warp_size; sample < grid.batch; sample += Traits::warps) {
        LossPartial own = {};
        for (int i = lane; i < per_sample; i += Traits::warp_size) {
            const LossPartial& part = partial[std::size_t(sample) * per_sample + i];
            own.squares += part.squares;
            own.living += part.living;
        }
        own = sum_of_warp(own);
        if (lane != 0) continue;
        loss[sample] = float(own.squares / values);
        living[sample] = float(own.living);
    }
}

}  // namespace nca::cuda
