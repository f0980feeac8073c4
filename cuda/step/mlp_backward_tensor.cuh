// SPDX-License-Identifier: MIT
#pragma once

// The MLP of gathered rows going back, by a block of eight warps on tensor cores:
//
//   a again, h = relu(a); grad_h = grad_u W2; grad_a = grad_h where a > 0
//   grad_W2^T += h^T grad_u, grad_W1 += grad_a^T p; grad_p = grad_a W1
//
// in operands of fp16 (cuda/rule/operands.cuh). Those of the gradients are
//
//   grad_u' = grad_u g         g: the largest of the rows in [2^7, 2^8)
//   grad_a' = W2' grad_u' = grad_a g 2^w2, below 2^15
//
// A warp has 16 hidden units and all rows: a and grad_h are [hidden, rows] and become operands of
// W2's gradient in the registers where they are. grad_a goes through shared memory, because a row's
// grad_p is a sum over all hidden units. A warp keeps its weight gradients for the block's life;
// those of a chunk of rows are summed by themselves, have the powers of two taken out, and are
// added in float32, rounded to nearest.
//
// The phases are called in this order: store_p and store_grad_u, barrier, multiply_rows, barrier,
// add_w1 and compute_grad_p, barrier.
// Reference: host/reference/step.hpp. Tests: tests/tensor_backward_test.cpp.

#include "cuda/rule/model.hpp"
#include "cuda/rule/perceive.cuh"
#include "cuda/rule/products_backward.cuh"

namespace nca::cuda {

template <int parts>
struct BackwardRows {
    // That go through the MLP at a time. In one part all that a tile can have.
    static constexpr int most = parts == 2 ? 64 : Traits::tile_cells;
    // That a warp multiplies at once: as many independent products as there are registers for.
    static constexpr int at_once = parts == 2 ? 16 : 32;
    static constexpr int p_bytes = most * OperandTraits::p_pitch;
    static constexpr int grad_u_bytes = most * OperandTraits::grad_u_pitch;
    static constexpr int grad_a_bytes = most * OperandTraits::grad_a_pitch;

