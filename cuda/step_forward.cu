// SPDX-License-Identifier: MIT
// One step forward.
//
//   x    = z * life                        the mask of the step before, applied late
//   u    = W2 relu(W1 perceive(x) + b1) + b2
//   z'   = x + fire * step_size * u
//
// Reads z [batch, height, width, 16], overwrites z' and, where they are wanted, x and life, which
// is what going back needs. life(z) needs the 3x3 of z, so whoever reads z can apply the mask, and
// a step is one launch: the kernel looks two cells beyond its tile.
//
// A block takes tiles of 16 x 8 cells. It masks the tile and its halo in shared memory, lists the
// cells that fired and have anything other than zero around them, and sends only those through the
// MLP, eight rows to a warp. The others keep x, or move by u0, which is the same for all of them.
// Results do not depend on which block takes a tile.
//
// Per cell: 64 bytes of z with its halo (1.4 times as much, from the L2 cache mostly), 64 written,
// 64 more where x is kept; 16,384 operations for a cell that fired near something, none otherwise.
// Reference: host/reference/step.hpp. Test: tests/engine_test.cpp on every engine.

#include "cuda/kernels.hpp"
#include "cuda/launch.cuh"
#include "cuda/mlp_forward.cuh"
#include "cuda/perceive.cuh"
#include "cuda/philox.hpp"

