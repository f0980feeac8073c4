// SPDX-License-Identifier: MIT
// States that training starts from: empty grids with the start cells.
// Overwrites [batch, height, width, 16], 64 bytes a cell. Once a run for the batch, and for the
// pool once a run and at every recovery.
// Test: tests/trainer_test.cpp.

#include "cuda/device/launch.cuh"
#include "cuda/training/start_cell.cuh"

namespace nca::cuda {
namespace {

struct StartStatesArgs {
    float* state;  // [cells, 16]
    BatchShape grid;
    StartCell start;
};

constexpr int cells_of_block = Traits::threads / Traits::quads;  // at a time

__global__ void __launch_bounds__(Traits::threads)
    start_states_kernel(const __grid_constant__ StartStatesArgs args) {
    const int cells = args.grid.height * args.grid.width;
    const int per_sample = (cells + cells_of_block - 1) / cells_of_block;
    for (int i = int(blockIdx.x); i < args.grid.batch * per_sample; i += int(gridDim.x)) {
        const int first = i % per_sample * cells_of_block;
        if (first + int(threadIdx.x) / Traits::quads >= cells) continue;
        const std::size_t piece = std::size_t(first) * Traits::quads + threadIdx.x;
        const std::size_t sample = std::size_t(i / per_sample) * cells * Traits::channels;
        store4(args.state + sample + piece * 4, start_state_piece(args.start, piece));
    }
}

}  // namespace

void launch_start_states(float* state, const BatchShape& grid, const StartCell& start,
                         cudaStream_t stream) {
    const StartStatesArgs args = {state, grid, start};
    const long long pieces = static_cast<long long>(grid.cells()) * Traits::quads;
    launch(NCA_KERNEL(start_states_kernel),
           {.blocks = elementwise_blocks(pieces), .threads = Traits::threads}, stream, args);
}

}  // namespace nca::cuda
