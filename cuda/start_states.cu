// SPDX-License-Identifier: MIT
// The states that training starts from: empty grids with the rule's start cell at their middle,
// (height / 2, width / 2). Overwrites [batch, height, width, 16], 64 bytes a cell. Once a run.
// Test: tests/trainer_test.cpp.

#include "cuda/device.cuh"
#include "cuda/kernels.hpp"
#include "cuda/launch.cuh"

namespace nca::cuda {
namespace {

struct StartStatesArgs {
    float* state;  // [cells, 16]
    Grid grid;
    float values[Traits::channels];
};

__global__ void __launch_bounds__(Traits::threads)
    start_states_kernel(const __grid_constant__ StartStatesArgs args) {
    const std::size_t cells = std::size_t(args.grid.height) * args.grid.width;
    const std::size_t middle =
        std::size_t(args.grid.height / 2) * args.grid.width + args.grid.width / 2;
    const std::size_t pieces = args.grid.batch * cells * Traits::quads;
    const std::size_t stride = std::size_t(gridDim.x) * Traits::threads;
    for (std::size_t i = std::size_t(blockIdx.x) * Traits::threads + threadIdx.x; i < pieces;
         i += stride) {
        const bool start = i / Traits::quads % cells == middle;
        const float* values = args.values + i % Traits::quads * 4;
        store4(args.state + i * 4,
               start ? make_float4(values[0], values[1], values[2], values[3]) : zero4());
    }
}

}  // namespace

void launch_start_states(float* state, const Grid& grid, const Rule& rule, cudaStream_t stream) {
    StartStatesArgs args = {state, grid, {}};
    const auto values = rule.start_values();
    std::copy(values.begin(), values.end(), args.values);
    const long long pieces = static_cast<long long>(grid.cells()) * Traits::quads;
    launch(NCA_KERNEL(start_states_kernel),
           {.blocks = elementwise_blocks(pieces), .threads = Traits::threads}, stream, args);
}

}  // namespace nca::cuda