namespace nca::cuda {
namespace {

constexpr int own_warps = Traits::tile_cells / Traits::warp_size;

// What becomes of an own cell in this step.
enum class Fate : std::uint8_t {
    outside,  // the tile reaches beyond the grid
    kept,     // did not fire
    drifts,   // fired among zeros: moves by u0
    active,   // fired: a row of the MLP
};

struct SharedStorage {
    ForwardWeights weights;
    alignas(16) float states[Traits::halo_cells * Traits::channels];
    alignas(16) float scratch[Traits::warps][mlp_forward_scratch];
    std::uint8_t above[Traits::wide_cells];   // alpha above living_threshold
    std::uint8_t living[Traits::halo_cells];  // in the first step: anything other than zero
    Fate fates[Traits::tile_cells];
    std::uint8_t rows[Traits::tile_cells];  // the active cells in order
    int counts[own_warps];                  // of active cells
};

// Alpha two cells around the tile, and states one cell around it, as they were written.
__device__ void load_tile(SharedStorage& shared, const StepForwardArgs& args, const Tile& tile,
                          int thread) {
    load_halo_states(shared.states, args.state, args.grid, args.rule.circular, tile, thread);
    if (thread < Traits::wide_cells) {
        const int cell =
            cell_at(args.grid, args.rule.circular, tile.top + thread / Traits::wide_width - 2,
                    tile.left + thread % Traits::wide_width - 2);
        const float* alpha =
            args.state + alpha_channel +
            std::size_t(tile.sample) * args.grid.height * args.grid.width * Traits::channels;
        shared.above[thread] =
            cell >= 0 && alpha[std::size_t(cell) * Traits::channels] > living_threshold;
    }
}

// The life mask one cell around the tile. The first state of a rollout is taken as it is: there
// the mask says which cells hold anything, which is what it is used for later on.
__device__ void find_living(SharedStorage& shared, const StepForwardArgs& args, const Tile& tile,
                            int thread) {
    if (thread >= Traits::halo_cells) return;
    const int cell = halo_cell(args.grid, args.rule.circular, tile, thread);
    bool living = cell >= 0;
    if (living && args.first) {
        living = false;
        for (int c = 0; c < Traits::channels; ++c) {
            living |= shared.states[thread * Traits::channels + c] != 0;
        }
    } else if (living) {
        const int y = thread / Traits::halo_width + 1, x = thread % Traits::halo_width + 1;
        living = any_around(shared.above, y * Traits::wide_width + x, Traits::wide_width);
        if (args.rule.pre_and_post) {
            living &=
                args.living_before[std::size_t(tile.sample) * args.grid.height * args.grid.width +
                                   cell] != 0;
        }
    }
    shared.living[thread] = living;
}

// Clears what died, in shared memory, and writes x where it is wanted.
__device__ void mask_states(SharedStorage& shared, const StepForwardArgs& args, const Tile& tile,
                            int thread) {
    for (int i = thread; i < Traits::halo_cells * Traits::quads; i += Traits::threads) {
        if (!shared.living[i / Traits::quads]) store4(shared.states + i * 4, zero4());
    }
    if (args.state_out == nullptr) return;
    for (int i = thread; i < Traits::tile_cells * Traits::quads; i += Traits::threads) {
        const int own = i / Traits::quads, quad = i % Traits::quads;
        const int cell = own_cell(args.grid, tile, own);
        if (cell < 0) continue;
        const int halo = halo_of_own(own);
        const float4 x = shared.living[halo]
                             ? load4(shared.states + halo * Traits::channels + quad * 4)
                             : zero4();
        const std::size_t index =
            std::size_t(tile.sample) * args.grid.height * args.grid.width + cell;
        store4(args.state_out + index * Traits::channels + quad * 4, x);
    }
}

// Whether any cell of the 3x3 has an alpha of x, not of z, above the threshold.
__device__ bool lives_before_step(const SharedStorage& shared, int own) {
    const int y = own_y(own) + 1, x = own_x(own) + 1;
    bool any = false;
    for (int i = 0; i < 9; ++i) {
        const int ny = y + i / 3 - 1, nx = x + i % 3 - 1;
        any |= shared.living[ny * Traits::halo_width + nx] &&
               shared.above[(ny + 1) * Traits::wide_width + nx + 1];
    }
    return any;
}

// Decides what becomes of each own cell, writes the masks that are wanted, and counts active cells.
__device__ void decide_fates(SharedStorage& shared, const StepForwardArgs& args, const Tile& tile,
                             bool fires, int thread) {
    if (thread >= Traits::tile_cells) return;
    const int cell = own_cell(args.grid, tile, thread);
    const int halo = halo_of_own(thread);
    Fate fate = Fate::outside;
    if (cell >= 0) {
        const bool near = any_around(shared.living, halo, Traits::halo_width);
        fate = !fires ? Fate::kept : near ? Fate::active : Fate::drifts;
        const std::size_t index =
            std::size_t(tile.sample) * args.grid.height * args.grid.width + cell;
        if (args.life_out != nullptr) args.life_out[index] = shared.living[halo];
        if (args.rule.pre_and_post) {
            args.living_before_out[index] = lives_before_step(shared, thread);
        }
    }
    shared.fates[thread] = fate;
    const unsigned active = __ballot_sync(0xffffffffU, fate == Fate::active);
    if (thread % Traits::warp_size == 0) {
        shared.counts[thread / Traits::warp_size] = __popc(active);
    }
}

// Lists the active cells in order. Returns how many there are, to every thread.
__device__ int list_rows(SharedStorage& shared, int thread) {
    int before = 0, total = 0;
    for (int warp = 0; warp < own_warps; ++warp) {
        if (warp < thread / Traits::warp_size) before += shared.counts[warp];
        total += shared.counts[warp];
    }
    if (thread < Traits::tile_cells) {
        const bool active = shared.fates[thread] == Fate::active;
        const unsigned ballot = __ballot_sync(0xffffffffU, active);
        const unsigned lower = ballot & ((1U << thread % Traits::warp_size) - 1);
        if (active) shared.rows[before + __popc(lower)] = static_cast<std::uint8_t>(thread);
    }
    return total;
}

__device__ void load_weights(SharedStorage& shared, const PackedModel& model, int thread) {
    constexpr int pieces = sizeof(ForwardWeights) / sizeof(float4);
    auto* to = reinterpret_cast<float*>(&shared.weights);
    const auto* from = reinterpret_cast<const float*>(&model.forward);
    for (int i = thread; i < pieces; i += Traits::threads) copy_async(to + i * 4, from + i * 4);
}

// z' of the cells that are not rows of the MLP.
__device__ void write_passive_cells(const SharedStorage& shared, const StepForwardArgs& args,
                                    const Tile& tile, int thread) {
    for (int i = thread; i < Traits::tile_cells * Traits::quads; i += Traits::threads) {
        const int own = i / Traits::quads, quad = i % Traits::quads;
        const Fate fate = shared.fates[own];
        if (fate != Fate::kept && fate != Fate::drifts) continue;
        float4 z = load4(shared.states + halo_of_own(own) * Traits::channels + quad * 4);
        if (fate == Fate::drifts) {
            add_scaled(z, args.rule.step_size, load4(args.model->u0 + quad * 4));
        }
        const std::size_t index = std::size_t(tile.sample) * args.grid.height * args.grid.width +
                                  own_cell(args.grid, tile, own);
        store4(args.next + index * Traits::channels + quad * 4, z);
    }
}

// z' of eight active cells by one warp, whose scratch holds their perception.
__device__ void update_rows(SharedStorage& shared, const StepForwardArgs& args, const Tile& tile,
                            int first, int total, int warp, int lane) {
    const float4 u = mlp_forward_rows(shared.weights, shared.scratch[warp], lane);
    const int row = first + forward_row_of(lane);
    if (row >= total) return;
    const int own = shared.rows[row], quad = forward_quad_of(lane);
    float4 z = load4(shared.states + halo_of_own(own) * Traits::channels + quad * 4);
    add_scaled(z, args.rule.step_size, u);
    const std::size_t index = std::size_t(tile.sample) * args.grid.height * args.grid.width +
                              own_cell(args.grid, tile, own);
    store4(args.next + index * Traits::channels + quad * 4, z);
}

__device__ void perceive_group(SharedStorage& shared, const StepForwardArgs& args, int first,
                               int total, int warp, int lane) {
    const int count = total - first < Traits::forward_rows ? total - first : Traits::forward_rows;
    perceive_rows(shared.scratch[warp], shared.states, shared.rows + first, count, args.rule, lane);
}

__global__ void __launch_bounds__(Traits::threads)
    step_forward_kernel(const __grid_constant__ StepForwardArgs args) {
    auto& shared = shared_storage<SharedStorage>();
    const int thread = static_cast<int>(threadIdx.x);
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    const int tiles = tile_count(args.grid), blocks = static_cast<int>(gridDim.x);
    bool weights_asked_for = false;
    let_dependents_start();
    for (int index = static_cast<int>(blockIdx.x); index < tiles; index += blocks) {
        const Tile tile = tile_at(args.grid, index);
        // The masks and the weights are older than the step before, everything else waits for it.
        const int cell = thread < Traits::tile_cells ? own_cell(args.grid, tile, thread) : -1;
        const bool fires = cell >= 0 && cell_fires(args.model->key, args.rule.fire_threshold,
                                                   args.step, tile.sample, cell);
        wait_for_predecessor();
        load_tile(shared, args, tile, thread);
        wait_for_copies();
        __syncthreads();  // the tile is loaded
        find_living(shared, args, tile, thread);
        __syncthreads();  // the mask is known
        mask_states(shared, args, tile, thread);
        decide_fates(shared, args, tile, fires, thread);
        __syncthreads();  // states are masked, fates decided and counted
        const int total = list_rows(shared, thread);
        if (total > 0 && !weights_asked_for) {
            load_weights(shared, *args.model, thread);
            weights_asked_for = true;
        }
        write_passive_cells(shared, args, tile, thread);
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
