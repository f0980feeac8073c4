// SPDX-License-Identifier: MIT
#pragma once

// Matrix products on tensor cores, C += A B, a warp at a time: A is 16 x 16, B is 16 x 8, C 16 x 8.
//
// Lane 4 g + t of the warp holds, of
//   A, eight values:  (row g, k 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1) and the same four at k + 8
//   B, four values:   (k 2t, column g) (2t+1, g) (2t+8, g) (2t+9, g)
//   C, four sums:     (row g, column 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1)
//
// as the instruction m16n8k16 for fp16 wants them (mma_fp16). Two C side by side lie in the
// registers as one A does: their columns are its k.
//
// Compute capability 8.0 and later; in older code these functions trap. Sums are float32; tensor
// cores are thought to round them towards zero. PTX ISA, "Warp Level Matrix Instructions". Tests:
// tests/mma_test.cpp.

#include "cuda/device/device.cuh"

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

}  // namespace nca::cuda
