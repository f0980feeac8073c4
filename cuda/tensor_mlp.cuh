// SPDX-License-Identifier: MIT
#pragma once

// The MLP of up to 64 gathered rows by a block of eight warps on tensor cores, going forward:
//
//   a = p W1^T, h = relu(a + b1), u = h W2^T
//
// Rows are what the products run along. A warp has 32 hidden units and every other 16 rows: the
// sums of its first product become operands of its second in the registers where they are, and the
// four warps that share rows leave a sum of u each, to be added in one order.
//
// Weights lie in global memory as the lanes hold them (TensorWeights), and stay in registers.
//
// Shared memory without bank conflicts: 56 and 24 floats from row to row are 24 mod 32, so that
// eight bytes a lane from four rows meet no bank twice.
// Reference: host/reference/step.hpp. Tests: tests/tensor_mlp_test.cpp.

#include "cuda/kernels.hpp"
#include "cuda/mma.cuh"

namespace nca::cuda {

struct TensorShape {
    static constexpr int rows = 64;  // that a block computes at a time
    static constexpr int p_pitch = Traits::perception + 8;
    static constexpr int u_pitch = Traits::channels + 8;
    static constexpr int p_blocks = Traits::perception / 16;  // of 16 k
    static constexpr int u_columns = Traits::channels / 8;    // of 8 columns
    static constexpr int quarters = 4;                        // of the hidden units
    static constexpr int quarter_columns = Traits::hidden / quarters / 8;
    static constexpr int quarter_blocks = Traits::hidden / quarters / 16;

