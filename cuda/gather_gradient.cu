// SPDX-License-Identifier: MIT
// The end of the way back, the gradient of the rollout's first state:
//
//   grad_x = grad_z + perceive^T(grad_p)
//
// which between steps is gathered by the next step_backward_kernel. Overwrites grad_x
// [batch, height, width, 16]. Four threads a cell; 64 bytes read and written, and up to 13 times
// 16 bytes for each neighbour that has a row.
// Reference: host/reference/step.hpp. Test: tests/engine_test.cpp.

#include "cuda/kernels.hpp"
#include "cuda/launch.cuh"
#include "cuda/perceive.cuh"

namespace nca::cuda {
namespace {

struct GatherGradientArgs {
    float* grad_state;        // [cells, 16]
    const float* grad_z;      // [cells, 16]
    const float* grad_p;      // [cells, 48] where row is set
    const std::uint8_t* row;  // [cells]
    Grid grid;
    StepRule rule;
};

__global__ void __launch_bounds__(Traits::threads)
    gather_gradient_kernel(const __grid_constant__ GatherGradientArgs args) {
    const std::size_t cells = std::size_t(args.grid.height) * args.grid.width;
    const std::size_t pieces = args.grid.batch * cells * Traits::quads;
    const std::size_t stride = std::size_t(gridDim.x) * Traits::threads;
    for (std::size_t i = std::size_t(blockIdx.x) * Traits::threads + threadIdx.x; i < pieces;
         i += stride) {
        const std::size_t index = i / Traits::quads;
        const std::size_t first = index / cells * cells;
        const auto cell = static_cast<int>(index - first);
        const int y = cell / args.grid.width, x = cell % args.grid.width;
        float4 grad = load4(args.grad_z + i * 4);
        const float4 sent =
            perceive_adjoint(args.grad_p + first * Traits::perception, args.rule,
                             static_cast<int>(i % Traits::quads), [&](int tap) {
                                 const int from = cell_at(args.grid, args.rule.circular,
                                                          y + 1 - tap / 3, x + 1 - tap % 3);
                                 return from >= 0 && args.row[first + from] != 0 ? from : -1;
                             });
        add_scaled(grad, 1, sent);
        store4(args.grad_state + i * 4, grad);
    }
}

}  // namespace

void launch_gather_gradient(float* grad_state, const float* grad_z, const float* grad_p,
                            const std::uint8_t* row, const Grid& grid, const StepRule& rule,
                            cudaStream_t stream) {
    const long long pieces = static_cast<long long>(grid.cells()) * Traits::quads;
    launch(NCA_KERNEL(gather_gradient_kernel),
           {.blocks = elementwise_blocks(pieces), .threads = Traits::threads}, stream,
           GatherGradientArgs{grad_state, grad_z, grad_p, row, grid, rule});
}

}  // namespace nca::cuda
