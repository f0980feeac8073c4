// SPDX-License-Identifier: MIT
#pragma once

// Where a weight lies among the operands of the tensor cores' products (TensorWeights).

#include <nca/weights.hpp>

#include "cuda/rule/mma.cuh"
#include "cuda/rule/model.hpp"

namespace nca::cuda {

// Of a 16 x 8 block of B and a 16 x 16 block of A: the lane that has an element, and which of its
// values that is. The inverses of b_k, b_column, a_row and a_k.
NCA_HOST_DEVICE constexpr int b_lane(int k, int column) { return column % 8 * 4 + k % 8 / 2; }
NCA_HOST_DEVICE constexpr int b_value(int k) { return k % 2 + (k % 16 < 8 ? 0 : 2); }
NCA_HOST_DEVICE constexpr int a_lane(int row, int k) { return row % 8 * 4 + k % 8 / 2; }
NCA_HOST_DEVICE constexpr int a_value(int row, int k) {
    return k % 2 + (row % 16 < 8 ? 0 : 2) + (k % 16 < 8 ? 0 : 4);
}

// Puts the i-th parameter of Weights::all() to all its places.
__device__ inline void store_packed(TensorWeights& to, int i, float value) {
    constexpr int b1 = int(w1_size), w2 = b1 + int(b1_size), b2 = w2 + int(w2_size);
    if (i < b1) {
        const int hidden = i / Traits::perception;
        const int k = kernel_index_of_perception(i % Traits::perception);
        const int a = a_value(hidden, k);
        to.w1_forward[hidden / 8][k / 16][b_lane(k, hidden)][b_value(k)] = value;
        to.w1_hidden[hidden / 16][k / 16][a / 4][a_lane(hidden, k)][a % 4] = value;
        to.w1_back[hidden / 16][k / 8][b_lane(hidden, k)][b_value(hidden)] = value;
    } else if (i < w2) {
        to.b1[i - b1] = value;
    } else if (i < b2) {
        const int channel = (i - w2) / Traits::hidden, hidden = (i - w2) % Traits::hidden;
        const int a = a_value(hidden, channel);
        to.w2_forward[hidden / 16][channel / 8][b_lane(hidden, channel)][b_value(hidden)] = value;
        to.w2_hidden[hidden / 16][a / 4][a_lane(hidden, channel)][a % 4] = value;
    } else {
        to.b2[i - b2] = value;
    }
}

}  // namespace nca::cuda
