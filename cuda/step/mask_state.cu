// SPDX-License-Identifier: MIT
// The mask of a rollout's last step, which no further step applies:
//
//   x = z * life        life = living(z) [* living(x before the step)]
//
// Overwrites x [batch, height, width, 16] and, where it is wanted, the mask. x may be z: then only
// dead cells that hold something are written. Which alphas are above the threshold, and which cells
// hold something, is in the marks that the step has left. A warp has 32 cells of a row.
//
// Per cell: a byte read, or two; 64 bytes read and written where x is not z.
// Reference: host/reference/step.hpp. Test: tests/engine_test.cpp.

#include "cuda/device/launch.cuh"
#include "cuda/rule/grid.cuh"
#include "cuda/step/step_kernels.hpp"

namespace nca::cuda {
namespace {

// first: of the sample, in [cells].
__device__ bool find_life(const MaskStateArgs& args, std::size_t first, int y, int x) {
    if (args.rule.pre_and_post &&
        args.living_before[first + std::size_t(y) * args.grid.width + x] == 0) {
        return false;
    }
    unsigned any = 0;
    for (int i = 0; i < 9; ++i) {
        const int cell = cell_at(args.grid, args.rule.circular, y + i / 3 - 1, x + i % 3 - 1);
        if (cell >= 0) any |= args.marks[first + cell];
    }
    return (any & mark_above) != 0;
}

__global__ void __launch_bounds__(Traits::threads)
    mask_state_kernel(const __grid_constant__ MaskStateArgs args) {
    constexpr int width = Traits::warp_size;
    const int lane = int(threadIdx.x) % width;
    const int warp = int(threadIdx.x) / width;
    const int across = (args.grid.width + width - 1) / width;
    const int warps = args.grid.batch * args.grid.height * across;
    for (int i = int(blockIdx.x) * Traits::warps + warp; i < warps;
         i += int(gridDim.x) * Traits::warps) {
        const int row = i / across, left = i % across * width, x = left + lane;
        const std::size_t first =
            std::size_t(row / args.grid.height) * args.grid.height * args.grid.width;
        const std::size_t row_cell = std::size_t(row) * args.grid.width;
        bool alive = false, is_written = false;
        if (x < args.grid.width) {
            alive = find_life(args, first, row % args.grid.height, x);
            const bool holds = (args.marks[row_cell + x] & mark_holds) != 0;
            is_written = args.state != args.state_out || (holds && !alive);
            if (args.life_out != nullptr) args.life_out[row_cell + x] = alive;
        }
        const unsigned life = __ballot_sync(whole_warp, alive);
        const unsigned written = __ballot_sync(whole_warp, is_written);
        if (written == 0) continue;
        const std::size_t at = (row_cell + left) * Traits::channels;
        for (int piece = lane; piece < width * Traits::quads; piece += width) {
            const int cell = piece / Traits::quads;
            if ((written >> cell & 1) == 0) continue;
            const bool lives = (life >> cell & 1) != 0;
            store4(args.state_out + at + piece * 4,
                   lives ? load4(args.state + at + piece * 4) : zero4());
        }
    }
}

}  // namespace

void launch_mask_state(const MaskStateArgs& args, cudaStream_t stream) {
    launch(NCA_KERNEL(mask_state_kernel),
           {.blocks = elementwise_blocks(static_cast<long long>(args.grid.cells())),
            .threads = Traits::threads},
           stream, args);
}

}  // namespace nca::cuda
