// SPDX-License-Identifier: MIT
// A whole rollout in one launch: all steps forward and, in training, the loss and all steps back.
//
// Formulas and buffers are those of step_forward.cu and step_backward.cu. A block has up to four
// tiles of 16 x 8 cells for the whole rollout, its share of the weights stays in registers, and
// instead of a launch there is a flag: a tile counts the steps that it has behind it, and a block
// goes on when the eight neighbours of each of its tiles have counted the step before. What
// neighbours read of each other (z, grad_p and masks) lies in two buffers in turns; who writes one
// knows that its neighbours are done with it, because they have counted the step after. There is no
// barrier of the whole grid. All blocks have to be resident, so the launch is cooperative.
//
// Tiles are dealt out from the grid's middle outwards, in all samples at once: where a pattern
// grows, a block has one tile of it at most, as long as there are enough blocks.
//
// Going back, what does not hang on the neighbours (masks, fire, lists of rows) is done before
// waiting for them. A tile's own state and its gradient stay in shared memory. Each block's sums of
// weight gradients are overwritten, and reduced by update_weights.cu in the order of blocks.
// Reference: host/reference/rollout.hpp. Tests: tests/tensor_engine_test.cpp.

#include "cuda/flags.cuh"
#include "cuda/launch.cuh"
#include "cuda/rollout_block.cuh"

