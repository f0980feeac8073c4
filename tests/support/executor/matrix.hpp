// SPDX-License-Identifier: MIT
#pragma once

// Matrix instructions on a CPU. They are warp-wide and use the register layouts of the PTX ISA.
// Products are exact, and each sum is rounded once, towards zero.

#include <cuda_runtime.h>

#include <cstdint>

namespace nca::executor {

std::uint32_t rounded_to_fp16(float low, float high);
std::uint32_t cut_to_fp16(float low, float high);  // towards zero
float float_of_fp16(std::uint32_t bits);
inline float relu(float x) { return x < 0 ? 0.0F : x; }

// Both as fp16, rounded once to nearest.
std::uint32_t nearest_fp16(double low, double high);

// Applies f, in double, to the lower and to the upper fp16 numbers of a, b and c.
template <class Function>
std::uint32_t pairs_of(std::uint32_t a, std::uint32_t b, std::uint32_t c, Function f) {
    const auto of = [&](int shift) {
        const auto value = [shift](std::uint32_t pair) {
            return static_cast<double>(float_of_fp16(pair >> shift & 0xffffU));
        };
        return f(value(a), value(b), value(c));
    };
    return nearest_fp16(of(0), of(16));
}

// sums += A B by m16n8k16: a is from A [16, 16], b from B [16, 8].
void mma_fp16(float (&sums)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
              const CallSite& place);

// Four matrices of 8 x 8 fp16 numbers. Each lane reads or writes one row. It reads the row when it
// comes here, as early as possible, and writes it when all have come, as late as possible.
void load_matrices(std::uint32_t (&to)[4], const void* row, const CallSite& place);
void load_matrices_transposed(std::uint32_t (&to)[4], const void* row, const CallSite& place);
void store_matrices_transposed(void* row, const std::uint32_t (&from)[4], const CallSite& place);

}  // namespace nca::executor
