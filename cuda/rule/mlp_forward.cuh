// SPDX-License-Identifier: MIT
#pragma once

// The MLP of eight rows by one warp: u = W2 relu(W1 p + b1) + b2.
//
// First GEMM, [8, 48] x [48, 128]: a thread holds 4 rows x 8 hidden units in registers. For four
// values of k it reads 4 x 16 bytes of p and 8 x 16 bytes of w1 for 128 multiply-adds, and no two
// lanes want different words of one bank.
// Second GEMM, [8, 128] x [128, 16], in two halves of 64 hidden units: h goes through 2 KiB of the
// warp's own shared memory; a thread holds 4 rows x 4 channels and every fourth hidden unit, and
// three exchanges of shuffles at the end leave each lane with four channels of one row.

#include "cuda/device/device.cuh"
#include "cuda/rule/model.hpp"

namespace nca::cuda {

// Floats of shared memory that a warp needs: p [8, p_pitch], and then [64, 8] of h in its place.
inline constexpr int mlp_forward_scratch = 64 * Traits::forward_rows;
static_assert(mlp_forward_scratch >= Traits::forward_rows * Traits::p_pitch);

// Which result a lane ends up with.
__device__ inline int forward_row_of(int lane) {
    return (lane >> 2 & 1) * 4 + (lane >> 4 & 1) * 2 + (lane >> 3 & 1);
}
__device__ inline int forward_quad_of(int lane) { return lane & 3; }

// scratch holds p when it is called, visible to the whole warp, and is overwritten. Returns u of
// row forward_row_of(lane), channels forward_quad_of(lane) * 4 and the three behind it.
__device__ inline float4 mlp_forward_rows(const ForwardWeights& weights, float* scratch, int lane) {
    constexpr int half = Traits::hidden / 2;
    const int row_group = lane & 1;      // rows 4 * row_group ..
    const int hidden_group = lane >> 1;  // hidden units 4 * hidden_group .., and 64 behind them

    float4 a[4][2];  // [row, half]
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        a[r][0] = load4(weights.b1 + hidden_group * 4);
        a[r][1] = load4(weights.b1 + half + hidden_group * 4);
    }
#pragma unroll 1
    for (int k = 0; k < Traits::perception; k += 4) {
        float4 p[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            p[r] = load4(scratch + (row_group * 4 + r) * Traits::p_pitch + k);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float* w1 = weights.w1 + (k + i) * Traits::hidden + hidden_group * 4;
            const float4 first = load4(w1), second = load4(w1 + half);
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                add_scaled(a[r][0], element(p[r], i), first);
                add_scaled(a[r][1], element(p[r], i), second);
            }
        }
    }

    const int slice = lane >> 3;             // of the hidden units: every fourth
    const int out_group = lane >> 2 & 1;     // rows 4 * out_group ..
    const int quad = forward_quad_of(lane);  // of the channels
    float4 u[4] = {zero4(), zero4(), zero4(), zero4()};
#pragma unroll
    for (int side = 0; side < 2; ++side) {
        __syncwarp();  // everybody has read p, or the first half of h
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float4 h;
            h.x = element(a[0][side], i) > 0 ? element(a[0][side], i) : 0.0F;
            h.y = element(a[1][side], i) > 0 ? element(a[1][side], i) : 0.0F;
            h.z = element(a[2][side], i) > 0 ? element(a[2][side], i) : 0.0F;
            h.w = element(a[3][side], i) > 0 ? element(a[3][side], i) : 0.0F;
            store4(scratch + (i * 16 + hidden_group) * Traits::forward_rows + row_group * 4, h);
        }
        __syncwarp();  // this half of h is whole
#pragma unroll 2
        for (int j = 0; j < half / 4; ++j) {
            const int row = j * 4 + slice;
            const float4 h = load4(scratch + row * Traits::forward_rows + out_group * 4);
            const float4 w2 = load4(weights.w2 + (side * half + row) * Traits::channels + quad * 4);
#pragma unroll
            for (int r = 0; r < 4; ++r) add_scaled(u[r], element(h, r), w2);
        }
    }

    // Sum the four slices; each exchange halves what a lane holds.
    const bool upper = lane & 16;
    const float4 first = sum_of_halves(upper ? u[2] : u[0], upper ? u[0] : u[2], 16);
    const float4 second = sum_of_halves(upper ? u[3] : u[1], upper ? u[1] : u[3], 16);
    const bool odd = lane & 8;
    float4 result = sum_of_halves(odd ? second : first, odd ? first : second, 8);
    add_scaled(result, 1, load4(weights.b2 + quad * 4));
    return result;
}

}  // namespace nca::cuda