namespace nca::cuda {
namespace {

constexpr int most_tiles = most_tiles_of_block;

struct ForwardStorage : TensorForwardStorage<most_tiles> {
    alignas(16) float next[most_tiles][Traits::tile_cells * Traits::channels];  // z' of own cells
};

struct SharedStorage {
    union {
        ForwardStorage forward;
        TensorBackwardStorage<most_tiles> backward;
    };
    FireKey key;
    int tiles;              // of this block
    std::uint32_t counted;  // by each tile before this launch
    WarpLosses<most_tiles> losses;
};

__device__ int tile_index(const RolloutArgs& args, int i) {
    return args.order[static_cast<int>(blockIdx.x) + i * static_cast<int>(gridDim.x)];
}

__device__ int tiles_of_block(const RolloutArgs& args) {
    const int blocks = static_cast<int>(gridDim.x);
    return (tile_count(args.grid) - static_cast<int>(blockIdx.x) + blocks - 1) / blocks;
}

// The tile beside another, by its direction; -1 beyond a zero edge.
__device__ int neighbour_index(const Grid& grid, bool circular, const Tile& tile, int dy, int dx) {
    const int down = tiles_down(grid), across = tiles_across(grid);
    int y = tile.top / Traits::tile_height + dy, x = tile.left / Traits::tile_width + dx;
    if (y < 0 || y >= down || x < 0 || x >= across) {
        if (!circular) return -1;
        y = wrapped(y, down);
        x = wrapped(x, across);
    }
    return (tile.sample * down + y) * across + x;
}

// Waits until the neighbours of all tiles have counted so many steps of this launch.
__device__ void wait_for_neighbours(const SharedStorage& shared, const RolloutArgs& args,
                                    const Tile* places, int steps, int thread) {
    if (thread < shared.tiles * 8) {
        const int direction = thread % 8 < 4 ? thread % 8 : thread % 8 + 1;  // the middle is 4
        const int neighbour = neighbour_index(args.grid, args.rule.circular, places[thread / 8],
                                              direction / 3 - 1, direction % 3 - 1);
        if (neighbour >= 0) {
            wait_for_count(&args.progress[neighbour].steps,
                           shared.counted + static_cast<std::uint32_t>(steps));
        }
    }
    __syncthreads();  // all neighbours are there
}

// Counts steps, whose writes are behind a barrier: so many of this launch.
__device__ void count_steps(const SharedStorage& shared, const RolloutArgs& args, int steps,
                            int thread) {
    if (thread < shared.tiles) {
        release_flag(&args.progress[tile_index(args, thread)].steps,
                     shared.counted + static_cast<std::uint32_t>(steps));
    }
}

// The states that the step before left: own cells from shared memory, those around them from global
// memory, where their owners have written no others.
__device__ void load_tiles_after_step(ForwardStorage& shared, int tiles,
                                      const StepForwardArgs& args, int thread) {
    const auto sample_of = [&](int i) {
        return std::size_t(shared.places[i].sample) * args.grid.height * args.grid.width;
    };
    for (int i = 0; i < tiles; ++i) {
        const Tile& tile = shared.places[i];
        const float* const z = args.state + sample_of(i) * Traits::channels;
        float* const to = shared.tiles[i].states;
        for (int piece = thread; piece < Traits::halo_cells * Traits::quads;
             piece += Traits::threads) {
            const int halo = piece / Traits::quads, quad = piece % Traits::quads;
            const int y = halo / Traits::halo_width - 1, x = halo % Traits::halo_width - 1;
            const int own = own_at(args.grid, tile, y, x);
            if (own >= 0) {
                store4(to + piece * 4, load4(shared.next[i] + own * Traits::channels + quad * 4));
                continue;
            }
            const int cell = halo_cell(args.grid, args.rule.circular, tile, halo);
            if (cell < 0 || !is_close(args.grid, tile, y, x, 1)) {
                store4(to + piece * 4, zero4());
            } else {
                copy_async(to + piece * 4, z + std::size_t(cell) * Traits::channels + quad * 4);
            }
        }
    }
    if (thread < Traits::wide_cells) {
        const int y = thread / Traits::wide_width - 2, x = thread % Traits::wide_width - 2;
        load_then_use<most_tiles>(
            tiles,
            [&](int i) {
                const Tile& tile = shared.places[i];
                const int own = own_at(args.grid, tile, y, x);
                if (own >= 0) return shared.next[i][own * Traits::channels + alpha_channel];
                const int cell =
                    cell_at(args.grid, args.rule.circular, tile.top + y, tile.left + x);
                if (cell < 0 || !is_close(args.grid, tile, y, x, 2)) return 0.0F;
                return args.state[(sample_of(i) + cell) * Traits::channels + alpha_channel];
            },
            [&](int i, float alpha) { shared.tiles[i].above[thread] = alpha > living_threshold; });
    }
    if (thread < Traits::halo_cells) {
        const int y = thread / Traits::halo_width - 1, x = thread % Traits::halo_width - 1;
        load_then_use<most_tiles>(
            tiles,
            [&](int i) -> bool {
                const Tile& tile = shared.places[i];
                const int cell =
                    cell_at(args.grid, args.rule.circular, tile.top + y, tile.left + x);
                if (cell < 0 || !is_close(args.grid, tile, y, x, 1)) return false;
                if (!args.rule.pre_and_post) return true;
                const int own = own_at(args.grid, tile, y, x);
                if (own >= 0) return shared.tiles[i].lives_before[own] != 0;
                return args.living_before[sample_of(i) + cell] != 0;
            },
            [&](int i, bool living) { shared.tiles[i].living[thread] = living; });
    }
}

// z' of an own cell: to shared memory, and to global where a neighbour reads it: all of it at the
// tile's edge, its alpha in the second row from there.
__device__ void store_next(ForwardStorage& shared, int i, const StepForwardArgs& args, int own,
                           int quad, float4 z) {
    store4(shared.next[i] + own * Traits::channels + quad * 4, z);
    const Tile& tile = shared.places[i];
    const int y = own_y(own), x = own_x(own);
    const int below = tile_rows(args.grid, tile) - 1 - y;
    const int right = tile_columns(args.grid, tile) - 1 - x;
    const int depth = quad == alpha_channel / 4 ? 2 : 1;
    if (y < depth || x < depth || below < depth || right < depth) {
        store4(args.next + own_offset(args.grid, tile, own, quad), z);
    }
}

template <class Arithmetic>
__device__ void roll_forward(SharedStorage& shared, const RolloutArgs& args, int thread) {
    auto& forward = shared.forward;
    const auto own = load_forward_operands<Arithmetic>(
        args.model->tensor, thread / Traits::warp_size, thread % Traits::warp_size);
    compute_u0<Arithmetic>(forward, own, args.model->tensor, thread);
    for (int step = 0; step < args.steps; ++step) {
        const unsigned fires =
            cells_that_fire(forward.places, shared.tiles, shared.key, args.grid,
                            args.rule.fire_threshold, static_cast<std::uint32_t>(step), thread);
        if (step > 0) wait_for_neighbours(shared, args, forward.places, step, thread);
        const StepForwardArgs step_args = forward_args(args, step);
        tensor_step_forward<Arithmetic>(
            forward, shared.tiles, own, step_args, fires, thread,
            [&] {
                if (!step_args.first) {
                    load_tiles_after_step(forward, shared.tiles, step_args, thread);
                    return;
                }
                for (int i = 0; i < shared.tiles; ++i) {
                    load_tile(forward.tiles[i], step_args, forward.places[i], thread);
                }
            },
            [&](int i, int cell, int quad, float4 z) {
                store_next(forward, i, step_args, cell, quad, z);
            });
        count_steps(shared, args, step + 1, thread);
        // Nobody waits for the tape: it is written while the block would wait for its neighbours.
        for (int i = 0; i < shared.tiles; ++i) {
            write_states(forward.tiles[i], step_args, forward.places[i], thread);
        }
    }
}

// The last mask, and the states that it leaves.
__device__ void mask_last_state(SharedStorage& shared, const RolloutArgs& args, int thread) {
    auto& forward = shared.forward;
    wait_for_neighbours(shared, args, forward.places, args.steps, thread);
    StepForwardArgs last = forward_args(args, args.steps);
    last.state_out = args.last_state;
    load_tiles_after_step(forward, shared.tiles, last, thread);
    wait_for_copies();
    __syncthreads();  // the tiles are loaded
    finish_states(forward, shared.tiles, last, thread);
}

template <class Arithmetic>
__device__ void roll_back(SharedStorage& shared, const RolloutArgs& args, int thread) {
    auto& backward = shared.backward;
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    const auto own = load_backward_operands<Arithmetic>(args.model->tensor, warp, lane);
    load_w1_back(backward.rows, args.model->tensor, thread);
    if (thread < shared.tiles) {
        backward.places[thread] = tile_at(args.grid, tile_index(args, thread));
    }
    __syncthreads();  // the places are known, and the loss's gradient
    // One more than there are steps forward says that the tape is whole.
    wait_for_neighbours(shared, args, backward.places, args.steps + 1, thread);
    TensorSums sums = {};
    for (int step = args.steps - 1; step >= 0; --step) {
        const bool last = step == args.steps - 1;
        const StepBackwardArgs step_args = backward_args(args, step);
        const unsigned fires = cells_that_fire(backward.places, shared.tiles, shared.key, args.grid,
                                               args.rule.fire_threshold, step_args.step, thread);
        const RowCounts counts =
            list_backward_rows(backward, shared.tiles, step_args, fires, !last, thread);
        const int counted = 2 * args.steps - step;  // once the step after is done
        if (!last) wait_for_neighbours(shared, args, backward.places, counted, thread);
        gather_grad_z(backward, shared.tiles, step_args, counts, thread);
        if (counts.lone > 0) {
            sum_lone_cells(backward, shared.tiles, args.rule.step_size, thread);
            __syncthreads();  // the lone cells' row is summed
        }
        send_rows_back<Arithmetic>(sums, backward, own, args.rule, counts, thread,
                                   [&](int i, int cell, int column, float2 two) {
                                       grad_p_place(step_args.grad_p_out, args.grid,
                                                    backward.places[i], cell, column) = two;
                                   });
        keep_life(backward, shared.tiles, args.grid, thread);
        __syncthreads();  // all that neighbours read is written
        count_steps(shared, args, counted + 1, thread);
    }
    write_tensor_sums(args.partial[blockIdx.x], sums, true, warp, lane);
}

template <class Arithmetic>
__global__ void __launch_bounds__(Traits::threads)
    persistent_rollout_kernel(const __grid_constant__ RolloutArgs args) {
    auto& shared = shared_storage<SharedStorage, persistent_shared_bytes>();
    const int thread = static_cast<int>(threadIdx.x);
    if (thread == 0) {
        shared.key = key_of(args);
        shared.tiles = tiles_of_block(args);
        // Every launch counts all tiles alike, so that the next one goes on from any of them.
        shared.counted = args.progress[tile_index(args, 0)].steps;
    }
    if (thread < tiles_of_block(args)) {
        shared.forward.places[thread] = tile_at(args.grid, tile_index(args, thread));
    }
    __syncthreads();  // the block knows its place
    roll_forward<Arithmetic>(shared, args, thread);
    mask_last_state(shared, args, thread);
    if (args.partial == nullptr) return;
    count_steps(shared, args, args.steps + 1, thread);  // the tape is whole
    compute_loss(shared.forward, shared.backward, shared.losses, args, shared.tiles, thread,
                 [&](int i) { return tile_index(args, i); });
    roll_back<Arithmetic>(shared, args, thread);
}

}  // namespace

int resident_persistent_blocks(Precision precision) {
    return with_arithmetic(precision, [](auto arithmetic) {
        return resident_blocks("persistent_rollout_kernel",
                               persistent_rollout_kernel<decltype(arithmetic)>, Traits::threads,
                               sizeof(SharedStorage));
    });
}

std::size_t persistent_rollout_shared_bytes() { return sizeof(SharedStorage); }

void launch_persistent_rollout(const RolloutArgs& args, Precision precision, int blocks,
                               cudaStream_t stream) {
    with_arithmetic(precision, [&](auto arithmetic) {
        launch("persistent_rollout_kernel", persistent_rollout_kernel<decltype(arithmetic)>,
               {.blocks = blocks,
                .threads = Traits::threads,
                .shared_bytes = sizeof(SharedStorage),
                .cooperative = true},
               stream, args);
    });
}

}  // namespace nca::cuda
