// SPDX-License-Identifier: MIT
#pragma once

// The operands of tensor cores: fp16, for each float32 number one (`fast`, one part), or two whose
// sum has 22 bits of it (`precise`, two parts, of which three products are summed). Every operand
// is scaled by a power of two, so that the largest possible value is far from fp16's limit of 2^16
// and what is lost at its other end, 2^-25, is below float32's rounding:
//
//   W1' = W1 2^w1        the largest weight in [2^6, 2^7)
//   p'  = p f 2^-w1      f = 2^15 / 2^e, 2^e > max |p| * max_j sum_k |W1_jk| + max |b1| >= |a|
//   a'  = W1' p' + b1 f  = a f, so that |a'| < 2^15 is an operand as it is
//   u   = W2' relu(a') / (f 2^w2)
//
// Rows that are summed over have the same f.

#include "cuda/rule/mma.cuh"
#include "cuda/rule/model.hpp"

namespace nca::cuda {

struct OperandTraits {
    static constexpr int p_blocks = Traits::perception / 16;
    // Rows of operands in shared memory, in bytes: eight rows one below the other begin in eight
    // different groups of four banks.
    static constexpr int p_pitch = 112;
    static constexpr int grad_u_pitch = 48;
    static constexpr int grad_a_pitch = 272;

    static constexpr int exponent = 15;  // of the bound of a'
};

__device__ inline float power_of_two(int exponent) {  // -126..127
    return __uint_as_float(std::uint32_t(exponent + 127) << 23);
}
__device__ inline float inverse_of_power(float power) {
    return __uint_as_float(0x7f000000U - __float_as_uint(power));
}

// Two numbers as operands: rounded, and in a second part what rounding lost.
template <int parts>
__device__ inline void make_parts(std::uint32_t (&to)[parts], float low, float high) {
    to[0] = rounded_to_fp16(low, high);
    if constexpr (parts == 2) {
        const float2 rounded = halves(to[0]);
        to[1] = rounded_to_fp16(low - rounded.x, high - rounded.y);
    }
}

// Two pairs of an operand B from the four floats that TensorWeights has for a lane.
template <int parts>
__device__ inline void make_b(std::uint32_t (&to)[parts][2], const float* packed, float scale) {
    const float4 four = load4(packed);
    std::uint32_t pair[parts];
    make_parts<parts>(pair, four.x * scale, four.y * scale);
#pragma unroll
    for (int part = 0; part < parts; ++part) to[part][0] = pair[part];
    make_parts<parts>(pair, four.z * scale, four.w * scale);
#pragma unroll
    for (int part = 0; part < parts; ++part) to[part][1] = pair[part];
}

// The same of an operand A.
template <int parts>
__device__ inline void make_a(std::uint32_t (&to)[parts][4], const float (&packed)[2][32][4],
                              float scale, int lane) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float4 four = load4(packed[half][lane]);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            std::uint32_t pair[parts];
            make_parts<parts>(pair, element(four, 2 * i) * scale, element(four, 2 * i + 1) * scale);
#pragma unroll
            for (int part = 0; part < parts; ++part) to[part][half * 2 + i] = pair[part];
        }
    }
}

// C += A B of operands in parts; the product of the two small ones is left out. Tensor cores cut
// their sums, so the small products come first: what is cut then is cut from a small sum.
template <int parts>
__device__ inline void multiply_small(Accumulator& c, const std::uint32_t (&a)[parts][4],
                                      const std::uint32_t (&b)[parts][2]) {
    if constexpr (parts == 2) {
        mma_fp16(c, a[1], b[0]);
        mma_fp16(c, a[0], b[1]);
    }
}
template <int parts>
__device__ inline void multiply(Accumulator& c, const std::uint32_t (&a)[parts][4],
                                const std::uint32_t (&b)[parts][2]) {
    multiply_small<parts>(c, a, b);
    mma_fp16(c, a[0], b[0]);
}

// The weights' powers of two, and the bound that a row's comes from.
struct WeightScales {
    float w1;    // 2^w1
    float w2;    // 2^w2: the largest weight in [2^2, 2^3)
    float sum;   // max_j sum_k |W1_jk|, and at least 2^6 2^-w1
    float bias;  // max |b1|
};

// The power of two that brings a number to [2^exponent, 2 * 2^exponent); 1 for 0 and infinity.
__device__ inline float scale_to(float largest, int exponent) {
    const auto biased = int(__float_as_uint(largest) >> 23);
    if (biased == 0 || biased == 255) return 1;
    const int power = exponent + 127 - biased;
    return power_of_two(power < -15 ? -15 : power > 60 ? 60 : power);
}

__device__ inline float largest_of_warp(float own) {  // of numbers that are not negative
    return __uint_as_float(largest_over_warp(__float_as_uint(own)));
}

