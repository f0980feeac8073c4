// SPDX-License-Identifier: MIT
// The end of the way back, the gradient of the rollout's first state:
//
//   grad_x = grad_z + perceive^T(grad_p) [+ the caller's gradient of this state]
//
// Between steps the next step_backward_kernel gathers it. Overwrites grad_x
// [batch, height, width, 16]. Four threads a cell; 64 bytes read and written, and up to 13 times
// 16 bytes for each neighbour that has a row.
// Reference: host/reference/step.hpp. Test: tests/engine_test.cpp.

#include "cuda/device/launch.cuh"
#include "cuda/rule/perceive.cuh"
#include "cuda/step/step_kernels.hpp"

namespace nca::cuda {
namespace {

struct GatherGradientArgs {
    float* grad_state;        // [cells, 16]
    const float* grad_z;      // [cells, 16]
    const float* grad_p;      // [cells, 48] where row is set
    const std::uint8_t* row;  // [cells]; null: no cell has one
    const float* added;       // [cells, 16] or null
    BatchShape grid;
    StepRule rule;
};

constexpr int cells_of_block = Traits::threads / Traits::quads;  // at a time

__global__ void __launch_bounds__(Traits::threads)
    gather_gradient_kernel(const __grid_constant__ GatherGradientArgs args) {
    const int cells = args.grid.height * args.grid.width;
    const int per_sample = (cells + cells_of_block - 1) / cells_of_block;
    const int quad = int(threadIdx.x) % Traits::quads;
    for (int i = int(blockIdx.x); i < args.grid.batch * per_sample; i += int(gridDim.x)) {
        const int sample = i / per_sample;
        const int cell = i % per_sample * cells_of_block + int(threadIdx.x) / Traits::quads;
        if (cell >= cells) continue;
        const std::size_t first = std::size_t(sample) * cells;
        const std::size_t at = (first + cell) * Traits::channels + quad * 4;
        const int y = cell / args.grid.width, x = cell % args.grid.width;
        float4 grad = load4(args.grad_z + at);
        if (args.added != nullptr) add_scaled(grad, 1, load4(args.added + at));
        if (args.row != nullptr) {
            const float4 sent = perceive_adjoint(
                args.grad_p + first * Traits::perception, args.rule, quad, [&](int tap) {
                    const int from =
                        cell_at(args.grid, args.rule.circular, y + 1 - tap / 3, x + 1 - tap % 3);
                    return from >= 0 && args.row[first + from] != 0 ? from : -1;
                });
            add_scaled(grad, 1, sent);
        }
        store4(args.grad_state + at, grad);
    }
}

}  // namespace

void launch_gather_gradient(float* grad_state, const float* grad_z, const float* grad_p,
                            const std::uint8_t* row, const float* added, const BatchShape& grid,
                            const StepRule& rule, cudaStream_t stream) {
    const long long pieces = static_cast<long long>(grid.cells()) * Traits::quads;
    launch(NCA_KERNEL(gather_gradient_kernel),
           {.blocks = elementwise_blocks(pieces), .threads = Traits::threads}, stream,
           GatherGradientArgs{grad_state, grad_z, grad_p, row, added, grid, rule});
}

}  // namespace nca::cuda
