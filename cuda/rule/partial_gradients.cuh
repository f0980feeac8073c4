// SPDX-License-Identifier: MIT
#pragma once

// The blocks' sums of weight gradients: which weight each belongs to, and their sum.

#include "cuda/device/device.cuh"
#include "cuda/rule/model.hpp"

namespace nca::cuda {

// A weight by its tensor (w1, b1, w2, b2, as in Weights::all()) and its index there.
struct ParameterPlace {
    int tensor;
    int index;
};

// The weight whose gradient the i-th float of PartialGradients is.
__device__ inline ParameterPlace parameter_of_partial(int i) {
    constexpr int w1_end = Traits::perception * Traits::hidden;
    constexpr int w2_end = w1_end + Traits::channels * Traits::hidden;
    constexpr int b1_end = w2_end + Traits::hidden;
    if (i < w1_end) {
        const int k = i / Traits::hidden, j = i % Traits::hidden;
        return {0, j * Traits::perception + model_index_of_perception(k)};
    }
    if (i < w2_end) return {2, i - w1_end};
    if (i < b1_end) return {1, i - w2_end};
    return {3, i - b1_end};
}

using PartialSums = float[Traits::warps][Traits::warp_size];

// The sum over the blocks of the i-th float of their partial gradients, for 32 neighbouring i by a
// block of eight warps: each sums every eighth block's. The result is the first warp's. Blocks
// whose has_partial is 0 are left out; if has_partial is null, all count. Has a barrier inside.
__device__ inline float sum_of_partials(PartialSums& shared, const PartialGradients* partial,
                                        const std::uint32_t* has_partial, int blocks, int i,
                                        int slice, int lane) {
    float sum = 0;
    if (i < partial_floats) {
        const auto* first = reinterpret_cast<const float*>(partial) + i;
#pragma unroll 8
        for (int block = slice; block < blocks; block += Traits::warps) {
            if (has_partial == nullptr || has_partial[block] != 0) {
                sum += first[std::size_t(block) * partial_floats];
            }
        }
    }
    shared[slice][lane] = sum;
    __syncthreads();  // all slices are summed
    if (slice != 0) return 0;
    for (int other = 1; other < Traits::warps; ++other) sum += shared[other][lane];
    return sum;
}

}  // namespace nca::cuda