    alignas(16) unsigned char p[parts * p_bytes];
    alignas(16) unsigned char grad_u[parts * grad_u_bytes];
    alignas(16) unsigned char grad_a[parts * grad_a_bytes];
    // W1 in blocks of 8 hidden units by 8 perceptions, which lie in 128 bytes: read by rows it is
    // the operand A of a, and by columns the operand B of grad_p.
    static constexpr int block_bytes = 128;
    static constexpr int blocks_across = Traits::perception / 8;
    static constexpr int row_of_blocks = blocks_across * block_bytes;
    static constexpr int w1_bytes = Traits::hidden / 8 * row_of_blocks;
    alignas(128) unsigned char w1[parts * w1_bytes];
    alignas(16) float b2[Traits::warps][Traits::channels];  // each warp's sums; zero at first
};

// Powers of two of a chunk of rows.
struct ChunkScale {
    float f, g;
};

// f of rows whose largest perception is as given.
__device__ inline float scale_of_rows(const WeightScales& weights, float largest_p) {
    const std::uint32_t magnitude = __float_as_uint(largest_p * weights.sum + weights.bias) >> 23;
    return operand_scale(magnitude > smallest_magnitude ? magnitude : smallest_magnitude);
}
// g of rows whose largest gradient is as given; 1 where that is nothing or infinite.
__device__ inline float scale_of_gradients(float largest) {
    constexpr int wanted = 7;
    const auto biased = int(__float_as_uint(largest) >> 23);
    if (biased == 0 || biased == 255) return 1;
    const int exponent = wanted + 127 - biased;
    return power_of_two(exponent < 126 ? exponent : 126);
}

// 0, or NaN where f is NaN. Then the chunk's hidden units are unknown, and every sum of them has to
// become NaN.
__device__ inline float unless_known(const ChunkScale& scale) { return scale.f - scale.f; }

// Four numbers of a row as operands.
template <int parts>
__device__ inline void store_operands(unsigned char* to, int part_bytes, float4 four, float scale) {
    std::uint32_t low[parts], high[parts];
    make_parts<parts>(low, four.x * scale, four.y * scale);
    make_parts<parts>(high, four.z * scale, four.w * scale);
#pragma unroll
    for (int part = 0; part < parts; ++part) {
        *reinterpret_cast<uint2*>(to + part * part_bytes) = make_uint2(low[part], high[part]);
    }
}
// scale: f 2^-w1
template <int parts>
__device__ inline void store_p(BackwardRows<parts>& rows, int row, int quad,
                               const CellPerception& p, float scale) {
#pragma unroll
    for (int k = 0; k < filter_count; ++k) {
        store_operands<parts>(rows.p + row * OperandTraits::p_pitch + k * 32 + quad * 8,
                              rows.p_bytes, p.filters[k], scale);
    }
}
template <int parts>
__device__ inline void store_grad_u(BackwardRows<parts>& rows, int row, int quad, float4 grad_u,
                                    float g) {
    store_operands<parts>(rows.grad_u + row * OperandTraits::grad_u_pitch + quad * 8,
                          rows.grad_u_bytes, grad_u, g);
}

// W1 is there after a barrier.
template <int parts>
__device__ inline void load_w1(BackwardRows<parts>& rows, const TensorWeights& weights,
                               const WeightScales& scales, int thread) {
    // A lane's four floats: those at [lane / 4, lane % 4 * 2] of a block, and of the one below.
    constexpr int rounds = Traits::perception * Traits::hidden / 4 / Traits::threads;
    const float* const from = weights.w1_hidden[0][0][0][0];
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
#pragma unroll
    for (int round = 0; round < rounds; ++round) {
        const int two = round * Traits::warps + warp;
        const int row = two / rows.blocks_across * 2, column = two % rows.blocks_across;
        unsigned char* const to =
            rows.w1 + row * rows.row_of_blocks + column * rows.block_bytes + lane * 4;
        std::uint32_t b[parts][2];
        make_b<parts>(b, from + (round * Traits::threads + thread) * 4, scales.w1);
#pragma unroll
        for (int part = 0; part < parts; ++part) {
#pragma unroll
            for (int below = 0; below < 2; ++below) {
                *reinterpret_cast<std::uint32_t*>(to + part * rows.w1_bytes +
                                                  below * rows.row_of_blocks) = b[part][below];
            }
        }
    }
}

// Where a lane reads four blocks: two that are `below` bytes apart, and two that are `other` bytes
// behind these.
__device__ inline int lane_in_blocks(int lane, int below, int other) {
    return lane % 8 * 16 + lane / 8 % 2 * below + lane / 16 * other;
}

// What a warp's 16 hidden units have in registers.
template <int parts>
struct BackwardOperands {
    std::uint32_t w2[parts][4];  // [hidden, channels]
    float b1[2];                 // of units lane / 4 and 8 behind it
};

template <int parts>
__device__ inline BackwardOperands<parts> load_backward_operands(const TensorWeights& weights,
                                                                 const WeightScales& scales,
                                                                 int warp, int lane) {
    BackwardOperands<parts> own;
    make_a<parts>(own.w2, weights.w2_hidden[warp], scales.w2, lane);
    own.b1[0] = weights.b1[warp * 16 + lane / 4];
    own.b1[1] = weights.b1[warp * 16 + lane / 4 + 8];
    return own;
}

// Prefetches what load_backward_operands reads.
__device__ inline void prefetch_backward_operands(const TensorWeights& weights, int thread) {
    constexpr int line = 32;  // floats
    constexpr int lines = Traits::channels * Traits::hidden / line;
    if (thread < lines) prefetch(weights.w2_hidden[0][0][0] + thread * line);
    if (thread < Traits::hidden / line) prefetch(weights.b1 + thread * line);
}

// Where a lane begins to read or write grad_a of 16 rows and the warp's hidden units, which it has
// as [hidden, rows].
template <int parts>
__device__ inline unsigned char* grad_a_of_warp(BackwardRows<parts>& rows, int warp, int lane) {
    return rows.grad_a + rows_of_halves(lane, OperandTraits::grad_a_pitch) + warp * 32;
}

// a and grad_a of at_once rows from `first` on, and what they add to the gradients of W2 and b1.
// bias: b1 f
template <int parts>
__device__ inline void multiply_some(Accumulator (&sum_w2)[2], float (&sum_b1)[2],
                                     BackwardRows<parts>& rows, const BackwardOperands<parts>& own,
                                     const float (&bias)[2], int first, int warp, int lane) {
    constexpr int tiles = BackwardRows<parts>::at_once / 16;
    const unsigned char* const u_rows = rows.grad_u + first * OperandTraits::grad_u_pitch;
    const unsigned char* const u_lane = u_rows + rows_of_halves(lane, OperandTraits::grad_u_pitch);
    const unsigned char* const p_lane =
        rows.p + first * OperandTraits::p_pitch + rows_of_halves(lane, OperandTraits::p_pitch);
    const unsigned char* const w1_lane = rows.w1 + warp * 2 * rows.row_of_blocks +
                                         lane_in_blocks(lane, rows.row_of_blocks, rows.block_bytes);
    Accumulator a[tiles][2], grad_h[tiles][2];
    std::uint32_t b[2][parts][2];
#pragma unroll
    for (int k = 0; k < OperandTraits::p_blocks; ++k) {
        std::uint32_t w1[parts][4];  // [hidden, perception]; there are no registers to keep it
        load_a<parts>(w1, w1_lane + k * 2 * rows.block_bytes, rows.w1_bytes);
#pragma unroll
        for (int tile = 0; tile < tiles; ++tile) {
            load_b<parts>(b, p_lane + tile * 16 * OperandTraits::p_pitch + k * 32, rows.p_bytes);
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                if (k == 0) a[tile][j] = {{bias[0], bias[0], bias[1], bias[1]}};
                multiply<parts>(a[tile][j], w1, b[j]);
            }
        }
    }
#pragma unroll
    for (int tile = 0; tile < tiles; ++tile) {
        load_b<parts>(b, u_lane + tile * 16 * OperandTraits::grad_u_pitch, rows.grad_u_bytes);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            grad_h[tile][j] = {};
            multiply<parts>(grad_h[tile][j], own.w2, b[j]);
        }
    }
    unsigned char* const a_lane =
        grad_a_of_warp(rows, warp, lane) + first * OperandTraits::grad_a_pitch;
