// SPDX-License-Identifier: MIT
// The gradient of each weight, summed over the blocks of the way back:
//
//   grad[i] = sum over blocks of partial[block][i]
//
// in an order that depends on the grid alone. Overwrites or adds to grad_weights, and turns the
// kernels' order of weights into the model's.
//
// A block takes 32 weights and sums them in eight slices, every eighth partial each, so that the
// loads of a warp are 128 bytes and many are in flight. Reads 33 KiB for each block that had rows.
// Test: tests/engine_test.cpp, tests/engine_bits_test.cpp.

#include "cuda/device.cuh"
#include "cuda/kernels.hpp"
#include "cuda/launch.cuh"

namespace nca::cuda {
namespace {

constexpr int slices = Traits::warps;

struct ReduceGradientsArgs {
    WeightsView grad_weights;
    const PartialGradients* partial;   // [blocks]
    const std::uint32_t* has_partial;  // [blocks]
    int blocks;
    bool accumulate;
};

struct SharedStorage {
    float sums[slices][Traits::warp_size];
};

// Where the i-th float of PartialGradients belongs; null for b2 of a model that has none.
__device__ float* destination(const WeightsView& grad, int i) {
    constexpr int w1_end = Traits::perception * Traits::hidden;
    constexpr int w2_end = w1_end + Traits::channels * Traits::hidden;
    constexpr int b1_end = w2_end + Traits::hidden;
    if (i < w1_end) {
        const int k = i / Traits::hidden, j = i % Traits::hidden;
        return grad.w1 + j * Traits::perception + model_index_of_perception(k);
    }
    if (i < w2_end) return grad.w2 + (i - w1_end);
    if (i < b1_end) return grad.b1 + (i - w2_end);
    return grad.b2 != nullptr ? grad.b2 + (i - b1_end) : nullptr;
}

__global__ void __launch_bounds__(Traits::threads)
    reduce_gradients_kernel(const __grid_constant__ ReduceGradientsArgs args) {
    auto& shared = shared_storage<SharedStorage>();
    const int thread = static_cast<int>(threadIdx.x);
    const int slice = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    const int i = static_cast<int>(blockIdx.x) * Traits::warp_size + lane;
    float sum = 0;
    if (i < partial_floats) {
        const auto* first = reinterpret_cast<const float*>(args.partial) + i;
#pragma unroll 8
        for (int block = slice; block < args.blocks; block += slices) {
            if (args.has_partial[block] != 0) sum += first[std::size_t(block) * partial_floats];
        }
    }
    shared.sums[slice][lane] = sum;
    __syncthreads();  // all slices are summed
    if (slice != 0 || i >= partial_floats) return;
    for (int other = 1; other < slices; ++other) sum += shared.sums[other][lane];
    float* to = destination(args.grad_weights, i);
    if (to != nullptr) *to = args.accumulate ? *to + sum : sum;
}

}  // namespace

void launch_reduce_gradients(WeightsView grad_weights, const PartialGradients* partial,
                             const std::uint32_t* has_partial, int blocks, bool accumulate,
                             cudaStream_t stream) {
    constexpr int all = (partial_floats + Traits::warp_size - 1) / Traits::warp_size;
    launch(NCA_KERNEL(reduce_gradients_kernel),
           {.blocks = all, .threads = Traits::threads, .shared_bytes = sizeof(SharedStorage)},
           stream, ReduceGradientsArgs{grad_weights, partial, has_partial, blocks, accumulate});
}

}  // namespace nca::cuda
