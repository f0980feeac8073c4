// SPDX-License-Identifier: MIT
#pragma once

// What the kernels of a rollout work on: shape, rule and packed weights. Plain structs, passed to
// kernels by value, except PackedModel, which lies in device memory.

#include <nca/random.hpp>
#include <nca/rule.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "cuda/device/traits.hpp"

namespace nca::cuda {

struct BatchShape {
    int batch = 0;
    int height = 0;
    int width = 0;

    std::size_t cells() const { return std::size_t(batch) * height * width; }
    std::size_t floats() const { return cells() * Traits::channels; }
    bool operator==(const BatchShape&) const = default;
};

// Whether the cell itself (filter 0), Sobel x (1) or Sobel y (2) reads a neighbour.
NCA_HOST_DEVICE constexpr bool is_plain_tap(int filter, int tap) {
    return filter == 0 ? tap == 4 : filter == 1 ? tap % 3 != 1 : tap / 3 != 1;
}

struct StepRule {
    float filters[filter_count][9] = {};  // nca::Filter
    std::uint64_t fire_threshold = 0;     // nca::fire_threshold
    float step_size = 1;
    bool circular = false;
    bool pre_and_post = false;
    bool sobel_filters = false;  // has_sobel_filters
    bool plain_taps = false;     // the filters' taps that are not zero are is_plain_tap
};

// Whether a rule's filters are plain: the cell itself, and Sobel x and y, both times one number.
inline bool has_plain_filters(const Rule& rule) {
    constexpr int corner = 2;  // of Sobel x, to the right: sides are twice that
    const float scale = rule.filters[1][corner] / Rule{}.filters[1][corner];
    const auto scaled = [&](Filter filter) {
        for (float& value : filter) value *= scale;
        return filter;
    };
    return rule.filters[0] == Rule{}.filters[0] && rule.filters[1] == scaled(Rule{}.filters[1]) &&
           rule.filters[2] == scaled(Rule{}.filters[2]);
}

// A filter as a weighted sum of the cell itself and of Sobel x and y with corners of 1 and sides
// of 2.
struct FilterParts {
    float cell, x, y;
};
NCA_HOST_DEVICE inline FilterParts parts_of_filter(const float* filter) {
    return {filter[4], (filter[8] + filter[2]) / 2, (filter[8] - filter[2]) / 2};
}

// Whether all filters of a rule are such sums up to rounding. Plain filters are, rotated too.
inline bool has_sobel_filters(const Rule& rule) {
    for (const Filter& filter : rule.filters) {
        const auto [cell, x, y] = parts_of_filter(filter.data());
        const float sum[9] = {-x - y, -2 * y, x - y, -2 * x, cell, 2 * x, y - x, 2 * y, x + y};
        float largest = 0;
        for (const float tap : filter) largest = std::max(largest, std::abs(tap));
        for (std::size_t i = 0; i < filter.size(); ++i) {
            if (!(std::abs(filter[i] - sum[i]) <= 1e-6F * largest)) return false;
        }
    }
    return true;
}

inline StepRule step_rule(const Rule& rule) {
    StepRule result;
    result.plain_taps = true;
    for (int k = 0; k < filter_count; ++k) {
        for (int i = 0; i < 9; ++i) {
            result.filters[k][i] = rule.filters[k][i];
            if (is_plain_tap(k, i) != (rule.filters[k][i] != 0)) result.plain_taps = false;
        }
    }
    result.fire_threshold = fire_threshold(rule.fire_rate);
    result.step_size = rule.step_size;
    result.circular = rule.edges == Edges::circular;
    result.pre_and_post = rule.life == Life::pre_and_post;
    result.sobel_filters = has_sobel_filters(rule);
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

// The weights as the operands of matrix products that lanes hold (cuda/rule/mma.cuh), 16 bytes of a
// lane at a time. Going forward W1^T [perception, hidden] and W2^T [hidden, channels] are B; going
// back W1 and W2^T are A, [hidden, ..], 16 hidden units a warp, and W1 [hidden, perception] is B.
struct TensorWeights {
    alignas(16) float w1_forward[Traits::hidden / 8][Traits::perception / 16][32][4];
    float w2_forward[Traits::hidden / 16][Traits::channels / 8][32][4];
    float w1_hidden[Traits::hidden / 16][Traits::perception / 16][2][32][4];
    float w2_hidden[Traits::hidden / 16][2][32][4];
    float w1_back[Traits::hidden / 16][Traits::perception / 8][32][4];
    float b1[Traits::hidden];
    float b2[Traits::channels];  // zero where the model has none
};

// The weights as a streamed step multiplies them (stream_forward.cu), for one precision and rule.
// The operands are those of cuda/rule/operands.cuh; which channels of A and B a lane has is in
// stream_forward.cu.
struct StreamWeights {
    static constexpr int blocks = Traits::hidden / 16;  // of hidden units
    // [part]; of a block twice three B of W1, for eight hidden units each and a filter, and two of
    // W2. A lane has two words of a B.
    alignas(16) std::uint32_t operands[2][blocks][4][32][4];
    // The first values of sums, as in accumulators: a lane has two of eight columns, each twice. b2
    // is there twice, for two sets of sums.
    float b1[blocks][2][4][4];
    float b2[2][2][4][4];
    float u0[Traits::channels];  // the update of an empty cell, times the step size
    float u_factor;              // of the second product's sums: makes them step_size * u
};

// The weights as the kernels read them, and what is computed once for them and once for a rollout.
struct PackedModel {
    ForwardWeights forward;
    float w2[Traits::channels * Traits::hidden];  // [16, 128], as in the model
    TensorWeights tensor;
    StreamWeights stream;
    float u0[Traits::channels];  // W2 relu(b1) + b2: the update of an empty cell
    FireKey key;
};

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
    return float(2 / (double(grid.height) * grid.width * visible_channels * grid.batch));
}

}  // namespace nca::cuda
