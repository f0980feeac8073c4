// SPDX-License-Identifier: MIT
// One step back with the MLP on tensor cores: step_backward.cu's formula and buffers, for one tile
// of 16 x 8 cells after the other, 64 rows at a time. A warp keeps its weight gradients in
// registers for the block's life, summed once a chunk of rows in float32, rounded to nearest.
//
// Per row 45,056 operations. Reference: host/reference/step.hpp. Tests:
// tests/tensor_engine_test.cpp.

#include "cuda/kernels.hpp"
#include "cuda/launch.cuh"
#include "cuda/tensor_backward.cuh"

namespace nca::cuda {
namespace {

using SharedStorage = TensorBackwardStorage<1>;

// The gradient of the state after the step: from global memory to shared, and grad_z back.
__device__ void copy_grads(SharedStorage& shared, const StepBackwardArgs& args, bool back,
                           int thread) {
    const Tile& tile = shared.places[0];
    const std::size_t sample = std::size_t(tile.sample) * args.grid.height * args.grid.width;
    for (int i = thread; i < Traits::tile_cells * Traits::quads; i += Traits::threads) {
        const int cell = own_cell(args.grid, tile, i / Traits::quads);
        if (cell < 0) continue;
        const std::size_t at = (sample + cell) * Traits::channels + i % Traits::quads * 4;
        if (back) {
            store4(args.grad_z_out + at, load4(shared.grads[0] + i * 4));
        } else {
            copy_async(shared.grads[0] + i * 4, args.grad + at);
        }
    }
}

template <class Arithmetic>
__global__ void __launch_bounds__(Traits::threads)
    step_backward_tensor_kernel(const __grid_constant__ StepBackwardArgs args) {
    auto& shared = shared_storage<SharedStorage, Traits::tensor_shared_bytes>();
    const int thread = static_cast<int>(threadIdx.x);
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    const int tiles = tile_count(args.grid), blocks = static_cast<int>(gridDim.x);
    let_dependents_start();
    const auto own = load_backward_operands<Arithmetic>(args.model->tensor, warp, lane);
    load_w1_back(shared.rows, args.model->tensor, thread);
    TensorSums sums = {};
    bool any_rows = false;
    for (int index = static_cast<int>(blockIdx.x); index < tiles; index += blocks) {
        if (thread == 0) shared.places[0] = tile_at(args.grid, index);
        __syncthreads();  // the place is known
        const unsigned fires = cells_that_fire(shared.places, 1, args.model->key, args.grid,
                                               args.rule.fire_threshold, args.step, thread);
        const RowCounts counts = list_backward_rows(shared, 1, args, fires, false, thread);
        any_rows |= counts.all() > 0;
        wait_for_predecessor();
        copy_grads(shared, args, false, thread);
        wait_for_copies();
        gather_grad_z(shared, 1, args, counts, thread);
        copy_grads(shared, args, true, thread);
        if (counts.lone > 0) {
            sum_lone_cells(shared, 1, args.rule.step_size, thread);
            __syncthreads();  // the lone cells' row is summed
        }
        send_rows_back<Arithmetic>(sums, shared, own, args.rule, counts, thread,
                                   [&](int, int cell, int column, float2 two) {
                                       grad_p_place(args.grad_p_out, args.grid, shared.places[0],
                                                    cell, column) = two;
                                   });
        __syncthreads();  // nobody reads this tile any more
    }
    if (any_rows) {
        const bool overwrite = args.has_partial[blockIdx.x] == 0;
        write_tensor_sums(args.partial[blockIdx.x], sums, overwrite, warp, lane);
    }
    __syncthreads();  // everybody has read the flag
    if (any_rows && thread == 0) args.has_partial[blockIdx.x] = 1;
}

}  // namespace

void launch_step_backward_tensor(const StepBackwardArgs& args, Precision precision, bool dependent,
                                 cudaStream_t stream) {
    with_arithmetic(precision, [&](auto arithmetic) {
        launch("step_backward_tensor_kernel", step_backward_tensor_kernel<decltype(arithmetic)>,
               {.blocks = backward_blocks(args.grid),
                .threads = Traits::threads,
                .shared_bytes = sizeof(SharedStorage),
                .dependent = dependent},
               stream, args);
    });
}

}  // namespace nca::cuda