#pragma unroll
    for (int tile = 0; tile < tiles; ++tile) {
        std::uint32_t h[parts][4], grad_a[parts][4], loaded[4];
        make_hidden<parts>(h, grad_a, sum_b1, a[tile], grad_h[tile]);
#pragma unroll
        for (int part = 0; part < parts; ++part) {
            store_matrices_transposed(
                a_lane + part * rows.grad_a_bytes + tile * 16 * OperandTraits::grad_a_pitch,
                grad_a[part]);
            load_matrices_transposed(loaded, u_rows + part * rows.grad_u_bytes +
                                                 tile * 16 * OperandTraits::grad_u_pitch +
                                                 halves_of_rows(lane, OperandTraits::grad_u_pitch));
            split_columns<parts>(b, loaded, part);
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) multiply<parts>(sum_w2[j], h, b[j]);
    }
}

// a and grad_a of count rows, and their gradients of W2 and b1. The rows from count on to the next
// multiple of at_once are zero.
template <int parts>
__device__ inline void multiply_rows(TensorSums& sums, BackwardRows<parts>& rows,
                                     const TensorWeights& packed, const WeightScales& weights,
                                     const ChunkScale& scale, int count, int warp, int lane) {
    const auto own = load_backward_operands<parts>(packed, weights, warp, lane);
    Accumulator w2[2] = {};
    float b1[2] = {};
    const float bias[2] = {own.b1[0] * scale.f, own.b1[1] * scale.f};
#pragma unroll 1
    for (int first = 0; first < count; first += rows.at_once) {
        multiply_some<parts>(w2, b1, rows, own, bias, first, warp, lane);
    }
    const float of_grad = inverse_of_power(scale.g) + unless_known(scale);
    const float of_b1 = of_grad * inverse_of_power(weights.w2);
    const float of_w2 = of_grad * inverse_of_power(scale.f);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        sums.b1[j] += b1[j] * of_b1;
#pragma unroll
        for (int i = 0; i < 4; ++i) sums.w2[j].sums[i] += w2[j].sums[i] * of_w2;
    }
}

