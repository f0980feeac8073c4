// SPDX-License-Identifier: MIT
// A whole rollout in one launch, with a cluster of blocks for each sample (compute capability 9.0).
//
// What persistent_rollout.cu does, but blocks send each other what they need through their shared
// memory: who has computed a step stores the cells at its tiles' edges to where their neighbours
// keep what lies around their own tiles, and these wait until as many bytes have come. A tile's
// neighbours get z' of the first row of cells from the edge, and of the first two a word that says
// whether alpha is above the threshold and whether the cell lived before the step. Going back they
// get grad_p of the first row, zeros where a cell has none, so that the number of bytes is known.
// Two buffers in turns: who stores for a step knows that its neighbours have read what they keep of
// the step before the last, because they have sent theirs of the last.
//
// A block has up to two tiles, and the cluster all tiles of a sample. Samples have nothing to do
// with each other, so that clusters need not all be there at once. Who sends what to whom is listed
// once, in shared memory.
// Reference: host/reference/rollout.hpp. Tests: tests/tensor_engine_test.cpp.

#include "cuda/launch.cuh"
#include "cuda/rollout_block.cuh"

namespace nca::cuda {
namespace {

constexpr int most_tiles = most_tiles_of_cluster_block;
// Cells in a ring around a tile, one deep, and one and two deep.
constexpr int ring_cells = Traits::halo_cells - Traits::tile_cells;
constexpr int wide_ring_cells = Traits::wide_cells - Traits::tile_cells;
constexpr int most_messages = most_tiles * wide_ring_cells;

// What a block keeps of a step's neighbours.
struct ForwardInbox {
    alignas(16) float states[most_tiles][ring_cells * Traits::channels];
    float words[most_tiles][Traits::wide_cells];
};

struct ForwardStorage : TensorForwardStorage<most_tiles> {
    alignas(16) float next[most_tiles][Traits::tile_cells * Traits::channels];  // z' of own cells
    ForwardInbox inbox[2];
};

// grad_p of a tile's own cells, and behind them of the ring around it, twice.
constexpr int gradient_cells = Traits::tile_cells + 2 * ring_cells;

struct BackwardStorage : TensorBackwardStorage<most_tiles> {
    alignas(16) float grad_p[most_tiles][gradient_cells * Traits::perception];
    std::uint8_t own_row[most_tiles][Traits::tile_cells];  // whether own grad_p is there
};

// An own cell that some tile has in its halo.
struct Message {
    std::uint8_t tile;      // of this block
    std::uint8_t cell;      // own
    std::uint8_t to_tile;   // of that block
    std::uint8_t position;  // in the tile with its halo of two
    std::uint8_t ring;      // in the ring, or no_ring for the second row from the edge
    std::uint8_t rank;      // of that block
};
constexpr int no_ring = 255;

struct SharedStorage {
    union {
        ForwardStorage forward;
        BackwardStorage backward;
    };
    ArrivalBarrier forward_arrivals[2];
    ArrivalBarrier backward_arrivals[2];
    Message messages[most_messages];
    int message_count;
    int ring_count;  // cells of the rings around the block's tiles that lie in the grid
    int word_count;  // the same, two deep
    WarpLosses<most_tiles> losses;
};
static_assert(sizeof(SharedStorage) <= cluster_shared_bytes);

struct BlockState {
    int sample;
    int rank;    // in the cluster
    int blocks;  // of the cluster
    int tiles;
};

__device__ int tiles_of_sample(const RolloutArgs& args) {
    return tile_count(args.grid) / args.grid.batch;
}

// The tiles of a sample in their order: the block of rank r has the r-th and every so many more.
__device__ int tile_index(const RolloutArgs& args, int sample, int nth) {
    return args.order[nth * args.grid.batch + sample];
}

__device__ BlockState block_state(const RolloutArgs& args) {
    const auto rank = static_cast<int>(cluster_rank()), blocks = static_cast<int>(cluster_blocks());
    return {static_cast<int>(blockIdx.x) / blocks, rank, blocks,
            (tiles_of_sample(args) - rank + blocks - 1) / blocks};
}

__device__ Tile tile_of_block(const RolloutArgs& args, const BlockState& block, int i) {
    return tile_at(args.grid, tile_index(args, block.sample, block.rank + i * block.blocks));
}

// The place in the ring around the part of a tile that lies in the grid, counted row above, row
// below, left, right; -1 for places that are not in it.
__device__ int ring_index(const Grid& grid, const Tile& tile, int y, int x) {
    const int rows = tile_rows(grid, tile), columns = tile_columns(grid, tile);
    if (y < -1 || y > rows || x < -1 || x > columns) return -1;
    if (y == -1) return x + 1;
    if (y == rows) return columns + 2 + x + 1;
    const int beside = 2 * (columns + 2) + y;
    return x == -1 ? beside : x == columns ? beside + rows : -1;
}

// Lists what the block sends to whom, and counts what it gets.
__device__ void list_messages(SharedStorage& shared, const RolloutArgs& args,
                              const BlockState& block, const Tile* places, int thread) {
    if (thread == 0) shared.message_count = shared.ring_count = shared.word_count = 0;
    __syncthreads();  // nothing is counted yet
    const int all = tiles_of_sample(args) * Traits::wide_cells;
    for (int i = thread; i < all; i += Traits::threads) {
        const int nth = i / Traits::wide_cells, position = i % Traits::wide_cells;
        const Tile to = tile_at(args.grid, tile_index(args, block.sample, nth));
        const int y = position / Traits::wide_width - 2, x = position % Traits::wide_width - 2;
        if (!is_close(args.grid, to, y, x, 2)) continue;
        if (own_at(args.grid, to, y, x) >= 0) continue;
        const int cell = cell_at(args.grid, args.rule.circular, to.top + y, to.left + x);
        if (cell < 0) continue;
        const int ring = ring_index(args.grid, to, y, x);
        const int rank = nth % block.blocks;
        if (rank == block.rank) {
            atomicAdd(&shared.word_count, 1);
            if (ring >= 0) atomicAdd(&shared.ring_count, 1);
        }
        for (int tile = 0; tile < block.tiles; ++tile) {
            const int own =
                own_at(args.grid, places[tile], cell / args.grid.width - places[tile].top,
                       cell % args.grid.width - places[tile].left);
            if (own < 0) continue;
            shared.messages[atomicAdd(&shared.message_count, 1)] = {
                static_cast<std::uint8_t>(tile),
                static_cast<std::uint8_t>(own),
                static_cast<std::uint8_t>(nth / block.blocks),
                static_cast<std::uint8_t>(position),
                static_cast<std::uint8_t>(ring >= 0 ? ring : no_ring),
                static_cast<std::uint8_t>(rank)};
        }
    }
    __syncthreads();  // all are listed
}

// The n-th message of a kind, from 1, comes in one of two buffers, whose barrier then has a parity.
__device__ int buffer_of(int n) { return n % 2; }
__device__ unsigned parity_of(int n) { return static_cast<unsigned>(n - 1) / 2 % 2; }

// Words are floats: 1 for an alpha above the threshold, 2 for a cell that lived before the step.
__device__ bool word_is_above(float word) { return word == 1 || word == 3; }
__device__ bool word_lived(float word) { return word >= 2; }

// Sends z' of the n-th step and expects the neighbours'.
__device__ void send_states(SharedStorage& shared, const RolloutArgs& args, int n, int thread) {
    ForwardStorage& forward = shared.forward;
    ForwardInbox& inbox = forward.inbox[buffer_of(n)];
    ArrivalBarrier& arrivals = shared.forward_arrivals[buffer_of(n)];
    if (thread == 0) {
        expect_bytes(arrivals,
                     static_cast<unsigned>(shared.ring_count * Traits::channels * sizeof(float) +
                                           shared.word_count * sizeof(float)));
    }
    for (int i = thread; i < shared.message_count; i += Traits::threads) {
        const Message message = shared.messages[i];
        const float* const z = forward.next[message.tile] + message.cell * Traits::channels;
        const bool lived =
            args.rule.pre_and_post && forward.tiles[message.tile].lives_before[message.cell] != 0;
        const float word =
            (z[alpha_channel] > living_threshold ? 1.0F : 0.0F) + (lived ? 2.0F : 0.0F);
        store_async(&inbox.words[message.to_tile][message.position], word, arrivals, message.rank);
        if (message.ring == no_ring) continue;
        float* const to = inbox.states[message.to_tile] + message.ring * Traits::channels;
#pragma unroll
        for (int quad = 0; quad < Traits::quads; ++quad) {
            store_async(to + quad * 4, load4(z + quad * 4), arrivals, message.rank);
        }
    }
}

// The state that the n-th step left, from own cells and what the neighbours have sent.
__device__ void load_tile_after_step(ForwardStorage& shared, int i, const RolloutArgs& args, int n,
                                     int thread) {
    ForwardTile& to = shared.tiles[i];
    const Tile& tile = shared.places[i];
    const ForwardInbox& inbox = shared.inbox[buffer_of(n)];
    for (int piece = thread; piece < Traits::halo_cells * Traits::quads; piece += Traits::threads) {
        const int halo = piece / Traits::quads, quad = piece % Traits::quads;
        const int y = halo / Traits::halo_width - 1, x = halo % Traits::halo_width - 1;
        const int own = own_at(args.grid, tile, y, x), ring = ring_index(args.grid, tile, y, x);
        const bool in_grid =
            cell_at(args.grid, args.rule.circular, tile.top + y, tile.left + x) >= 0;
        float4 z = zero4();
        if (own >= 0) {
            z = load4(shared.next[i] + own * Traits::channels + quad * 4);
        } else if (ring >= 0 && in_grid) {
            z = load4(inbox.states[i] + ring * Traits::channels + quad * 4);
        }
        store4(to.states + piece * 4, z);
    }
    if (thread >= Traits::wide_cells) return;
    const int y = thread / Traits::wide_width - 2, x = thread % Traits::wide_width - 2;
    const int own = own_at(args.grid, tile, y, x);
    bool above = false, lived = false;
    if (own >= 0) {
        above = shared.next[i][own * Traits::channels + alpha_channel] > living_threshold;
        lived = to.lives_before[own] != 0;
    } else if (is_close(args.grid, tile, y, x, 2) &&
               cell_at(args.grid, args.rule.circular, tile.top + y, tile.left + x) >= 0) {
        const float word = inbox.words[i][thread];
        above = word_is_above(word);
        lived = word_lived(word);
    }
    to.above[thread] = above;
    const bool in_halo = y >= -1 && y <= Traits::tile_height && x >= -1 && x <= Traits::tile_width;
    if (!in_halo) return;
    const bool in_grid = cell_at(args.grid, args.rule.circular, tile.top + y, tile.left + x) >= 0;
    to.living[(y + 1) * Traits::halo_width + x + 1] = in_grid && (!args.rule.pre_and_post || lived);
}

template <class Arithmetic>
__device__ void roll_forward(SharedStorage& shared, const RolloutArgs& args,
                             const BlockState& block, int thread) {
    auto& forward = shared.forward;
    const FireKey key = key_of(args);
    const auto own = load_forward_operands<Arithmetic>(
        args.model->tensor, thread / Traits::warp_size, thread % Traits::warp_size);
    compute_u0<Arithmetic>(forward, own, args.model->tensor, thread);
    for (int step = 0; step < args.steps; ++step) {
        StepForwardArgs step_args = forward_args(args, step);
        step_args.living_before_out = nullptr;
        const unsigned fires = cells_that_fire(forward.places, block.tiles, key, args.grid,
                                               args.rule.fire_threshold, step_args.step, thread);
        if (step > 0) wait_arrivals(shared.forward_arrivals[buffer_of(step)], parity_of(step));
        tensor_step_forward<Arithmetic>(
            forward, block.tiles, own, step_args, fires, thread,
            [&] {
                for (int i = 0; i < block.tiles; ++i) {
                    if (step_args.first) {
                        load_tile(forward.tiles[i], step_args, forward.places[i], thread);
                    } else {
                        load_tile_after_step(forward, i, args, step, thread);
                    }
                }
            },
            [&](int i, int cell, int quad, float4 z) {
                store4(forward.next[i] + cell * Traits::channels + quad * 4, z);
            });
        send_states(shared, args, step + 1, thread);
        // Nobody waits for the tape.
        for (int i = 0; i < block.tiles; ++i) {
            write_states(forward.tiles[i], step_args, forward.places[i], thread);
        }
        __syncthreads();  // nobody reads x any more
    }
    wait_arrivals(shared.forward_arrivals[buffer_of(args.steps)], parity_of(args.steps));
    StepForwardArgs last = forward_args(args, args.steps);
    last.state_out = args.last_state;
    for (int i = 0; i < block.tiles; ++i) {
        load_tile_after_step(forward, i, args, args.steps, thread);
    }
    __syncthreads();  // the tiles are loaded
    finish_states(forward, block.tiles, last, thread);
}

// Sends grad_p of the n-th step back and expects the neighbours'.
__device__ void send_gradients(SharedStorage& shared, int n, int thread) {
    constexpr int pieces = Traits::perception / 4;
    BackwardStorage& backward = shared.backward;
    ArrivalBarrier& arrivals = shared.backward_arrivals[buffer_of(n)];
    if (thread == 0) {
        expect_bytes(arrivals,
                     static_cast<unsigned>(shared.ring_count * Traits::perception * sizeof(float)));
    }
    const int first = Traits::tile_cells + buffer_of(n) * ring_cells;
    for (int i = thread; i < shared.message_count * pieces; i += Traits::threads) {
        const Message message = shared.messages[i / pieces];
        if (message.ring == no_ring) continue;
        const int at = i % pieces * 4;
        const bool has_row = backward.own_row[message.tile][message.cell] != 0;
        const float* const grad_p = backward.grad_p[message.tile];
        store_async(
            backward.grad_p[message.to_tile] + (first + message.ring) * Traits::perception + at,
            has_row ? load4(grad_p + message.cell * Traits::perception + at) : zero4(), arrivals,
            message.rank);
    }
}

// What the n-th step back sends to four channels of an own cell.
__device__ float4 gather_sent(const BackwardStorage& shared, const RolloutArgs& args, int n, int i,
                              int own, int quad) {
    const Tile& tile = shared.places[i];
    const int first = Traits::tile_cells + buffer_of(n) * ring_cells;
    return perceive_adjoint(shared.grad_p[i], args.rule, quad, [&](int tap) {
        const int y = own_y(own) + 1 - tap / 3, x = own_x(own) + 1 - tap % 3;
        const int from = own_at(args.grid, tile, y, x);
        if (from >= 0) return shared.own_row[i][from] != 0 ? from : -1;
        if (cell_at(args.grid, args.rule.circular, tile.top + y, tile.left + x) < 0) return -1;
        return first + ring_index(args.grid, tile, y, x);
    });
}

template <class Arithmetic>
__device__ void roll_back(SharedStorage& shared, const RolloutArgs& args, const BlockState& block,
                          int thread) {
    auto& backward = shared.backward;
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    const FireKey key = key_of(args);
    const auto own = load_backward_operands<Arithmetic>(args.model->tensor, warp, lane);
    load_w1_back(backward.rows, args.model->tensor, thread);
    TensorSums sums = {};
    for (int step = args.steps - 1; step >= 0; --step) {
        const int behind = args.steps - 1 - step;  // steps
        const StepBackwardArgs step_args = backward_args(args, step);
        const unsigned fires = cells_that_fire(backward.places, block.tiles, key, args.grid,
                                               args.rule.fire_threshold, step_args.step, thread);
        const RowCounts counts =
            list_backward_rows(backward, block.tiles, step_args, fires, behind > 0, thread);
        if (behind > 0) {
            wait_arrivals(shared.backward_arrivals[buffer_of(behind)], parity_of(behind));
        }
        gather_grad_z(backward, block.tiles, thread, [&](int i, int cell, int quad) {
            return behind > 0 ? gather_sent(backward, args, behind, i, cell, quad) : zero4();
        });
        for (int i = 0; i < block.tiles; ++i) {
            if (thread < Traits::tile_cells) backward.own_row[i][thread] = counts.own_row >> i & 1;
        }
        if (counts.lone > 0) {
            sum_lone_cells(backward, block.tiles, args.rule.step_size, thread);
            __syncthreads();  // the lone cells' row is summed
        }
        send_rows_back<Arithmetic>(sums, backward, own, args.rule, counts, thread,
                                   [&](int i, int cell, int column, float2 two) {
                                       *reinterpret_cast<float2*>(backward.grad_p[i] +
                                                                  cell * Traits::perception +
                                                                  column) = two;
                                   });
        keep_life(backward, block.tiles, args.grid, thread);
        __syncthreads();  // grad_p is whole
        if (step > 0) send_gradients(shared, behind + 1, thread);
    }
    write_tensor_sums(args.partial[blockIdx.x], sums, true, warp, lane);
}

template <class Arithmetic>
__global__ void __launch_bounds__(Traits::threads)
    cluster_rollout_kernel(const __grid_constant__ RolloutArgs args) {
    auto& shared = shared_storage<SharedStorage, cluster_shared_bytes>();
    const int thread = static_cast<int>(threadIdx.x);
    const BlockState block = block_state(args);
    if (thread == 0) {
        for (int i = 0; i < 2; ++i) {
            init_arrival_barrier(shared.forward_arrivals[i], 1);
            init_arrival_barrier(shared.backward_arrivals[i], 1);
        }
    }
    if (thread < block.tiles) shared.forward.places[thread] = tile_of_block(args, block, thread);
    __syncthreads();  // the places are known
    list_messages(shared, args, block, shared.forward.places, thread);
    cluster_barrier();  // everybody can be sent to
    roll_forward<Arithmetic>(shared, args, block, thread);
    if (args.partial == nullptr) return;
    compute_loss(
        shared.forward, shared.backward, shared.losses, args, block.tiles, thread,
        [&](int i) { return tile_index(args, block.sample, block.rank + i * block.blocks); });
    cluster_barrier();  // nobody reads states any more, gradients can be sent; the tape is whole
    if (thread < block.tiles) shared.backward.places[thread] = tile_of_block(args, block, thread);
    __syncthreads();  // the places are known
    roll_back<Arithmetic>(shared, args, block, thread);
    cluster_barrier();  // everybody has what was sent
}

}  // namespace

int active_rollout_clusters(Precision precision, int cluster) {
    return with_arithmetic(precision, [&](auto arithmetic) {
        return active_clusters("cluster_rollout_kernel",
                               cluster_rollout_kernel<decltype(arithmetic)>,
                               {.blocks = cluster,
                                .threads = Traits::threads,
                                .shared_bytes = sizeof(SharedStorage),
                                .cluster = cluster});
    });
}

std::size_t cluster_rollout_shared_bytes() { return sizeof(SharedStorage); }

void launch_cluster_rollout(const RolloutArgs& args, Precision precision, int cluster,
                            cudaStream_t stream) {
    with_arithmetic(precision, [&](auto arithmetic) {
        launch("cluster_rollout_kernel", cluster_rollout_kernel<decltype(arithmetic)>,
               {.blocks = args.grid.batch * cluster,
                .threads = Traits::threads,
                .shared_bytes = sizeof(SharedStorage),
                .cluster = cluster},
               stream, args);
    });
}

}  // namespace nca::cuda
