// SPDX-License-Identifier: MIT
#pragma once

// What the two kernels that run a whole rollout have in common: what a step of it reads and writes,
// the end of the way forward, and the loss.

#include "cuda/loss.cuh"
#include "cuda/rollout_kernels.hpp"
#include "cuda/tensor_backward.cuh"

namespace nca::cuda {

__device__ inline FireKey key_of(const RolloutArgs& args) {
    return args.control != nullptr ? args.control->plans[args.control->cursor].key
                                   : args.model->key;
}

__device__ inline StepForwardArgs forward_args(const RolloutArgs& args, int step) {
    const std::size_t cells = std::size_t(args.grid.batch) * args.grid.height * args.grid.width;
    const int now = step % 2, before = 1 - now;
    const bool first = step == 0;
    return {.next = args.z[now],
            .state_out =
                args.states != nullptr ? args.states + step * cells * Traits::channels : nullptr,
            .life_out = args.life != nullptr && !first ? args.life + step * cells : nullptr,
            .living_before_out = args.living_before[now],
            .state = first ? args.first_state : args.z[before],
            .living_before = first ? nullptr : args.living_before[before],
            .model = args.model,
            .grid = args.grid,
            .rule = args.rule,
            .step = static_cast<std::uint32_t>(step),
            .first = first};
}

__device__ inline StepBackwardArgs backward_args(const RolloutArgs& args, int step) {
    const std::size_t cells = std::size_t(args.grid.batch) * args.grid.height * args.grid.width;
    const int now = step % 2, after = 1 - now;
    const bool last = step == args.steps - 1;
    return {.grad_z_out = nullptr,
            .grad_p_out = args.grad_p[now],
            .row_out = args.row[now],
            .partial = nullptr,
            .has_partial = nullptr,
            .grad = nullptr,
            .grad_p = last ? nullptr : args.grad_p[after],
            .row = last ? nullptr : args.row[after],
            .state = args.states + step * cells * Traits::channels,
            .life = step > 0 ? args.life + step * cells : nullptr,
            .next_life = args.life + (step + 1) * cells,
            .model = args.model,
            .grid = args.grid,
            .rule = args.rule,
            .step = static_cast<std::uint32_t>(step)};
}

// The last mask, from states that are loaded, and what it leaves; what died is not cleared in
// shared memory. Ends with a barrier.
template <int most_tiles>
__device__ inline void finish_states(TensorForwardStorage<most_tiles>& shared, int tiles,
                                     const StepForwardArgs& last, int thread) {
    for (int i = 0; i < tiles; ++i) find_living(shared.tiles[i], last, thread);
    __syncthreads();  // the masks are known
    for (int i = 0; i < tiles; ++i) {
        const Tile& tile = shared.places[i];
        write_states(shared.tiles[i], last, tile, thread);
        const int cell = thread < Traits::tile_cells ? own_cell(last.grid, tile, thread) : -1;
        if (cell < 0 || last.life_out == nullptr) continue;
        last.life_out[std::size_t(tile.sample) * last.grid.height * last.grid.width + cell] =
            shared.tiles[i].living[halo_of_own(thread)];
    }
    __syncthreads();  // the last states are there
}

// The sums of warps that have own cells.
template <int most_tiles>
using WarpLosses = LossPartial[most_tiles][own_warps];

// Engine::loss of the block's tiles, whose last states are in shared memory: the gradient to shared
// memory, where it may take the states' place, and a partial sum for each tile, whose index
// tile_index tells. loss.cu has the formula. Ends without a barrier.
template <int most_tiles, class Forward, class Backward, class TileIndex>
__device__ inline void compute_loss(const Forward& forward, Backward& backward,
                                    WarpLosses<most_tiles>& losses, const RolloutArgs& args,
                                    int tiles, int thread, TileIndex tile_index) {
    float4 gradients[most_tiles];
#pragma unroll
    for (int i = 0; i < most_tiles; ++i) {
        gradients[i] = zero4();
        if (i >= tiles || thread >= Traits::tile_cells) continue;
        LossPartial own = {};
        const int cell = own_cell(args.grid, forward.places[i], thread);
        if (cell >= 0) {
            const int halo = halo_of_own(thread);
            const float4 x = forward.tiles[i].living[halo]
                                 ? load4(forward.tiles[i].states + halo * Traits::channels)
                                 : zero4();
            add_loss(own, gradients[i], x,
                     load4(args.target + std::size_t(cell) * visible_channels), args.loss_scale);
        }
        own = sum_of_warp(own);
        if (thread % Traits::warp_size == 0) {
            losses[i][thread / Traits::warp_size] = own;
        }
    }
    __syncthreads();  // nobody reads the states any more; the warps' sums are there
    if (thread < tiles) {
        LossPartial sum = {};
        for (const LossPartial& part : losses[thread]) {
            sum.squares += part.squares;
            sum.living += part.living;
        }
        args.loss_partial[tile_index(thread)] = sum;
    }
#pragma unroll
    for (int i = 0; i < most_tiles; ++i) {
        if (i >= tiles || thread >= Traits::tile_cells) continue;
        float* const to = backward.grads[i] + thread * Traits::channels;
        store4(to, gradients[i]);
#pragma unroll
        for (int quad = 1; quad < Traits::quads; ++quad) store4(to + quad * 4, zero4());
    }
}

}  // namespace nca::cuda
