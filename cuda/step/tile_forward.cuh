// SPDX-License-Identifier: MIT
#pragma once

// The phases of a step forward on one tile, without the MLP, and what of the tile a block holds in
// shared memory. step_forward.cu says how they follow each other; barriers between them are the
// caller's.

#include "cuda/rule/grid.cuh"
#include "cuda/step/step_kernels.hpp"

namespace nca::cuda {

inline constexpr int own_warps = Traits::tile_cells / Traits::warp_size;

// What becomes of an own cell in this step.
enum class Fate : std::uint8_t {
    outside,  // the tile reaches beyond the grid
    kept,     // did not fire: keeps x
    empty,    // fired, but is empty: changes by u0
    active,   // fired, and is not empty: a row of the MLP
};

// A tile and what is known of it during a step.
struct ForwardTile {
    alignas(16) float states[Traits::halo_cells * Traits::channels];
    std::uint8_t above[Traits::wide_cells];  // alpha above living_threshold
    // At first living_before of the step that made the state, then the life mask of the state; in
    // the first step, whether a cell holds anything other than zero.
    std::uint8_t life[Traits::halo_cells];
    Fate fates[Traits::tile_cells];
    std::uint8_t rows[Traits::tile_cells];  // the active cells in order
    int counts[own_warps];                  // of active cells
};

// Loads alpha two cells around the tile, states and living_before one cell around it.
__device__ inline void load_tile(ForwardTile& shared, const StepForwardArgs& args, const Tile& tile,
                                 int thread) {
    load_halo_states(shared.states, args.state, args.grid, args.rule.circular, tile, thread);
    const std::size_t sample = first_cell(args.grid, tile);
    if (thread < Traits::wide_cells) {
        const int cell =
            cell_at(args.grid, args.rule.circular, tile.top + thread / Traits::wide_width - 2,
                    tile.left + thread % Traits::wide_width - 2);
        const float* alpha = args.state + sample * Traits::channels + alpha_channel;
        shared.above[thread] =
            cell >= 0 && alpha[std::size_t(cell) * Traits::channels] > living_threshold;
    }
    if (thread < Traits::halo_cells) {
        const int cell = halo_cell(args.grid, args.rule.circular, tile, thread);
        const bool masked = args.rule.pre_and_post && !args.first;
        shared.life[thread] = cell >= 0 && (!masked || args.living_before[sample + cell] != 0);
    }
}

// The life mask one cell around the tile. The first state of a rollout is not masked: there the
// mask says which cells hold anything.
__device__ inline void find_life(ForwardTile& shared, const StepForwardArgs& args, int thread) {
    if (thread >= Traits::halo_cells) return;
    bool living = shared.life[thread];
    if (living && args.first) {
        living = false;
        for (int c = 0; c < Traits::channels; ++c) {
            living |= shared.states[thread * Traits::channels + c] != 0;
        }
    } else if (living) {
        const int y = thread / Traits::halo_width + 1, x = thread % Traits::halo_width + 1;
        living = any_around(shared.above, y * Traits::wide_width + x, Traits::wide_width);
    }
    shared.life[thread] = living;
}

// Where the four channels of an own cell lie in [cells, 16].
__device__ inline std::size_t own_offset(const BatchShape& grid, const Tile& tile, int own,
                                         int quad) {
    const std::size_t cell = first_cell(grid, tile) + own_cell(grid, tile, own);
    return cell * Traits::channels + quad * 4;
}

// Clears what died, in shared memory: z becomes x.
__device__ inline void mask_states(ForwardTile& shared, int thread) {
    for (int i = thread; i < Traits::halo_cells * Traits::quads; i += Traits::threads) {
        if (!shared.life[i / Traits::quads]) store4(shared.states + i * 4, zero4());
    }
}

// Writes x of own cells where it is wanted. Dead cells are not read: they may not be cleared yet.
__device__ inline void write_states(const ForwardTile& shared, const StepForwardArgs& args,
                                    const Tile& tile, int thread) {
    if (args.state_out == nullptr) return;
    for (int i = thread; i < Traits::tile_cells * Traits::quads; i += Traits::threads) {
        const int own = i / Traits::quads, quad = i % Traits::quads;
        if (own_cell(args.grid, tile, own) < 0) continue;
        const int halo = halo_of_own(own);
        const float4 x =
            shared.life[halo] ? load4(shared.states + halo * Traits::channels + quad * 4) : zero4();
        store4(args.state_out + own_offset(args.grid, tile, own, quad), x);
    }
}

// living_before of the step: whether any cell of the 3x3 has an alpha of x above the threshold.
__device__ inline bool is_living_before(const ForwardTile& shared, int own) {
    const int y = own_y(own) + 1, x = own_x(own) + 1;
    bool any = false;
    for (int i = 0; i < 9; ++i) {
        const int ny = y + i / 3 - 1, nx = x + i % 3 - 1;
        any |= shared.life[ny * Traits::halo_width + nx] &&
               shared.above[(ny + 1) * Traits::wide_width + nx + 1];
    }
    return any;
}

// Decides what becomes of each own cell, writes the masks that are wanted, and counts active cells.
__device__ inline void decide_fates(ForwardTile& shared, const StepForwardArgs& args,
                                    const Tile& tile, bool fires, int thread) {
    if (thread >= Traits::tile_cells) return;
    const int cell = own_cell(args.grid, tile, thread);
    const int halo = halo_of_own(thread);
    Fate fate = Fate::outside;
    if (cell >= 0) {
        const bool near = any_around(shared.life, halo, Traits::halo_width);
        fate = !fires ? Fate::kept : near ? Fate::active : Fate::empty;
        const std::size_t index = first_cell(args.grid, tile) + cell;
        if (args.life_out != nullptr) args.life_out[index] = shared.life[halo];
        if (args.rule.pre_and_post) {
            args.living_before_out[index] = is_living_before(shared, thread);
        }
    }
    shared.fates[thread] = fate;
    const unsigned active = __ballot_sync(whole_warp, fate == Fate::active);
    if (thread % Traits::warp_size == 0) shared.counts[thread / Traits::warp_size] = __popc(active);
}

// Lists the active cells in order. Returns how many there are, to every thread.
__device__ inline int list_rows(ForwardTile& shared, int thread) {
    int before = 0, total = 0;
    for (int warp = 0; warp < own_warps; ++warp) {
        if (warp < thread / Traits::warp_size) before += shared.counts[warp];
        total += shared.counts[warp];
    }
    if (thread < Traits::tile_cells) {
        const bool active = shared.fates[thread] == Fate::active;
        const unsigned ballot = __ballot_sync(whole_warp, active);
        const unsigned lower = ballot & ((1U << thread % Traits::warp_size) - 1);
        if (active) shared.rows[before + __popc(lower)] = std::uint8_t(thread);
    }
    return total;
}

// z' of four channels of an own cell, and its mark where it is wanted.
__device__ inline void write_next(const StepForwardArgs& args, const Tile& tile, int own, int quad,
                                  float4 z, bool holds) {
    const std::size_t at = own_offset(args.grid, tile, own, quad);
    store4(args.next + at, z);
    if (args.marks_out == nullptr || quad != alpha_channel / 4) return;
    args.marks_out[at / Traits::channels] =
        std::uint8_t((z.w > living_threshold ? mark_above : 0) | (holds ? mark_holds : 0));
}

// z' of the cells that are not rows of the MLP. u0 [16] is the update of an empty cell.
__device__ inline void write_passive_cells(const ForwardTile& shared, const StepForwardArgs& args,
                                           const Tile& tile, const float* u0, int thread) {
    for (int i = thread; i < Traits::tile_cells * Traits::quads; i += Traits::threads) {
        const int own = i / Traits::quads, quad = i % Traits::quads;
        const Fate fate = shared.fates[own];
        if (fate != Fate::kept && fate != Fate::empty) continue;
        float4 z = load4(shared.states + halo_of_own(own) * Traits::channels + quad * 4);
        if (fate == Fate::empty) add_scaled(z, args.rule.step_size, load4(u0 + quad * 4));
        write_next(args, tile, own, quad, z,
                   fate == Fate::empty || shared.life[halo_of_own(own)] != 0);
    }
}

}  // namespace nca::cuda