// scratch [4] in shared memory, zero before. All threads take part; has barriers.
__device__ inline WeightScales weight_scales(const TensorWeights& weights, std::uint32_t* scratch,
                                             int thread) {
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    float w1 = 0, sum = 0, w2 = 0;
    for (int column = warp * 2; column < warp * 2 + 2; ++column) {
        float own = 0;
#pragma unroll
        for (int k = 0; k < OperandTraits::p_blocks; ++k) {
            const float4 four = load4(weights.w1_forward[column][k][lane]);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float size = fabsf(element(four, i));
                own += size;
                w1 = fmaxf(w1, size);
            }
        }
        own += __shfl_xor_sync(whole_warp, own, 1);
        own += __shfl_xor_sync(whole_warp, own, 2);
        sum = fmaxf(sum, own);
        const float4 four = load4(weights.w2_forward[warp][column % 2][lane]);
#pragma unroll
        for (int i = 0; i < 4; ++i) w2 = fmaxf(w2, fabsf(element(four, i)));
    }
    const float bias = lane < 16 ? fabsf(weights.b1[warp * 16 + lane]) : 0;
    const float largest[4] = {largest_of_warp(w1), largest_of_warp(w2), largest_of_warp(sum),
                              largest_of_warp(bias)};
    __syncthreads();  // scratch is zero
    if (lane == 0) {
#pragma unroll
        for (int i = 0; i < 4; ++i) atomicMax(scratch + i, __float_as_uint(largest[i]));
    }
    __syncthreads();  // all warps have theirs
    const float scale = scale_to(__uint_as_float(scratch[0]), 6);
    // Bounds p' even where tiny weights hardly bound a.
    const float least = 64 * inverse_of_power(scale);
    return {scale, scale_to(__uint_as_float(scratch[1]), 2),
            fmaxf(__uint_as_float(scratch[2]), least), __uint_as_float(scratch[3])};
}

// The biased exponent of the bound of a row's a, at least the smallest that f is made for.
constexpr std::uint32_t smallest_magnitude = 30, infinite_magnitude = 255;
// f; not a number where p is infinite.
__device__ inline float operand_scale(std::uint32_t magnitude) {
    if (magnitude == infinite_magnitude) return __uint_as_float(0x7fffffffU);
    return power_of_two(OperandTraits::exponent + 126 - int(magnitude));
}

// Where a lane of load_matrices and its like reads in 16 rows, in bytes. halves_of_rows: rows 0 to
// 7 and 8 to 15 of the left half, then of the right one. rows_of_halves: the left and the right
// half of rows 0 to 7, then of rows 8 to 15.
__device__ inline unsigned halves_of_rows(int lane, unsigned pitch) {
    return unsigned(lane % 16) * pitch + unsigned(lane / 16) * 16;
}
__device__ inline unsigned rows_of_halves(int lane, unsigned pitch) {
    return unsigned(lane % 8 + lane / 16 * 8) * pitch + unsigned(lane / 8 % 2) * 16;
}

// Two B of 8 columns side by side from what load_matrices gave.
template <int parts>
__device__ inline void split_columns(std::uint32_t (&b)[2][parts][2],
                                     const std::uint32_t (&loaded)[4], int part) {
    b[0][part][0] = loaded[0], b[0][part][1] = loaded[1];
    b[1][part][0] = loaded[2], b[1][part][1] = loaded[3];
}
// An operand A, or two B side by side, from shared memory: a lane's place as above, the second part
// part_bytes behind the first.
template <int parts>
__device__ inline void load_a(std::uint32_t (&a)[parts][4], const unsigned char* place,
                              int part_bytes) {
#pragma unroll
    for (int part = 0; part < parts; ++part) load_matrices(a[part], place + part * part_bytes);
}
template <int parts, bool transposed = false>
__device__ inline void load_b(std::uint32_t (&b)[2][parts][2], const unsigned char* place,
                              int part_bytes) {
#pragma unroll
    for (int part = 0; part < parts; ++part) {
        std::uint32_t loaded[4];
        if constexpr (transposed) {
            load_matrices_transposed(loaded, place + part * part_bytes);
        } else {
            load_matrices(loaded, place + part * part_bytes);
        }
        split_columns<parts>(b, loaded, part);
    }
}

__device__ inline float4 difference(float4 a, float4 b) {
    return make_float4(a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w);
}
__device__ inline float4 sum_of(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
__device__ inline float4 scaled(float4 a, float by) {
    return make_float4(a.x * by, a.y * by, a.z * by, a.w * by);
}

// The largest element, NaN left out.
__device__ inline float largest_element(float4 a) {
    return fmaxf(fmaxf(fabsf(a.x), fabsf(a.y)), fmaxf(fabsf(a.z), fabsf(a.w)));
}

// The corners of both Sobel filters; their sides are twice that.
__device__ inline float sobel_corner(const StepRule& rule) { return rule.filters[1][2]; }

}  // namespace nca::cuda
