// SPDX-License-Identifier: MIT
#pragma once

// What the kernels of a rollout are told: grid, rule and packed weights. Plain structs, passed to
// kernels by value, except PackedModel, which lies in device memory.

#include <nca/random.hpp>
#include <nca/rule.hpp>

#include <cstddef>
#include <cstdint>

#include "cuda/traits.hpp"

namespace nca::cuda {

struct Grid {
    int batch = 0;
    int height = 0;
    int width = 0;

    std::size_t cells() const { return std::size_t(batch) * height * width; }
    std::size_t floats() const { return cells() * Traits::channels; }
    bool operator==(const Grid&) const = default;
};

// Whether a filter reads a neighbour where filters are the cell itself and Sobel x and y.
NCA_HOST_DEVICE constexpr bool is_plain_tap(int filter, int tap) {
    return filter == 0 ? tap == 4 : filter == 1 ? tap % 3 != 1 : tap / 3 != 1;
}

struct StepRule {
    float filters[filter_count][9] = {};  // nca::Filter
    std::uint64_t fire_threshold = 0;     // nca::fire_threshold
    float step_size = 1;
    bool circular = false;
    bool pre_and_post = false;
    bool plain_taps = false;  // no filter reads anything else (is_plain_tap)
};

inline StepRule step_rule(const Rule& rule) {
    StepRule result;
    result.plain_taps = true;
    for (int k = 0; k < filter_count; ++k) {
        for (int i = 0; i < 9; ++i) {
            result.filters[k][i] = rule.filters[k][i];
            if (!is_plain_tap(k, i) && rule.filters[k][i] != 0) result.plain_taps = false;
        }
    }
    result.fire_threshold = fire_threshold(rule.fire_rate);
    result.step_size = rule.step_size;
    result.circular = rule.edges == Edges::circular;
    result.pre_and_post = rule.life == Life::pre_and_post;
    return result;
}

// Perception in the kernels' order: index filter * channels + channel, not channel * 3 + filter as
// in the model, so that four channels of one filter are 16 bytes.
NCA_HOST_DEVICE constexpr int model_index_of_perception(int kernel_index) {
    return kernel_index % Traits::channels * filter_count + kernel_index / Traits::channels;
}

NCA_HOST_DEVICE constexpr int kernel_index_of_perception(int model_index) {
    return model_index % filter_count * Traits::channels + model_index / filter_count;
}

// What going forward needs in shared memory. Copied there as one piece.
struct ForwardWeights {
    alignas(16) float w1[Traits::perception * Traits::hidden];  // [48, 128]
    float w2[Traits::hidden * Traits::channels];  // [128, 16], rows as hidden_unit_of_row
    float b1[Traits::hidden];
    float b2[Traits::channels];  // zero where the model has none
};

// The 128 rows of ForwardWeights::w2: the second GEMM of mlp_forward reads hidden units in the
// order in which the first one's threads write them without bank conflicts.
NCA_HOST_DEVICE constexpr int hidden_unit_of_row(int row) {
    return row / 64 * 64 + row % 16 * 4 + row % 64 / 16;
}

// The weights as the operands of matrix products that lanes hold (cuda/mma.cuh), 16 bytes of a lane
// at a time. Going forward W1^T [perception, hidden] and W2^T [hidden, channels] are B; going back
// W1 and W2^T are A, [hidden, ..], 16 hidden units a warp, and W1 [hidden, perception] is B.
struct TensorWeights {
    alignas(16) float w1_forward[Traits::hidden / 8][Traits::perception / 16][32][4];
    float w2_forward[Traits::hidden / 16][Traits::channels / 8][32][4];
    float w1_hidden[Traits::hidden / 16][Traits::perception / 16][2][32][4];
    float w2_hidden[Traits::hidden / 16][2][32][4];
    float w1_back[Traits::hidden / 16][Traits::perception / 8][32][4];
    float b1[Traits::hidden];
    float b2[Traits::channels];  // zero where the model has none
};

// The weights as the kernels read them, and what is computed once for them and once for a rollout.
struct PackedModel {
    ForwardWeights forward;
    float w2[Traits::channels * Traits::hidden];  // [16, 128], as in the model
    TensorWeights tensor;
    float u0[Traits::channels];  // W2 relu(b1) + b2: u of an empty neighbourhood
    FireKey key;
};

}  // namespace nca::cuda
