// SPDX-License-Identifier: MIT
#pragma once

// Matrix products on tensor cores, C += A B, a warp at a time: A is 16 x 16, B is 16 x 8, C 16 x 8.
//
// Lane 4 g + t of the warp holds, of
//   A, eight values:  (row g, k 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1) and the same four at k + 8
//   B, four values:   (k 2t, column g) (2t+1, g) (2t+8, g) (2t+9, g)
//   C, four sums:     (row g, column 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1)
//
// which is how fp16's m16n8k16 has them. TF32's m16n8k8 has another order of k, but a sum over k
// may take any, as long as A and B take the same: two of them multiply the same registers. So one
// source serves every precision, and the columns of two C side by side are the k of an A, whose
// registers they already are.
//
// Compute capability 8.0 and later; elsewhere these functions must not be called, and kernels that
// do are next to nothing. Operands are rounded once, where they are made from floats. Sums are
// float32; tensor cores are thought to round them towards zero, which the executor does. PTX ISA,
// "Warp Level Matrix Instructions". Tests: tests/mma_test.cpp.

#include <nca/device.hpp>

#include <cstdint>

#include "cuda/device.cuh"

namespace nca::cuda {

// Which values a lane holds: of A its i-th is (row a_row(lane, i), k a_k(lane, i)), and so on.
NCA_HOST_DEVICE constexpr int a_row(int lane, int i) { return lane / 4 + (i & 2 ? 8 : 0); }
NCA_HOST_DEVICE constexpr int a_k(int lane, int i) {
    return lane % 4 * 2 + (i & 1) + (i & 4 ? 8 : 0);
}
NCA_HOST_DEVICE constexpr int b_column(int lane) { return lane / 4; }
NCA_HOST_DEVICE constexpr int b_k(int lane, int i) {
    return lane % 4 * 2 + (i & 1) + (i & 2 ? 8 : 0);
}
NCA_HOST_DEVICE constexpr int c_row(int lane, int i) { return lane / 4 + (i & 2 ? 8 : 0); }
NCA_HOST_DEVICE constexpr int c_column(int lane, int i) { return lane % 4 * 2 + (i & 1); }

// The eight k from first on of A and B, by TF32.
__device__ inline void multiply_tf32(Accumulator& c, const std::uint32_t (&a)[8],
                                     const std::uint32_t (&b)[4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const std::uint32_t* const of_a = a + half * 4;
        mma_tf32(c, {of_a[0], of_a[2], of_a[1], of_a[3]}, {b[half * 2], b[half * 2 + 1]});
    }
}

// What a precision is made of: operands of a lane, how they are made, and the product. An A that is
// kept for long may take fewer registers than one in use.

// Operands rounded to TF32.
struct FastArithmetic {
    struct A {
        std::uint32_t bits[8];
    };
    struct B {
        std::uint32_t bits[4];
    };
    using KeptA = A;

    __device__ static KeptA keep_a(const float (&values)[8]) { return make_a(values); }
    __device__ static const A& open_a(const KeptA& a) { return a; }
    __device__ static A make_a(const float (&values)[8]) {
        A a;
#pragma unroll
        for (int i = 0; i < 8; ++i) a.bits[i] = rounded_to_tf32(values[i]);
        return a;
    }
    __device__ static B make_b(const float (&values)[4]) {
        B b;
#pragma unroll
        for (int i = 0; i < 4; ++i) b.bits[i] = rounded_to_tf32(values[i]);
        return b;
    }
    __device__ static void multiply(Accumulator& c, const A& a, const B& b) {
        multiply_tf32(c, a.bits, b.bits);
    }
};

// Each operand as the sum of two TF32 numbers, the products of the two small ones left out
// ("3xTF32"): 22 significant bits and more. Small terms are summed first.
struct PreciseArithmetic {
    struct A {
        std::uint32_t big[8];
        std::uint32_t small[8];
    };
    struct B {
        std::uint32_t big[4];
        std::uint32_t small[4];
    };
    struct KeptA {
        float values[8];
    };

    __device__ static KeptA keep_a(const float (&values)[8]) {
        KeptA a;
#pragma unroll
        for (int i = 0; i < 8; ++i) a.values[i] = values[i];
        return a;
    }
    __device__ static A open_a(const KeptA& a) {
        float values[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) values[i] = not_known_before(a.values[i]);
        return make_a(values);
    }
    __device__ static void split(std::uint32_t& big, std::uint32_t& small, float value) {
        constexpr std::uint32_t tf32_bits = 0xffffe000U;
        big = rounded_to_tf32(value) & tf32_bits;
        small = rounded_to_tf32(value - __uint_as_float(big));
    }
    __device__ static A make_a(const float (&values)[8]) {
        A a;
#pragma unroll
        for (int i = 0; i < 8; ++i) split(a.big[i], a.small[i], values[i]);
        return a;
    }
    __device__ static B make_b(const float (&values)[4]) {
        B b;
#pragma unroll
        for (int i = 0; i < 4; ++i) split(b.big[i], b.small[i], values[i]);
        return b;
    }
    __device__ static void multiply(Accumulator& c, const A& a, const B& b) {
        multiply_tf32(c, a.small, b.big);
        multiply_tf32(c, a.big, b.small);
        multiply_tf32(c, a.big, b.big);
    }
};

// work(arithmetic of the precision), which is not exact: that has kernels of its own.
template <class Work>
auto with_arithmetic(Precision precision, Work work) {
    switch (precision) {
        case Precision::fast:
            return work(FastArithmetic{});
        case Precision::precise:
        case Precision::exact:
            break;
    }
    return work(PreciseArithmetic{});
}

}  // namespace nca::cuda
