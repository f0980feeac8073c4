// SPDX-License-Identifier: MIT
#pragma once

// The MLP of up to 64 gathered rows by a block of eight warps on tensor cores, forward and back.
//
//   forward   a = p W1^T, h = relu(a + b1), u = h W2^T
//   back      a again; grad_h = grad_u W2; grad_a = grad_h where a + b1 > 0
//             grad_W2^T += h^T grad_u, grad_W1 += grad_a^T p; grad_p = grad_a W1
//
// Rows are what the first products run along going forward and hidden units going back. Forward, a
// warp has 32 hidden units and every other 16 rows: the sums of its first product become operands
// of its second in the registers where they are, and the four warps that share rows leave a sum of
// u each, to be added in one order. Back, a warp has 16 hidden units and all rows: a and grad_h are
// [hidden, rows] and become operands of the weight gradients, again where they are. grad_a goes
// through shared memory once, because a row's grad_p is a sum over all hidden units.
//
// Weights lie in global memory as the lanes hold them (TensorWeights), and stay in registers, all
// but what grad_p is made with, which lies in shared memory.
//
// Shared memory without bank conflicts: 56, 24 and 136 floats from row to row are 24, 24 and 8 mod
// 32, so that eight bytes a lane from four rows, and four bytes from four rows of row_of_column's
// order, meet no bank twice.
// Reference: host/reference/step.hpp. Tests: tests/tensor_mlp_test.cpp.

#include "cuda/kernels.hpp"
#include "cuda/mma.cuh"

namespace nca::cuda {

struct TensorShape {
    static constexpr int rows = 64;  // that a block computes at a time
    static constexpr int p_pitch = Traits::perception + 8;
    static constexpr int u_pitch = Traits::channels + 8;
    static constexpr int hidden_pitch = Traits::hidden + 8;
    static constexpr int p_blocks = Traits::perception / 16;  // of 16 k
    static constexpr int hidden_blocks = Traits::hidden / 16;
    static constexpr int p_columns = Traits::perception / 8;  // of 8 columns
    static constexpr int u_columns = Traits::channels / 8;
    static constexpr int row_groups = rows / 16;

    // Forward.
    static constexpr int quarters = 4;  // of the hidden units
    static constexpr int quarter_columns = Traits::hidden / quarters / 8;
    static constexpr int quarter_blocks = Traits::hidden / quarters / 16;

    static_assert(Traits::warps == quarters * 2, "a quarter is that of two warps");
    static_assert(Traits::hidden == Traits::warps * 16, "going back, a warp has 16 hidden units");
    static_assert(p_columns % 2 == 0 && Traits::warps == 2 * row_groups,
                  "grad_p: a warp has 16 rows and half of the columns");
};

// Going back, the column of a product with eight rows that a row has: with the rows in this order a
// warp reads them by rows and by columns, both without bank conflicts. Its own inverse.
NCA_HOST_DEVICE constexpr int row_of_column(int column) { return column ^ column >> 2; }

// p and u of forward, [rows, ..]. Each quarter of the hidden units has a u.
struct ForwardRows {
    alignas(16) float p[TensorShape::rows * TensorShape::p_pitch];
    alignas(16) float u[TensorShape::quarters][TensorShape::rows * TensorShape::u_pitch];
};

struct BackwardRows {
    alignas(16) float w1[Traits::perception * Traits::hidden];  // TensorWeights::w1_back
    alignas(16) float p[TensorShape::rows * TensorShape::p_pitch];
    alignas(16) float grad_u[TensorShape::rows * TensorShape::u_pitch];
    alignas(16) float grad_a[TensorShape::rows * TensorShape::hidden_pitch];
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

// The eight values of a lane that are packed in two pieces.
__device__ inline void load_packed(float (&values)[8], const float (&packed)[2][32][4], int lane) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float4 four = load4(packed[half][lane]);
#pragma unroll
        for (int i = 0; i < 4; ++i) values[half * 4 + i] = element(four, i);
    }
}
template <class Arithmetic>
__device__ inline typename Arithmetic::B load_packed_b(const float* packed, int lane) {
    const float4 four = load4(packed + lane * 4);
    return Arithmetic::make_b({four.x, four.y, four.z, four.w});
}

