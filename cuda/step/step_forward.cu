// SPDX-License-Identifier: MIT
// One step forward.
//
//   x    = z * life                        the mask of the step before, applied late
//   u    = W2 relu(W1 perceive(x) + b1) + b2
//   z'   = x + fire * step_size * u
//
// Reads z [batch, height, width, 16], overwrites z' and, where they are wanted, x and life, which
// is what going back needs. The mask of z follows from the 3x3 of z, so the next step applies it
// when it reads z, and a step is one launch: the kernel looks two cells beyond its tile.
//
// A block takes tiles of 16 x 8 cells. It masks the tile and its halo in shared memory, lists the
// cells that fired and are not empty, and sends only those through the MLP, eight rows to a warp.
// Empty cells that fired change by u0, which is the same for all of them; the others keep x.
// Results do not depend on which block takes a tile.
//
// Per cell: 64 bytes of z with its halo (1.4 times as much, from the L2 cache mostly), 64 written,
// 64 more where x is kept; 16,384 operations for a cell that fired and is not empty.
// Reference: host/reference/step.hpp. Test: tests/engine_test.cpp on every engine.

#include "cuda/device/launch.cuh"
#include "cuda/rule/mlp_forward.cuh"
#include "cuda/rule/perceive.cuh"
#include "cuda/rule/philox.hpp"
#include "cuda/step/tile_forward.cuh"

namespace nca::cuda {
namespace {

struct SharedStorage {
    ForwardWeights weights;
    ForwardTile tile;
    alignas(16) float scratch[Traits::warps][mlp_forward_scratch];
};

__device__ void load_weights(SharedStorage& shared, const PackedModel& model, int thread) {
    constexpr int pieces = sizeof(ForwardWeights) / sizeof(float4);
    auto* to = reinterpret_cast<float*>(&shared.weights);
    const auto* from = reinterpret_cast<const float*>(&model.forward);
    for (int i = thread; i < pieces; i += Traits::threads) copy_async(to + i * 4, from + i * 4);
}

// z' of eight active cells by one warp, whose scratch holds their perception.
__device__ void update_rows(SharedStorage& shared, const StepForwardArgs& args, const Tile& tile,
                            int first, int total, int warp, int lane) {
    const float4 u = mlp_forward_rows(shared.weights, shared.scratch[warp], lane);
    const int row = first + forward_row_of(lane);
    if (row >= total) return;
    const int own = shared.tile.rows[row], quad = forward_quad_of(lane);
    float4 z = load4(shared.tile.states + halo_of_own(own) * Traits::channels + quad * 4);
    add_scaled(z, args.rule.step_size, u);
    write_next(args, tile, own, quad, z, true);
}

__device__ void perceive_group(SharedStorage& shared, const StepForwardArgs& args, int first,
                               int total, int warp, int lane) {
    const int count = total - first < Traits::forward_rows ? total - first : Traits::forward_rows;
    perceive_rows(shared.scratch[warp], shared.tile.states, shared.tile.rows + first, count,
                  args.rule, lane);
}

__global__ void __launch_bounds__(Traits::threads)
    step_forward_kernel(const __grid_constant__ StepForwardArgs args) {
    auto& shared = shared_storage<SharedStorage>();
    const int thread = int(threadIdx.x);
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    const int tiles = tile_count(args.grid), blocks = int(gridDim.x);
    bool weights_asked_for = false;
    let_dependents_start();
    for (int index = int(blockIdx.x); index < tiles; index += blocks) {
        const Tile tile = tile_at(args.grid, index);
        // Fire masks and weights do not depend on the step before; everything else waits for it.
        const int cell = thread < Traits::tile_cells ? own_cell(args.grid, tile, thread) : -1;
        const bool fires = cell >= 0 && cell_fires(args.model->key, args.rule.fire_threshold,
                                                   args.step, tile.sample, cell);
        wait_for_predecessor();
        load_tile(shared.tile, args, tile, thread);
        wait_for_copies();
        __syncthreads();  // the tile is loaded
        find_life(shared.tile, args, thread);
        __syncthreads();  // the mask is known
        mask_states(shared.tile, thread);
        write_states(shared.tile, args, tile, thread);
        decide_fates(shared.tile, args, tile, fires, thread);
        __syncthreads();  // states are masked, fates decided and counted
        const int total = list_rows(shared.tile, thread);
        if (total > 0 && !weights_asked_for) {
            load_weights(shared, *args.model, thread);
            weights_asked_for = true;
        }
        write_passive_cells(shared.tile, args, tile, args.model->u0, thread);
        __syncthreads();  // the rows are listed

        int first = warp * Traits::forward_rows;
        if (first < total) perceive_group(shared, args, first, total, warp, lane);
        wait_for_copies();
        __syncthreads();  // the weights are there, and each warp's first rows
        while (first < total) {
            update_rows(shared, args, tile, first, total, warp, lane);
            first += Traits::threads / Traits::warp_size * Traits::forward_rows;
            if (first >= total) break;
            __syncwarp();  // all lanes are done with the scratch
            perceive_group(shared, args, first, total, warp, lane);
            __syncwarp();  // the next rows are there
        }
        if (index + blocks < tiles) __syncthreads();  // nobody reads this tile any more
    }
}

}  // namespace

int resident_step_forward_blocks() {
    return resident_blocks(NCA_KERNEL(step_forward_kernel), Traits::threads, sizeof(SharedStorage));
}

int loaded_code() { return code_of_kernel("step_forward_kernel", handle_of(step_forward_kernel)); }

void launch_step_forward(const StepForwardArgs& args, int most_blocks, bool dependent,
                         cudaStream_t stream) {
    launch(NCA_KERNEL(step_forward_kernel),
           {.blocks = blocks_for(tile_count(args.grid), most_blocks),
            .threads = Traits::threads,
            .shared_bytes = sizeof(SharedStorage),
            .dependent = dependent},
           stream, args);
}

}  // namespace nca::cuda
