// SPDX-License-Identifier: MIT
#pragma once

// Products that the way back in bands and the one by steps share, by a warp with 16 hidden units.
// cuda/step/mlp_backward_tensor.cuh has the formulas.

#include "cuda/rule/operands.cuh"

namespace nca::cuda {

// A lane's part of its warp's weight gradients.
struct TensorSums {
    Accumulator w1[Traits::perception / 8];  // [hidden, perception]
    Accumulator w2[Traits::channels / 8];    // [hidden, channels]
    float b1[2];                             // of units lane / 4 and 8 behind it, some rows
};

// h and grad_a of 16 hidden units and 16 rows as operands A, from their sums a and grad_h; adds
// grad_a to the units' sums. A unit that is off passes nothing on, forward or back.
template <int parts>
__device__ inline void make_hidden(std::uint32_t (&h)[parts][4], std::uint32_t (&grad_a)[parts][4],
                                   float (&sum)[2], const Accumulator (&a)[2],
                                   const Accumulator (&grad_h)[2]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float* const two = a[i / 2].sums + i % 2 * 2;
        const float* const grads = grad_h[i / 2].sums + i % 2 * 2;
        std::uint32_t pair[parts];
        make_parts<parts>(pair, fmaxf(two[0], 0.0F), fmaxf(two[1], 0.0F));
#pragma unroll
        for (int part = 0; part < parts; ++part) h[part][i] = pair[part];
        const float low = (pair[0] & 0xffffU) != 0 ? grads[0] : 0.0F;
        const float high = (pair[0] & 0xffff0000U) != 0 ? grads[1] : 0.0F;
        sum[i % 2] += low + high;
        make_parts<parts>(pair, low, high);
#pragma unroll
        for (int part = 0; part < parts; ++part) grad_a[part][i] = pair[part];
    }
}

// Adds 16 rows' part of W1's gradient, [hidden, perception], of 16 hidden units. A lane's places in
// grad_a (rows_of_halves) and in p (halves_of_rows) in shared memory; the second part of each lies
// so many bytes behind the first.
template <int parts>
__device__ inline void add_w1_rows(Accumulator (&w1)[Traits::perception / 8],
                                   const unsigned char* grad_a_rows, int grad_a_bytes,
                                   const unsigned char* p_rows, int p_bytes) {
    std::uint32_t grad_a[parts][4];
#pragma unroll
    for (int part = 0; part < parts; ++part) {
        load_matrices_transposed(grad_a[part], grad_a_rows + part * grad_a_bytes);
    }
#pragma unroll
    for (int k = 0; k < OperandTraits::p_blocks; ++k) {
        std::uint32_t b[2][parts][2];
        load_b<parts, true>(b, p_rows + k * 32, p_bytes);
#pragma unroll
        for (int j = 0; j < 2; ++j) multiply<parts>(w1[2 * k + j], grad_a, b[j]);
    }
}

}  // namespace nca::cuda
