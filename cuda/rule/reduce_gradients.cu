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

#include "cuda/device/launch.cuh"
#include "cuda/rule/partial_gradients.cuh"
#include "cuda/rule/rule_kernels.hpp"

namespace nca::cuda {
namespace {

struct ReduceGradientsArgs {
    WeightsView grad_weights;
    const PartialGradients* partial;   // [blocks]
    const std::uint32_t* has_partial;  // [blocks]
    int blocks;
    bool accumulate;
};

struct SharedStorage {
    PartialSums sums;
};

// Where the i-th float of PartialGradients belongs; null for b2 of a model that has none.
__device__ float* destination(const WeightsView& grad, int i) {
    const ParameterPlace place = parameter_of_partial(i);
    float* const tensor = place.tensor == 0   ? grad.w1
                          : place.tensor == 1 ? grad.b1
                          : place.tensor == 2 ? grad.w2
                                              : grad.b2;
    return tensor != nullptr ? tensor + place.index : nullptr;
}

__global__ void __launch_bounds__(Traits::threads)
    reduce_gradients_kernel(const __grid_constant__ ReduceGradientsArgs args) {
    auto& shared = shared_storage<SharedStorage>();
    const int thread = int(threadIdx.x);
    const int slice = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    const int i = int(blockIdx.x) * Traits::warp_size + lane;
    const float sum =
        sum_of_partials(shared.sums, args.partial, args.has_partial, args.blocks, i, slice, lane);
    if (slice != 0 || i >= partial_floats) return;
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
