// SPDX-License-Identifier: MIT
#pragma once

// Phases of a step back on one tile: they find which cells have rows. And what a block keeps of a
// tile in shared memory. step_backward.cu has their order; the caller puts the barriers between.

#include "cuda/rule/grid.cuh"
#include "cuda/rule/perceive.cuh"
#include "cuda/rule/philox.hpp"
#include "cuda/step/step_kernels.hpp"
#include "cuda/step/tile_forward.cuh"

namespace nca::cuda {

struct BackwardTile {
    alignas(16) float states[Traits::halo_cells * Traits::channels];
    std::uint8_t life_before[Traits::halo_cells];
    std::uint8_t row_after[Traits::halo_cells];  // has grad_p of the step after
    std::uint8_t life_after[Traits::tile_cells];
    std::uint8_t cells[Traits::tile_cells];  // that have a row of their own, in order
    std::uint8_t empty[Traits::tile_cells];  // empty cells that fired and live, in order
    int living_counts[own_warps];
    int row_counts[own_warps];
    int empty_counts[own_warps];
    // The same for all threads; here it takes no registers.
    Tile place;
    int next;        // tile of the block, or -1
    int rows;        // of cells that have one of their own
    int shared_row;  // behind these: 1 where there are empty cells that fired and live, else 0
    bool any_rows;   // in this tile or one before it
    __device__ int all_rows() const { return rows + shared_row; }
};

// life_before of the cell at a place of the tile and its halo. All cells of a first state are in
// it: nothing masks what is sent to them, so that none may share a row.
__device__ inline bool life_before(const StepBackwardArgs& args, const Tile& tile, int halo) {
    const int cell = halo_cell(args.grid, args.rule.circular, tile, halo);
    if (cell < 0 || args.life_before == nullptr) return cell >= 0;
    return args.life_before[first_cell(args.grid, tile) + cell] != 0;
}

// Whether a sample's way back has begun, or begins with this step.
__device__ inline bool takes_part(const StepBackwardArgs& args, int sample) {
    return args.from_steps == nullptr || int(args.step) < args.from_steps[sample];
}

// The gradient of the states after this step, as far as the step after has not sent it.
__device__ inline const float* grad_after(const StepBackwardArgs& args, int sample) {
    const bool begins = args.from_steps != nullptr && int(args.step) + 1 == args.from_steps[sample];
    return begins ? args.grad_last : args.grad;
}

// life_after of own cells, and how many there are. None lives in a sample that takes no part.
__device__ inline void load_life_after(BackwardTile& shared, const StepBackwardArgs& args,
                                       const Tile& tile, int thread) {
    if (thread >= Traits::tile_cells) return;
    const int cell = own_cell(args.grid, tile, thread);
    const std::size_t sample = first_cell(args.grid, tile);
    const bool life_after =
        cell >= 0 && args.life_after[sample + cell] != 0 && takes_part(args, tile.sample);
    shared.life_after[thread] = life_after;
    const unsigned ballot = __ballot_sync(whole_warp, life_after);
    if (thread % Traits::warp_size == 0) {
        shared.living_counts[thread / Traits::warp_size] = __popc(ballot);
    }
}

// Whether the cell at a place of the tile and its halo has a row in the step after.
__device__ inline bool has_row_after(const StepBackwardArgs& args, const Tile& tile, int halo) {
    const int cell = halo_cell(args.grid, args.rule.circular, tile, halo);
    if (cell < 0 || args.row == nullptr) return false;
    return args.row[first_cell(args.grid, tile) + cell] != 0;
}

__device__ inline int sum_of_counts(const int (&counts)[own_warps]) {
    int total = 0;
    for (int i = 0; i < own_warps; ++i) total += counts[i];
    return total;
}

// Which own cells have a row of their own, and which share one. Counts them.
__device__ inline void find_rows(BackwardTile& shared, bool fires, bool& has_row, bool& is_empty,
                                 int thread) {
    has_row = is_empty = false;
    if (thread >= Traits::tile_cells) return;
    const bool wanted = fires && shared.life_after[thread] != 0;
    const bool near = any_around(shared.life_before, halo_of_own(thread), Traits::halo_width);
    has_row = wanted && near;
    is_empty = wanted && !near;
    const unsigned rows = __ballot_sync(whole_warp, has_row);
    const unsigned empty = __ballot_sync(whole_warp, is_empty);
    if (thread % Traits::warp_size == 0) {
        shared.row_counts[thread / Traits::warp_size] = __popc(rows);
        shared.empty_counts[thread / Traits::warp_size] = __popc(empty);
    }
}

// Writes the thread's own cell to its place in a list that is in the order of cells.
__device__ inline void list_cell(std::uint8_t* list, const int (&counts)[own_warps], bool listed,
                                 int thread) {
    if (thread >= Traits::tile_cells) return;
    int place = 0;
    for (int warp = 0; warp < thread / Traits::warp_size; ++warp) place += counts[warp];
    const unsigned ballot = __ballot_sync(whole_warp, listed);
    place += __popc(ballot & ((1U << thread % Traits::warp_size) - 1));
    if (listed) list[place] = std::uint8_t(thread);
}

// Loads masks and states and lists the rows: all that does not depend on the step after. Returns
// whether the thread's own cell has a row. Ends with a barrier, behind which everything is there
// that the thread has started to copy.
__device__ inline bool list_rows(BackwardTile& shared, const StepBackwardArgs& args, int index,
                                 int thread) {
    const Tile tile = tile_at(args.grid, index);
    load_halo_states(shared.states, args.state, args.grid, args.rule.circular, tile, thread);
    const bool lives = thread < Traits::halo_cells && life_before(args, tile, thread);
    load_life_after(shared, args, tile, thread);
    const int cell = thread < Traits::tile_cells ? own_cell(args.grid, tile, thread) : -1;
    const bool fires = cell >= 0 && cell_fires(args.model->key, args.rule.fire_threshold, args.step,
                                               tile.sample, cell);
    if (thread < Traits::halo_cells) shared.life_before[thread] = lives;
    __syncthreads();  // masks are there
    bool has_row, is_empty;
    find_rows(shared, fires, has_row, is_empty, thread);
    wait_for_copies();
    __syncthreads();  // rows are counted, states loaded
    list_cell(shared.cells, shared.row_counts, has_row, thread);
    list_cell(shared.empty, shared.empty_counts, is_empty, thread);
    if (thread == 0) {
        const int next = index + int(gridDim.x);
        shared.place = tile;
        shared.next = next < tile_count(args.grid) ? next : -1;
        shared.rows = sum_of_counts(shared.row_counts);
        shared.shared_row = sum_of_counts(shared.empty_counts) > 0 ? 1 : 0;
        if (shared.all_rows() > 0) shared.any_rows = true;
    }
    __syncthreads();  // rows are listed
    return has_row;
}

// Reads which cells have a row in the step after, and writes for the step before which have one
// here.
__device__ inline void note_senders(BackwardTile& shared, const StepBackwardArgs& args,
                                    bool has_row, int thread) {
    const Tile& tile = shared.place;
    if (thread < Traits::halo_cells) shared.row_after[thread] = has_row_after(args, tile, thread);
    const int cell = thread < Traits::tile_cells ? own_cell(args.grid, tile, thread) : -1;
    if (cell < 0) return;
    args.row_out[first_cell(args.grid, tile) + cell] = has_row;
}

// What the step after sends to four channels of an own cell.
__device__ inline float4 gather_general(const BackwardTile& shared, const StepBackwardArgs& args,
                                        int own, int quad) {
    const Tile& tile = shared.place;
    const std::size_t sample = first_cell(args.grid, tile);
    const int y = own_y(own), x = own_x(own);
    return perceive_adjoint(
        args.grad_p + sample * Traits::perception, args.rule, quad, [&](int tap) {
            const int ny = y + 1 - tap / 3, nx = x + 1 - tap % 3;
            if (!shared.row_after[(ny + 1) * Traits::halo_width + nx + 1]) return -1;
            return cell_at(args.grid, args.rule.circular, tile.top + ny, tile.left + nx);
        });
}

// The same, in the same order, of a rule with plain_taps: all loads are under way together, and
// nothing is divided.
__device__ inline float4 gather_plain(const BackwardTile& shared, const StepBackwardArgs& args,
                                      int own, int quad) {
    const Tile& tile = shared.place;
    const BatchShape& grid = args.grid;
    const int y = own_y(own), x = own_x(own);
    // A cell that has a row lies in the grid, but perhaps on its other side.
    int rows[3], columns[3];
#pragma unroll
    for (int i = 0; i < 3; ++i) {
        const int row = tile.top + y + 1 - i, column = tile.left + x + 1 - i;
        rows[i] = (row < 0 ? grid.height - 1 : row >= grid.height ? 0 : row) * grid.width;
        columns[i] = column < 0 ? grid.width - 1 : column >= grid.width ? 0 : column;
    }
    const std::uint8_t* const has_row = shared.row_after + (y + 2) * Traits::halo_width + x + 2;
    const float* const sample =
        args.grad_p + first_cell(grid, tile) * Traits::perception + quad * 4;
    float4 grads[9][filter_count];
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) {
        const bool sends = has_row[-(tap / 3) * Traits::halo_width - tap % 3] != 0;
        const float* const row =
            sample + std::size_t(rows[tap / 3] + columns[tap % 3]) * Traits::perception;
#pragma unroll
        for (int k = 0; k < filter_count; ++k) {
            if (!is_plain_tap(k, tap)) continue;
            grads[tap][k] = sends ? load4(row + k * Traits::channels) : zero4();
        }
    }
    float4 sum = zero4();
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) {
#pragma unroll
        for (int k = 0; k < filter_count; ++k) {
            if (!is_plain_tap(k, tap)) continue;
            add_scaled(sum, args.rule.filters[k][tap], grads[tap][k]);
        }
    }
    return sum;
}

__device__ inline float4 gather_sent(const BackwardTile& shared, const StepBackwardArgs& args,
                                     int own, int quad) {
    return args.rule.plain_taps ? gather_plain(shared, args, own, quad)
                                : gather_general(shared, args, own, quad);
}

// Prefetches the block's partial sums, which are needed at the end.
__device__ inline void prefetch_partial(const StepBackwardArgs& args, int thread) {
    constexpr int line = 32;  // floats
    const auto* const partial = reinterpret_cast<const float*>(&args.partial[blockIdx.x]);
    for (int i = thread * line; i < partial_floats; i += Traits::threads * line) {
        prefetch(partial + i);
    }
}

}  // namespace nca::cuda
