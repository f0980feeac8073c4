// SPDX-License-Identifier: MIT
// The mask of a rollout's last step, which no further step applies:
//
//   x = z * life        life = living(z) [and living(x before the step)]
//
// Overwrites x [batch, height, width, 16] and, where it is wanted, the mask. Four threads a cell;
// 64 bytes read and written, and nine alphas that mostly come from the L1 cache.
// Reference: host/reference/step.hpp. Test: tests/engine_test.cpp.

#include "cuda/grid.cuh"
#include "cuda/kernels.hpp"
#include "cuda/launch.cuh"

namespace nca::cuda {
namespace {

__device__ bool lives(const MaskStateArgs& args, std::size_t sample, int y, int x) {
    const std::size_t first = sample * args.grid.height * args.grid.width;
    if (args.rule.pre_and_post &&
        args.living_before[first + std::size_t(y) * args.grid.width + x] == 0) {
        return false;
    }
    for (int i = 0; i < 9; ++i) {
        const int cell = cell_at(args.grid, args.rule.circular, y + i / 3 - 1, x + i % 3 - 1);
        if (cell < 0) continue;
        if (args.state[(first + cell) * Traits::channels + alpha_channel] > living_threshold) {
            return true;
        }
    }
    return false;
}

__global__ void __launch_bounds__(Traits::threads)
    mask_state_kernel(const __grid_constant__ MaskStateArgs args) {
    const std::size_t cells = std::size_t(args.grid.height) * args.grid.width;
    const std::size_t pieces = args.grid.batch * cells * Traits::quads;
    const std::size_t stride = std::size_t(gridDim.x) * Traits::threads;
    for (std::size_t i = std::size_t(blockIdx.x) * Traits::threads + threadIdx.x; i < pieces;
         i += stride) {
        const std::size_t index = i / Traits::quads;
        const auto cell = static_cast<int>(index % cells);
        const bool living =
            lives(args, index / cells, cell / args.grid.width, cell % args.grid.width);
        store4(args.state_out + i * 4, living ? load4(args.state + i * 4) : zero4());
        if (args.life_out != nullptr && i % Traits::quads == 0) args.life_out[index] = living;
    }
}

}  // namespace

void launch_mask_state(const MaskStateArgs& args, cudaStream_t stream) {
    const long long pieces = static_cast<long long>(args.grid.cells()) * Traits::quads;
    launch(NCA_KERNEL(mask_state_kernel),
           {.blocks = elementwise_blocks(pieces), .threads = Traits::threads}, stream, args);
}

}  // namespace nca::cuda
