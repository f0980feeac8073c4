// SPDX-License-Identifier: MIT
// One step forward with the MLP on tensor cores: step_forward.cu's formula, buffers and phases, for
// one tile of 16 x 8 cells after the other, 64 rows at a time.
//
// Per row 16,384 operations; a lane's weights are 64 floats, read once a launch.
// Reference: host/reference/step.hpp. Tests: tests/tensor_engine_test.cpp.

#include "cuda/kernels.hpp"
#include "cuda/launch.cuh"
#include "cuda/tensor_forward.cuh"

namespace nca::cuda {
namespace {

using SharedStorage = TensorForwardStorage<1>;

template <class Arithmetic>
__global__ void __launch_bounds__(Traits::threads)
    step_forward_tensor_kernel(const __grid_constant__ StepForwardArgs args) {
    auto& shared = shared_storage<SharedStorage, Traits::tensor_shared_bytes>();
    const int thread = static_cast<int>(threadIdx.x);
    const int tiles = tile_count(args.grid), blocks = static_cast<int>(gridDim.x);
    let_dependents_start();
    // The masks and the weights are older than the step before, everything else waits for it.
    const auto own = load_forward_operands<Arithmetic>(
        args.model->tensor, thread / Traits::warp_size, thread % Traits::warp_size);
    if (thread < Traits::channels) shared.u0[thread] = args.model->u0[thread];
    for (int index = static_cast<int>(blockIdx.x); index < tiles; index += blocks) {
        if (thread == 0) shared.places[0] = tile_at(args.grid, index);
        __syncthreads();  // the place is known, and u0
        const unsigned fires = cells_that_fire(shared.places, 1, args.model->key, args.grid,
                                               args.rule.fire_threshold, args.step, thread);
        wait_for_predecessor();
        const Tile tile = shared.places[0];
        tensor_step_forward<Arithmetic>(
            shared, 1, own, args, fires, thread,
            [&] { load_tile(shared.tiles[0], args, tile, thread); },
            [&](int, int cell, int quad, float4 z) {
                store4(args.next + own_offset(args.grid, tile, cell, quad), z);
            });
        write_states(shared.tiles[0], args, tile, thread);
    }
}

}  // namespace

int resident_step_forward_tensor_blocks(Precision precision) {
    return with_arithmetic(precision, [](auto arithmetic) {
        return resident_blocks("step_forward_tensor_kernel",
                               step_forward_tensor_kernel<decltype(arithmetic)>, Traits::threads,
                               sizeof(SharedStorage));
    });
}

void launch_step_forward_tensor(const StepForwardArgs& args, Precision precision, int most_blocks,
                                bool dependent, cudaStream_t stream) {
    with_arithmetic(precision, [&](auto arithmetic) {
        launch("step_forward_tensor_kernel", step_forward_tensor_kernel<decltype(arithmetic)>,
               {.blocks = blocks_for(tile_count(args.grid), most_blocks),
                .threads = Traits::threads,
                .shared_bytes = sizeof(SharedStorage),
                .dependent = dependent},
               stream, args);
    });
}

}  // namespace nca::cuda
