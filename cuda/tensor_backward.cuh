// SPDX-License-Identifier: MIT
#pragma once

// A step back of several tiles by one block, with the MLP on tensor cores: the phases of
// backward_tile.cuh for all tiles between the same barriers, and the rows of all tiles in one list.
// What does not hang on the step after comes first, so that it is done while that step ends.

#include "cuda/backward_tile.cuh"
#include "cuda/tensor_forward.cuh"

namespace nca::cuda {

template <int most_tiles>
struct TensorBackwardStorage {
    BackwardTile tiles[most_tiles];
    Tile places[most_tiles];
    int totals[most_tiles];  // of cells with rows
    int lone_totals[most_tiles];
    // Of the state after the step at first, then grad_z of the step.
    alignas(16) float grads[most_tiles][Traits::tile_cells * Traits::channels];
    alignas(16) float lone_grad_u[Traits::channels];  // the row that has no cell of its own
    BackwardRows rows;
};

// Rows that a block has: those of cells, and behind them one for all lone cells where there are
// any.
struct RowCounts {
    int cells;
    int lone;          // cells
    unsigned own_row;  // whether the thread's own cell has a row, a bit for each tile
    __device__ int all() const { return cells + (lone > 0 ? 1 : 0); }
};

// Masks and states, and from them the lists of rows: all that is known before the step after ends.
// Which cells live after the step may be known already; a tile that has none has no rows, and its
// states are not read.
template <int most_tiles>
__device__ inline RowCounts list_backward_rows(TensorBackwardStorage<most_tiles>& shared, int tiles,
                                               const StepBackwardArgs& args, unsigned fires,
                                               bool lives_on_known, int thread) {
    if (!lives_on_known) {
        for (int i = 0; i < tiles; ++i) {
            load_lives_on(shared.tiles[i], args, shared.places[i], thread);
        }
        __syncthreads();  // the living are counted
    }
    for (int i = 0; i < tiles; ++i) {
        if (sum_of_counts(shared.tiles[i].living_counts) == 0) continue;
        load_halo_states(shared.tiles[i].states, args.state, args.grid, args.rule.circular,
                         shared.places[i], thread);
    }
    if (thread < Traits::halo_cells) {
        load_then_use<most_tiles>(
            tiles, [&](int i) { return lives_before(args, shared.places[i], thread); },
            [&](int i, bool lives) { shared.tiles[i].living[thread] = lives; });
    }
    __syncthreads();  // masks are loaded
    RowCounts counts = {};
    unsigned is_lone = 0;
    for (int i = 0; i < tiles; ++i) {
        bool row, lone;
        find_rows(shared.tiles[i], fires >> i & 1, row, lone, thread);
        counts.own_row |= unsigned{row} << i;
        is_lone |= unsigned{lone} << i;
    }
    wait_for_copies();
    __syncthreads();  // rows are counted, states loaded
    for (int i = 0; i < tiles; ++i) {
        BackwardTile& tile = shared.tiles[i];
        const int cells = sum_of_counts(tile.row_counts), lone = sum_of_counts(tile.lone_counts);
        if (thread == 0) {
            shared.totals[i] = cells;
            shared.lone_totals[i] = lone;
        }
        counts.cells += cells;
        counts.lone += lone;
        list_cell(tile.cells, tile.row_counts, counts.own_row >> i & 1, thread);
        list_cell(tile.lone, tile.lone_counts, is_lone >> i & 1, thread);
    }
    __syncthreads();  // rows are listed
    return counts;
}

// Who lives before a step lives after the one that comes next on the way back. To be called when
// the step is done, and followed by a barrier.
template <int most_tiles>
__device__ inline void keep_life(TensorBackwardStorage<most_tiles>& shared, int tiles,
                                 const Grid& grid, int thread) {
    for (int i = 0; i < tiles; ++i) {
        const bool lives = thread < Traits::tile_cells &&
                           own_cell(grid, shared.places[i], thread) >= 0 &&
                           shared.tiles[i].living[halo_of_own(thread)] != 0;
        set_lives_on(shared.tiles[i], lives, thread);
    }
}

// grads becomes grad_z: what the step after sends is added, and what died is cleared. sent(tile,
// own cell, quad) is what it sends to four channels. Ends with a barrier.
template <int most_tiles, class Sent>
__device__ inline void gather_grad_z(TensorBackwardStorage<most_tiles>& shared, int tiles,
                                     int thread, Sent sent) {
    for (int i = thread; i < tiles * Traits::tile_cells * Traits::quads; i += Traits::threads) {
        const int tile = i / (Traits::tile_cells * Traits::quads);
        const int own = i / Traits::quads % Traits::tile_cells, quad = i % Traits::quads;
        float* const at = shared.grads[tile] + own * Traits::channels + quad * 4;
        float4 grad = zero4();
        if (shared.tiles[tile].lives_on[own]) {
            grad = load4(at);
            add_scaled(grad, 1, sent(tile, own, quad));
        }
        store4(at, grad);
    }
    __syncthreads();  // grad_z is there
}

// The same from global memory. The step before is told there who will send.
template <int most_tiles>
__device__ inline void gather_grad_z(TensorBackwardStorage<most_tiles>& shared, int tiles,
                                     const StepBackwardArgs& args, const RowCounts& counts,
                                     int thread) {
    if (thread < Traits::halo_cells) {
        load_then_use<most_tiles>(
            tiles, [&](int i) { return has_row_after(args, shared.places[i], thread); },
            [&](int i, bool has_row) { shared.tiles[i].row_after[thread] = has_row; });
    }
    for (int i = 0; i < tiles; ++i) {
        write_row(args, shared.places[i], counts.own_row >> i & 1, thread);
    }
    __syncthreads();  // it is known who sends
    gather_grad_z(shared, tiles, thread, [&](int tile, int own, int quad) {
        if (args.grad_p == nullptr) return zero4();
        return gather_sent(shared.tiles[tile], args, shared.places[tile], own, quad);
    });
}

// Sums the gradients that the lone cells share, in the order of cells.
template <int most_tiles>
__device__ inline void sum_lone_cells(TensorBackwardStorage<most_tiles>& shared, int tiles,
                                      float step_size, int thread) {
    if (thread >= Traits::channels) return;
    float sum = 0;
    for (int i = 0; i < tiles; ++i) {
        for (int j = 0; j < shared.lone_totals[i]; ++j) {
            sum += shared.grads[i][shared.tiles[i].lone[j] * Traits::channels + thread];
        }
    }
    shared.lone_grad_u[thread] = step_size * sum;
}

// Sends the rows through the network: adds to sums; store(tile, own cell, column, two values) takes
// grad_p. Ends with a barrier where there are rows.
template <class Arithmetic, int most_tiles, class Store>
__device__ inline void send_rows_back(TensorSums& sums, TensorBackwardStorage<most_tiles>& shared,
                                      const BackwardOperands<Arithmetic>& own, const StepRule& rule,
                                      const RowCounts& counts, int thread, Store store) {
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    const int quad = lane % Traits::quads, row_of_thread = thread / Traits::quads;
    for (int first = 0; first < counts.all(); first += TensorShape::rows) {
        const int row = first + row_of_thread;
        const float* state = nullptr;
        float4 grad_u = zero4();
        if (row < counts.cells) {
            const RowPlace place = row_place(shared.totals, row);
            const int cell = shared.tiles[place.tile].cells[place.row];
            state = shared.tiles[place.tile].states + halo_of_own(cell) * Traits::channels;
            add_scaled(grad_u, rule.step_size,
                       load4(shared.grads[place.tile] + cell * Traits::channels + quad * 4));
        } else if (row < counts.all()) {
            grad_u = load4(shared.lone_grad_u + quad * 4);
        }
        perceive_cell(shared.rows.p + row_of_thread * TensorShape::p_pitch, state, rule, quad);
        store4(shared.rows.grad_u + row_of_thread * TensorShape::u_pitch + quad * 4, grad_u);
        __syncthreads();  // p and grad_u are there
        const int count =
            counts.all() - first < TensorShape::rows ? counts.all() - first : TensorShape::rows;
        tensor_weight_gradients<Arithmetic>(sums, shared.rows, own, count, warp, lane);
        __syncthreads();  // grad_a is whole
        tensor_grad_p<Arithmetic>(
            shared.rows, count, warp, lane, [&](int of_chunk, int column, float2 grad_p) {
                if (first + of_chunk >= counts.cells) return;  // the lone cells' row, or none
                const RowPlace place = row_place(shared.totals, first + of_chunk);
                store(place.tile, shared.tiles[place.tile].cells[place.row], column, grad_p);
            });
        __syncthreads();  // nobody reads these rows any more
    }
}

// Where two values of an own cell's grad_p lie in [cells, 48].
__device__ inline float2& grad_p_place(float* grad_p, const Grid& grid, const Tile& tile, int own,
                                       int column) {
    const std::size_t cell =
        std::size_t(tile.sample) * grid.height * grid.width + own_cell(grid, tile, own);
    return *reinterpret_cast<float2*>(grad_p + cell * Traits::perception + column);
}

// W1 as grad_p is made with it. There after wait_for_copies and a barrier.
__device__ inline void load_w1_back(BackwardRows& rows, const TensorWeights& weights, int thread) {
    const float* from = weights.w1_back[0][0][0];
    for (int i = thread; i < Traits::perception * Traits::hidden / 4; i += Traits::threads) {
        copy_async(rows.w1 + i * 4, from + i * 4);
    }
}

// Adds the warps' sums to the block's, or overwrites those.
__device__ inline void write_tensor_sums(PartialGradients& partial, const TensorSums& sums,
                                         bool overwrite, int warp, int lane) {
    const auto add = [&](float& to, float sum) { to = overwrite ? sum : to + sum; };
    const int hidden = warp * 16;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = hidden + c_row(lane, i), column = c_column(lane, i);
#pragma unroll
        for (int j = 0; j < TensorShape::p_columns; ++j) {
            add(partial.w1[(j * 8 + column) * Traits::hidden + row], sums.w1[j].sums[i]);
        }
#pragma unroll
        for (int j = 0; j < TensorShape::u_columns; ++j) {
            add(partial.w2[(j * 8 + column) * Traits::hidden + row], sums.w2[j].sums[i]);
        }
    }
    // The four lanes of a group have summed different rows.
    const auto sum_of_group = [](float own) {
        own += __shfl_xor_sync(0xffffffffU, own, 1);
        return own + __shfl_xor_sync(0xffffffffU, own, 2);
    };
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float b1 = sum_of_group(sums.b1[i]), b2 = sum_of_group(sums.b2[i]);
        if (lane % 4 != 0) continue;
        add(partial.b1[hidden + lane / 4 + i * 8], b1);
        if (warp == 0) add(partial.b2[i * 8 + lane / 4], b2);
    }
}

}  // namespace nca::cuda
