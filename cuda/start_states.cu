// SPDX-License-Identifier: MIT
// States that training starts from: empty grids with the rule's start cell at their middle.
// Overwrites [batch, height, width, 16], 64 bytes a cell. Once a run for the batch, and for the
// pool once a run and at every recovery.
// Test: tests/trainer_test.cpp.

#include "cuda/launch.cuh"
#include "cuda/start_cell.cuh"

namespace nca::cuda {
namespace {

struct StartStatesArgs {
    float* state;  // [cells, 16]
    Grid grid;
    StartCell start;
};

__global__ void __launch_bounds__(Traits::threads)
    start_states_kernel(const __grid_constant__ StartStatesArgs args) {
    const std::size_t own = std::size_t(args.grid.height) * args.grid.width * Traits::quads;
    const std::size_t pieces = args.grid.batch * own;
    const std::size_t stride = std::size_t(gridDim.x) * Traits::threads;
    for (std::size_t i = std::size_t(blockIdx.x) * Traits::threads + threadIdx.x; i < pieces;
         i += stride) {
        store4(args.state + i * 4, start_state_piece(args.start, args.grid, i % own));
    }
}

}  // namespace

void launch_start_states(float* state, const Grid& grid, const StartCell& start,
                         cudaStream_t stream) {
    const StartStatesArgs args = {state, grid, start};
    const long long pieces = static_cast<long long>(grid.cells()) * Traits::quads;
    launch(NCA_KERNEL(start_states_kernel),
           {.blocks = elementwise_blocks(pieces), .threads = Traits::threads}, stream, args);
}

}  // namespace nca::cuda
