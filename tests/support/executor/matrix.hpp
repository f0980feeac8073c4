// SPDX-License-Identifier: MIT
#pragma once

// Matrix instructions on a CPU: warp-wide, by the register layouts of the PTX ISA. Products are
// exact, and each sum is rounded once, towards zero.

#include <cstdint>

namespace nca::executor {

std::uint32_t rounded_to_tf32(float x);
std::uint32_t rounded_to_fp16(float low, float high);

// The first four numbers belong to A [16, k], the last two to B [k, 8]: m16n8k8, m16n8k16.
void mma_tf32(float (&sums)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);
void mma_fp16(float (&sums)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);

}  // namespace nca::executor