// A warp's own weights going forward.
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

// A warp's own weights going back.
template <class Arithmetic>
struct BackwardOperands {
    typename Arithmetic::A w1[TensorShape::p_blocks];  // [hidden, perception]
    typename Arithmetic::KeptA w2;                     // [hidden, channels]
    float b1[2];                                       // of hidden units lane / 4 and 8 behind it
};

template <class Arithmetic>
__device__ inline BackwardOperands<Arithmetic> load_backward_operands(const TensorWeights& weights,
                                                                      int warp, int lane) {
    BackwardOperands<Arithmetic> own;
    float values[8];
#pragma unroll
    for (int k = 0; k < TensorShape::p_blocks; ++k) {
        load_packed(values, weights.w1_hidden[warp][k], lane);
        own.w1[k] = Arithmetic::make_a(values);
    }
    load_packed(values, weights.w2_hidden[warp], lane);
    own.w2 = Arithmetic::keep_a(values);
    own.b1[0] = weights.b1[warp * 16 + lane / 4];
    own.b1[1] = weights.b1[warp * 16 + lane / 4 + 8];
    return own;
}

// A lane's part of its warp's weight gradients.
struct TensorSums {
    Accumulator w1[TensorShape::p_columns];  // [hidden, perception]
    Accumulator w2[TensorShape::u_columns];  // [hidden, channels]
    float b1[2];                             // hidden units lane / 4 and 8 behind it, some rows
    float b2[TensorShape::u_columns];        // channel 8 i + lane / 4, some rows
};

// Adds the weight gradients of count rows to sums, from p and grad_u, of which the rows from count
// to the next multiple of 16 are zero; writes grad_a. count > 0.
template <class Arithmetic>
__device__ inline void tensor_weight_gradients(TensorSums& sums, BackwardRows& rows,
                                               const BackwardOperands<Arithmetic>& own, int count,
                                               int warp, int lane) {
    using Shape = TensorShape;
    Accumulator w1[Shape::p_columns] = {}, w2[Shape::u_columns] = {};
    float b1[2] = {};
#pragma unroll 1
    for (int first = 0; first < count; first += 16) {
        float h[8], grad_a[8];
#pragma unroll
        for (int eight = 0; eight < 2; ++eight) {
            const int row = first + eight * 8 + row_of_column(b_column(lane));
            Accumulator a = {}, grad_h = {};
            float values[4];
#pragma unroll
            for (int k = 0; k < Shape::p_blocks; ++k) {
                load_pairs(values, rows.p + row * Shape::p_pitch + k * 16, lane);
                Arithmetic::multiply(a, own.w1[k], Arithmetic::make_b(values));
            }
            load_pairs(values, rows.grad_u + row * Shape::u_pitch, lane);
            Arithmetic::multiply(grad_h, Arithmetic::open_a(own.w2), Arithmetic::make_b(values));
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                // A hidden unit that is off passes nothing on, in either direction.
                const float sum = a.sums[i] + own.b1[i / 2];
                const bool on = sum > 0;
                h[eight * 4 + i] = on ? sum : 0.0F;
                const float grad = on ? grad_h.sums[i] : 0.0F;
                grad_a[eight * 4 + i] = grad;
                b1[i / 2] += grad;
                const int to = first + eight * 8 + row_of_column(c_column(lane, i));
                rows.grad_a[to * Shape::hidden_pitch + warp * 16 + c_row(lane, i)] = grad;
            }
        }
        const auto h_operand = Arithmetic::make_a(h);
        const auto grad_a_operand = Arithmetic::make_a(grad_a);
        int from[4];  // the rows of a B whose k are rows
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            from[i] = first + (i & 2 ? 8 : 0) + row_of_column(b_k(lane, i) % 8);
        }
#pragma unroll
        for (int j = 0; j < Shape::u_columns; ++j) {
            float values[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                values[i] = rows.grad_u[from[i] * Shape::u_pitch + j * 8 + b_column(lane)];
                sums.b2[j] += values[i];
            }
            Arithmetic::multiply(w2[j], h_operand, Arithmetic::make_b(values));
        }
