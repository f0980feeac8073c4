// SPDX-License-Identifier: MIT
#pragma once

// A step forward of several tiles by one block, with the MLP on tensor cores: the phases of
// forward_tile.cuh for all tiles between the same barriers, so that their latencies are shared,
// and the rows of all tiles in one list.

#include "cuda/forward_tile.cuh"
#include "cuda/perceive.cuh"
#include "cuda/philox.hpp"
#include "cuda/tensor_mlp.cuh"

namespace nca::cuda {

template <int most_tiles>
struct TensorForwardStorage {
    ForwardTile tiles[most_tiles];
    Tile places[most_tiles];
    int totals[most_tiles];  // of active cells
    alignas(16) float u0[Traits::channels];
    ForwardRows rows;
};

// A row of the block's list: which tile, and which of the tile's rows.
struct RowPlace {
    int tile;
    int row;
};

template <int most_tiles>
__device__ inline RowPlace row_place(const int (&totals)[most_tiles], int row) {
    int tile = 0;
    while (tile < most_tiles - 1 && row >= totals[tile]) row -= totals[tile++];
    return {tile, row};
}

// Whether a thread's own cell fires, a bit for each tile.
template <int most_tiles>
__device__ inline unsigned cells_that_fire(const Tile (&places)[most_tiles], int tiles,
                                           const FireKey& key, const Grid& grid,
                                           std::uint64_t threshold, std::uint32_t step,
                                           int thread) {
    unsigned fires = 0;
    if (thread >= Traits::tile_cells) return fires;
    for (int i = 0; i < tiles; ++i) {
        const int cell = own_cell(grid, places[i], thread);
        if (cell < 0) continue;
        fires |= unsigned{cell_fires(key, threshold, step, places[i].sample, cell)} << i;
    }
    return fires;
}

// u0 by the very code that computes every other row, so that skipping such rows changes no bit.
template <class Arithmetic, int most_tiles>
__device__ inline void compute_u0(TensorForwardStorage<most_tiles>& shared,
                                  const ForwardOperands<Arithmetic>& own,
                                  const TensorWeights& weights, int thread) {
    constexpr int count = 1, rows = 16;  // that are read for one
    for (int i = thread; i < rows * TensorShape::p_pitch; i += Traits::threads) {
        shared.rows.p[i] = 0;
    }
    __syncthreads();  // p is zero
    tensor_forward<Arithmetic>(shared.rows, own, count, thread / Traits::warp_size,
                               thread % Traits::warp_size);
    __syncthreads();  // the quarters are there
    if (thread < Traits::quads) {
        store4(shared.u0 + thread * 4, finished_u(shared.rows, weights, 0, thread));
    }
    __syncthreads();  // u0 is there, and the rows may be used again
}

// Masks the states of the tiles, from the alphas and masks that are loaded, and decides what
// becomes of each cell.
template <int most_tiles>
__device__ inline void mask_and_decide(TensorForwardStorage<most_tiles>& shared, int tiles,
                                       const StepForwardArgs& args, unsigned fires, int thread) {
    for (int i = 0; i < tiles; ++i) find_living(shared.tiles[i], args, thread);
    __syncthreads();  // the masks are known
    for (int i = 0; i < tiles; ++i) {
        mask_states(shared.tiles[i], thread);
        decide_fates(shared.tiles[i], args, shared.places[i], fires >> i & 1, thread);
    }
    __syncthreads();  // states are masked, fates decided and counted
}

// What a lane reads of each tile, all of it under way before the first is used.
template <int most_tiles, class Load, class Use>
__device__ inline void load_then_use(int tiles, Load load, Use use) {
    decltype(load(0)) values[most_tiles] = {};
#pragma unroll
    for (int i = 0; i < most_tiles; ++i) {
        if (i < tiles) values[i] = load(i);
    }
#pragma unroll
    for (int i = 0; i < most_tiles; ++i) {
        if (i < tiles) use(i, values[i]);
    }
}

// One step. load() brings the states of the tiles with their halo, alphas above the threshold and
// the masks from before (see ForwardTile), done after wait_for_copies and a barrier; store(tile,
// own cell, quad, z') takes the results. Leaves x in shared memory and ends with a barrier.
template <class Arithmetic, int most_tiles, class Load, class Store>
__device__ inline void tensor_step_forward(TensorForwardStorage<most_tiles>& shared, int tiles,
                                           const ForwardOperands<Arithmetic>& own,
                                           const StepForwardArgs& args, unsigned fires, int thread,
                                           Load load, Store store) {
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    load();
    wait_for_copies();
    __syncthreads();  // the tiles are loaded
    mask_and_decide(shared, tiles, args, fires, thread);
    int total = 0;
    for (int i = 0; i < tiles; ++i) {
        const int rows = list_rows(shared.tiles[i], thread);
        if (thread == 0) shared.totals[i] = rows;
        total += rows;
        write_passive_cells(shared.tiles[i], args.rule.step_size, shared.u0, thread,
                            [&](int cell, int quad, float4 z) { store(i, cell, quad, z); });
    }
    __syncthreads();  // the rows are listed

    const int quad = lane % Traits::quads;
    const int row_of_thread = thread / Traits::quads;  // 64 rows, four threads each
    static_assert(Traits::threads == TensorShape::rows * Traits::quads);
    for (int first = 0; first < total; first += TensorShape::rows) {
        const bool has_row = first + row_of_thread < total;
        RowPlace place = {};
        int cell = 0;
        const float* state = nullptr;
        if (has_row) {
            place = row_place(shared.totals, first + row_of_thread);
            cell = shared.tiles[place.tile].rows[place.row];
            state = shared.tiles[place.tile].states + halo_of_own(cell) * Traits::channels;
        }
        perceive_cell(shared.rows.p + row_of_thread * TensorShape::p_pitch, state, args.rule, quad);
        __syncthreads();  // p is there
        tensor_forward<Arithmetic>(shared.rows, own, total - first, warp, lane);
        __syncthreads();  // the quarters of u are there, and nobody reads p any more
        if (has_row) {
            float4 z = load4(state + quad * 4);
            add_scaled(z, args.rule.step_size,
                       finished_u(shared.rows, args.model->tensor, row_of_thread, quad));
            store(place.tile, cell, quad, z);
        }
    }
    __syncthreads();  // all of z' is written
}

}  // namespace nca::cuda
