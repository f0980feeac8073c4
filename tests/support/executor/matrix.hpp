// SPDX-License-Identifier: MIT
#pragma once

// Matrix instructions on a CPU: warp-wide, by the register layouts of the PTX ISA. Products are
// exact, and each sum is rounded once, towards zero.

#include <cuda_runtime.h>

#include <cstdint>

namespace nca::executor {

std::uint32_t rounded_to_tf32(float x);
std::uint32_t rounded_to_fp16(float low, float high);
float float_of_fp16(std::uint32_t bits);

// The first four numbers belong to A [16, k], the last two to B [k, 8]: m16n8k8, m16n8k16.
void mma_tf32(float (&sums)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
              const Place& place);
void mma_fp16(float (&sums)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
              const Place& place);

// Four matrices of 8 x 8 fp16 numbers, of which each lane reads or writes one row. It reads its row
// when it comes here, and writes it when all have come: as early, and as late, as it may be.
void load_matrices(std::uint32_t (&to)[4], const void* row, const Place& place);
void load_matrices_transposed(std::uint32_t (&to)[4], const void* row, const Place& place);
void store_matrices_transposed(void* row, const std::uint32_t (&from)[4], const Place& place);

}  // namespace nca::executor