#pragma unroll
        for (int j = 0; j < Shape::p_columns; ++j) {
            float values[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                values[i] = rows.p[from[i] * Shape::p_pitch + j * 8 + b_column(lane)];
            }
            Arithmetic::multiply(w1[j], grad_a_operand, Arithmetic::make_b(values));
        }
    }
    // Sums over many steps are rounded to nearest, here.
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < Shape::p_columns; ++j) {
            sums.w1[j].sums[i] += w1[j].sums[i];
        }
#pragma unroll
        for (int j = 0; j < Shape::u_columns; ++j) {
            sums.w2[j].sums[i] += w2[j].sums[i];
        }
    }
    sums.b1[0] += b1[0];
    sums.b1[1] += b1[1];
}

// grad_p of 16 rows and half of the columns by a warp, from grad_a: store(row, column, two values).
template <class Arithmetic, class Store>
__device__ inline void tensor_grad_p(const BackwardRows& rows, int count, int warp, int lane,
                                     Store store) {
    using Shape = TensorShape;
    constexpr int columns = Shape::p_columns / 2;
    const int first = warp % Shape::row_groups * 16, half = warp / Shape::row_groups;
    if (first >= count) return;
    Accumulator grad_p[columns] = {};
#pragma unroll 2
    for (int k = 0; k < Shape::hidden_blocks; ++k) {
        const auto grad_a = load_a<Arithmetic>(rows.grad_a + first * Shape::hidden_pitch + k * 16,
                                               Shape::hidden_pitch, lane);
#pragma unroll
        for (int j = 0; j < columns; ++j) {
            const int block = k * Shape::p_columns + half * columns + j;
            Arithmetic::multiply(grad_p[j], grad_a,
                                 load_packed_b<Arithmetic>(rows.w1 + block * 128, lane));
        }
    }
#pragma unroll
    for (int j = 0; j < columns; ++j) {
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
            store(first + c_row(lane, i), (half * columns + j) * 8 + c_column(lane, i),
                  make_float2(grad_p[j].sums[i], grad_p[j].sums[i + 1]));
        }
    }
}

// W1 as grad_p is made with it. There after wait_for_copies and a barrier.
__device__ inline void load_w1_back(BackwardRows& rows, const TensorWeights& weights, int thread) {
    const float* from = weights.w1_back[0][0][0];
    for (int i = thread; i < Traits::perception * Traits::hidden / 4; i += Traits::threads) {
        copy_async(rows.w1 + i * 4, from + i * 4);
    }
}

// Adds the warps' sums to the block's, or overwrites those.
__device__ inline void write_tensor_sums(PartialGradients& partial, const TensorSums& sums,
                                         bool overwrite, int warp, int lane) {
    const auto add = [&](float& to, float sum) { to = overwrite ? sum : to + sum; };
    const int hidden = warp * 16;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = hidden + c_row(lane, i), column = c_column(lane, i);
#pragma unroll
        for (int j = 0; j < TensorShape::p_columns; ++j) {
            add(partial.w1[(j * 8 + column) * Traits::hidden + row], sums.w1[j].sums[i]);
        }
#pragma unroll
        for (int j = 0; j < TensorShape::u_columns; ++j) {
            add(partial.w2[(j * 8 + column) * Traits::hidden + row], sums.w2[j].sums[i]);
        }
    }
    // The four lanes of a group have summed different rows.
    const auto sum_of_group = [](float own) {
        own += __shfl_xor_sync(0xffffffffU, own, 1);
        return own + __shfl_xor_sync(0xffffffffU, own, 2);
    };
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float b1 = sum_of_group(sums.b1[i]), b2 = sum_of_group(sums.b2[i]);
        if (lane % 4 != 0) continue;
        add(partial.b1[hidden + lane / 4 + i * 8], b1);
        if (warp == 0) add(partial.b2[i * 8 + lane / 4], b2);
    }
}

}  // namespace nca::cuda
