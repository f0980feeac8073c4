// SPDX-License-Identifier: MIT
// One step forward with the MLP on tensor cores: step_forward.cu's formula, buffers and phases, for
// one tile of 16 x 8 cells after the other, 64 rows at a time.
//
// Per row 16,384 operations; a lane's weights are 64 floats, read once a launch.
// Reference: host/reference/step.hpp. Tests: tests/tensor_engine_test.cpp.

#include "cuda/forward_tile.cuh"
#include "cuda/kernels.hpp"
#include "cuda/launch.cuh"
#include "cuda/perceive.cuh"
#include "cuda/philox.hpp"
#include "cuda/tensor_mlp.cuh"

namespace nca::cuda {
namespace {

struct SharedStorage {
    ForwardTile tile;
    alignas(16) float u0[Traits::channels];
    ForwardRows rows;
};

// z' of the active cells, which are listed.
template <class Arithmetic>
__device__ void send_rows_forward(SharedStorage& shared, const ForwardOperands<Arithmetic>& own,
                                  const StepForwardArgs& args, const Tile& tile, int total,
                                  int thread) {
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    const int quad = lane % Traits::quads;
    const int row_of_thread = thread / Traits::quads;  // 64 rows, four threads each
    static_assert(Traits::threads == TensorShape::rows * Traits::quads);
    for (int first = 0; first < total; first += TensorShape::rows) {
        const bool has_row = first + row_of_thread < total;
        int cell = 0;
        const float* state = nullptr;
        if (has_row) {
            cell = shared.tile.rows[first + row_of_thread];
            state = shared.tile.states + halo_of_own(cell) * Traits::channels;
        }
        perceive_cell(shared.rows.p + row_of_thread * TensorShape::p_pitch, state, args.rule, quad);
        __syncthreads();  // p is there
        tensor_forward<Arithmetic>(shared.rows, own, total - first, warp, lane);
        __syncthreads();  // the quarters of u are there, and nobody reads p any more
        if (has_row) {
            float4 z = load4(state + quad * 4);
            add_scaled(z, args.rule.step_size,
                       finished_u(shared.rows, args.model->tensor, row_of_thread, quad));
            store4(args.next + own_offset(args.grid, tile, cell, quad), z);
        }
    }
}

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
        const Tile tile = tile_at(args.grid, index);
        const int cell = thread < Traits::tile_cells ? own_cell(args.grid, tile, thread) : -1;
        const bool fires = cell >= 0 && cell_fires(args.model->key, args.rule.fire_threshold,
                                                   args.step, tile.sample, cell);
        wait_for_predecessor();
        load_tile(shared.tile, args, tile, thread);
        wait_for_copies();
        __syncthreads();  // the tile is loaded, and u0
        find_living(shared.tile, args, thread);
        __syncthreads();  // the mask is known
        mask_states(shared.tile, thread);
        decide_fates(shared.tile, args, tile, fires, thread);
        __syncthreads();  // states are masked, fates decided and counted
        const int total = list_rows(shared.tile, thread);
        write_passive_cells(shared.tile, args.rule.step_size, shared.u0, thread,
                            [&](int passive, int quad, float4 z) {
                                store4(args.next + own_offset(args.grid, tile, passive, quad), z);
                            });
        __syncthreads();  // the rows are listed
        send_rows_forward<Arithmetic>(shared, own, args, tile, total, thread);
        write_states(shared.tile, args, tile, thread);
        if (index + blocks < tiles) __syncthreads();  // nobody reads this tile any more
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