    static_assert(Traits::warps == quarters * 2, "a quarter is that of two warps");
};

// p and u, [rows, ..]. Each quarter of the hidden units has a u.
struct ForwardRows {
    alignas(16) float p[TensorShape::rows * TensorShape::p_pitch];
    alignas(16) float u[TensorShape::quarters][TensorShape::rows * TensorShape::u_pitch];
};

// Four floats of a lane from a row: those at k and k + 1, k + 8 and k + 9.
__device__ inline void load_pairs(float (&values)[4], const float* row, int lane) {
    const auto* pairs = reinterpret_cast<const float2*>(row) + lane % 4;
    const float2 first = pairs[0], second = pairs[4];
    values[0] = first.x;
    values[1] = first.y;
    values[2] = second.x;
    values[3] = second.y;
}

// A of 16 rows [rows, 16] that lie pitch floats apart.
template <class Arithmetic>
__device__ inline typename Arithmetic::A load_a(const float* rows, int pitch, int lane) {
    float upper[4], lower[4];
    load_pairs(upper, rows + lane / 4 * pitch, lane);
    load_pairs(lower, rows + (lane / 4 + 8) * pitch, lane);
    return Arithmetic::make_a(
        {upper[0], upper[1], lower[0], lower[1], upper[2], upper[3], lower[2], lower[3]});
}

template <class Arithmetic>
__device__ inline typename Arithmetic::B load_packed_b(const float* packed, int lane) {
    const float4 four = load4(packed + lane * 4);
    return Arithmetic::make_b({four.x, four.y, four.z, four.w});
}

// A warp's own weights.
template <class Arithmetic>
struct ForwardOperands {
    typename Arithmetic::B w1[TensorShape::quarter_columns][TensorShape::p_blocks];
    typename Arithmetic::B w2[TensorShape::quarter_blocks][TensorShape::u_columns];
    float2 b1[TensorShape::quarter_columns];
};

template <class Arithmetic>
__device__ inline ForwardOperands<Arithmetic> load_forward_operands(const TensorWeights& weights,
                                                                    int warp, int lane) {
    using Shape = TensorShape;
    const int quarter = warp % Shape::quarters;
    ForwardOperands<Arithmetic> own;
#pragma unroll
    for (int j = 0; j < Shape::quarter_columns; ++j) {
        const int column = quarter * Shape::quarter_columns + j;
#pragma unroll
        for (int k = 0; k < Shape::p_blocks; ++k) {
            own.w1[j][k] = load_packed_b<Arithmetic>(weights.w1_forward[column][k][0], lane);
        }
        own.b1[j] = *reinterpret_cast<const float2*>(weights.b1 + column * 8 + lane % 4 * 2);
    }
#pragma unroll
    for (int k = 0; k < Shape::quarter_blocks; ++k) {
#pragma unroll
        for (int j = 0; j < Shape::u_columns; ++j) {
            own.w2[k][j] = load_packed_b<Arithmetic>(
                weights.w2_forward[quarter * Shape::quarter_blocks + k][j][0], lane);
        }
    }
    return own;
}

// u of the rows from p, a sum for each quarter. Visible to the block after a barrier.
template <class Arithmetic>
__device__ inline void tensor_forward(ForwardRows& rows, const ForwardOperands<Arithmetic>& own,
                                      int count, int warp, int lane) {
    using Shape = TensorShape;
    float* const to = rows.u[warp % Shape::quarters];
#pragma unroll 1
    for (int first = warp / Shape::quarters * 16; first < count && first < Shape::rows;
         first += 32) {
        Accumulator a[Shape::quarter_columns] = {};
#pragma unroll
        for (int k = 0; k < Shape::p_blocks; ++k) {
            const auto p =
                load_a<Arithmetic>(rows.p + first * Shape::p_pitch + k * 16, Shape::p_pitch, lane);
#pragma unroll
            for (int j = 0; j < Shape::quarter_columns; ++j) {
                Arithmetic::multiply(a[j], p, own.w1[j][k]);
            }
        }
        Accumulator u[Shape::u_columns] = {};
#pragma unroll
        for (int k = 0; k < Shape::quarter_blocks; ++k) {
            float h[8];
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const int j = 2 * k + i / 4;
                const float sum = a[j].sums[i % 4] + (i % 2 == 0 ? own.b1[j].x : own.b1[j].y);
                h[i] = sum > 0 ? sum : 0.0F;
            }
            const auto h_operand = Arithmetic::make_a(h);
#pragma unroll
            for (int j = 0; j < Shape::u_columns; ++j) {
                Arithmetic::multiply(u[j], h_operand, own.w2[k][j]);
            }
        }
#pragma unroll
        for (int j = 0; j < Shape::u_columns; ++j) {
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                *reinterpret_cast<float2*>(to + (first + c_row(lane, i)) * Shape::u_pitch + j * 8 +
                                           c_column(lane, i)) =
                    make_float2(u[j].sums[i], u[j].sums[i + 1]);
            }
        }
    }
}

// Four channels of a row's u: the quarters' sums in order, and b2.
__device__ inline float4 finished_u(const ForwardRows& rows, const TensorWeights& weights, int row,
                                    int quad) {
    float4 u = load4(rows.u[0] + row * TensorShape::u_pitch + quad * 4);
#pragma unroll
    for (int quarter = 1; quarter < TensorShape::quarters; ++quarter) {
        add_scaled(u, 1, load4(rows.u[quarter] + row * TensorShape::u_pitch + quad * 4));
    }
    add_scaled(u, 1, load4(weights.b2 + quad * 4));
    return u;
}

// u0 by the very code that computes every other row, so that skipping such rows changes no bit.
// Ends with a barrier.
template <class Arithmetic>
__device__ inline void compute_u0(float* u0, ForwardRows& rows,
                                  const ForwardOperands<Arithmetic>& own,
                                  const TensorWeights& weights, int thread) {
    constexpr int count = 1, read = 16;  // rows that are read for one
    for (int i = thread; i < read * TensorShape::p_pitch; i += Traits::threads) rows.p[i] = 0;
    __syncthreads();  // p is zero
    tensor_forward<Arithmetic>(rows, own, count, thread / Traits::warp_size,
                               thread % Traits::warp_size);
    __syncthreads();  // the quarters are there
    if (thread < Traits::quads) store4(u0 + thread * 4, finished_u(rows, weights, 0, thread));
    __syncthreads();  // u0 is there
}

}  // namespace nca::cuda
