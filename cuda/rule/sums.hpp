// SPDX-License-Identifier: MIT
#pragma once

// What the blocks of a rollout leave behind, to be added up in the order of blocks.

#include "cuda/rule/model.hpp"

namespace nca::cuda {

// Sums of weight gradients of one block, in the kernels' order. 33 KiB.
struct PartialGradients {
    float w1[Traits::perception * Traits::hidden];  // [48, 128]
    float w2[Traits::channels * Traits::hidden];    // [16, 128]
    float b1[Traits::hidden];
    float b2[Traits::channels];
};
inline constexpr int partial_floats = sizeof(PartialGradients) / sizeof(float);

// Of the loss, over the cells of one block.
struct LossPartial {
    double squares;
    long long living;
};
// 2 / (height * width * 4 * batch)
inline float loss_scale(const BatchShape& grid) {
    return static_cast<float>(2 /
                              (double(grid.height) * grid.width * visible_channels * grid.batch));
}

}  // namespace nca::cuda