// The rows' gradient of W1.
template <int parts>
__device__ inline void add_w1(TensorSums& sums, BackwardRows<parts>& rows,
                              const WeightScales& weights, const ChunkScale& scale, int count,
                              int warp, int lane) {
    Accumulator w1[Traits::perception / 8] = {};
    const unsigned char* a_lane = grad_a_of_warp(rows, warp, lane);
    const unsigned char* p_lane = rows.p + halves_of_rows(lane, OperandTraits::p_pitch);
#pragma unroll 1
    for (int first = 0; first < count; first += 16, a_lane += 16 * OperandTraits::grad_a_pitch,
             p_lane += 16 * OperandTraits::p_pitch) {
        add_w1_rows<parts>(w1, a_lane, rows.grad_a_bytes, p_lane, rows.p_bytes);
    }
    const float factor = inverse_of_power(scale.g) * inverse_of_power(scale.f) *
                         inverse_of_power(weights.w2) * weights.w1;
#pragma unroll
    for (int j = 0; j < Traits::perception / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums.w1[j].sums[i] += w1[j].sums[i] * factor;
    }
}

// grad_p of the rows: place_of(row) is where a row's [perception] goes, or null. A warp has 16 rows
// and half of the perceptions.
template <int parts, class PlaceOf>
__device__ inline void compute_grad_p(const BackwardRows<parts>& rows, const WeightScales& weights,
                                      const ChunkScale& scale, int count, int warp, int lane,
                                      PlaceOf place_of) {
    constexpr int columns = Traits::perception / 8 / 2, row_groups = Traits::warps / 2;
    const int first_column = warp / row_groups * columns;
    // A lane's part of W1 is loaded for both parts at once, or for two blocks of hidden units.
    constexpr int two_rows = 2 * BackwardRows<parts>::row_of_blocks;
    const unsigned char* const blocks =
        rows.w1 + first_column * rows.block_bytes +
        lane_in_blocks(lane, two_rows / 2, parts == 2 ? rows.w1_bytes : two_rows);
    const float factor =
        inverse_of_power(scale.g) * inverse_of_power(weights.w2) * inverse_of_power(weights.w1) +
        unless_known(scale);
#pragma unroll 1
    for (int first = warp % row_groups * 16; first < count; first += row_groups * 16) {
        // Two sums, so that products do not wait for each other: one has the small products, or
        // every other block of hidden units.
        Accumulator grad_p[2][columns] = {};
        std::uint32_t loaded[columns][4];
        const unsigned char* const a_lane = rows.grad_a + first * OperandTraits::grad_a_pitch +
                                            halves_of_rows(lane, OperandTraits::grad_a_pitch);
#pragma unroll
        for (int k = 0; k < Traits::hidden / 16; ++k) {
            std::uint32_t grad_a[parts][4];
            load_a<parts>(grad_a, a_lane + k * 32, rows.grad_a_bytes);
#pragma unroll
            for (int j = 0; j < columns; ++j) {
                const unsigned char* const block = blocks + k * two_rows + j * rows.block_bytes;
                if (parts == 2 || k % 2 == 0) load_matrices_transposed(loaded[j], block);
                std::uint32_t b[parts][2];
#pragma unroll
                for (int part = 0; part < parts; ++part) {
                    const int at = parts == 2 ? part : k % 2;
                    b[part][0] = loaded[j][at * 2];
                    b[part][1] = loaded[j][at * 2 + 1];
                }
                multiply_small<parts>(grad_p[1][j], grad_a, b);
                mma_fp16(grad_p[parts == 2 ? 0 : k % 2][j], grad_a[0], b[0]);
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
            float* const to = place_of(first + c_row(lane, i));
            if (to == nullptr) continue;
#pragma unroll
            for (int j = 0; j < columns; ++j) {
                const float* const small = grad_p[1][j].sums + i;
                const float* const big = grad_p[0][j].sums + i;
                *reinterpret_cast<float2*>(to + (first_column + j) * 8 + c_column(lane, i)) =
                    make_float2((small[0] + big[0]) * factor, (small[1] + big[1]) * factor);
            }
        }
    }
}

// Adds a thread's sum of some rows, of channels thread % 4 * 4 and the three behind it, to its
// warp's part of b2's gradient.
template <int parts>
__device__ inline void add_b2(BackwardRows<parts>& rows, float4 sum, int thread) {
#pragma unroll
    for (int distance = Traits::quads; distance < Traits::warp_size; distance *= 2) {
        sum = sum_of_halves(sum, sum, distance);
    }
    const int lane = thread % Traits::warp_size;
    if (lane >= Traits::quads) return;
    float* const to = rows.b2[thread / Traits::warp_size] + lane * 4;
    add_scaled(sum, 1, load4(to));
    store4(to, sum);
}

// Adds the block's sums to those in global memory, or overwrites them. All reads are under way
// together. Needs a barrier behind the last add_b2.
template <int parts>
__device__ inline void write_sums(PartialGradients& partial, BackwardRows<parts>& rows,
                                  const TensorSums& sums, bool overwrite, int thread) {
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    const int hidden = warp * 16 + lane / 4;
    const auto place = [&](int column, int i) {
        return (column * 8 + c_column(lane, i)) * Traits::hidden + hidden + (i & 2 ? 8 : 0);
    };
    const bool has_b1 = lane % 4 == 0, has_b2 = thread < Traits::channels;
    TensorSums before = {};
    float b2_before = 0;
    if (!overwrite) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int j = 0; j < Traits::perception / 8; ++j) {
                before.w1[j].sums[i] = partial.w1[place(j, i)];
            }
#pragma unroll
            for (int j = 0; j < Traits::channels / 8; ++j) {
                before.w2[j].sums[i] = partial.w2[place(j, i)];
            }
        }
        if (has_b1) {
            before.b1[0] = partial.b1[hidden];
            before.b1[1] = partial.b1[hidden + 8];
        }
        if (has_b2) b2_before = partial.b2[thread];
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < Traits::perception / 8; ++j) {
            partial.w1[place(j, i)] = before.w1[j].sums[i] + sums.w1[j].sums[i];
        }
#pragma unroll
        for (int j = 0; j < Traits::channels / 8; ++j) {
            partial.w2[place(j, i)] = before.w2[j].sums[i] + sums.w2[j].sums[i];
        }
    }
    // The four lanes of a group have summed different rows.
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        float sum = sums.b1[i];
        sum += __shfl_xor_sync(whole_warp, sum, 1);
        sum += __shfl_xor_sync(whole_warp, sum, 2);
        if (has_b1) partial.b1[hidden + i * 8] = before.b1[i] + sum;
    }
    if (!has_b2) return;
    float sum = 0;
    for (const auto& of_warp : rows.b2) sum += of_warp[thread];
    partial.b2[thread] = b2_before + sum;
}

}  // namespace nca::cuda
