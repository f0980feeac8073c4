// SPDX-License-Identifier: MIT
// One step back.
//
//   grad_x'  = grad_z + perceive^T(grad_p) of the step after       gathered, applied late
//   grad_z   = grad_x' * life
//   grad_u   = fire * step_size * grad_z
//   grad_W2 += grad_u h^T;  grad_b2 += grad_u
//   grad_a   = (W2^T grad_u) * (a > 0)                             p, a, h computed again from x
//   grad_W1 += grad_a p^T;  grad_b1 += grad_a
//   grad_p   = W1^T grad_a
//
// Overwrites grad_z, and grad_p and row where a cell has a row; adds to its block's partial sums
// of the weight gradients. grad_x of this step is gathered by the next launch from grad_z and
// grad_p, so that nothing is added by two blocks, and a step is one launch.
//
// A cell needs a row where it fired and lives after the step. Rows whose neighbourhood was dead
// before the step have p = 0 and share one row, because what they send to their neighbours is
// masked there. Rows go through the network 32 at a time. In phase A a warp owns 16 hidden units
// and computes a and grad_h; in B each thread sums 24 elements of grad_W1 and 8 of grad_W2 over
// the rows, in registers for the block's life; in C a warp computes grad_p of four rows. h and then
// grad_a pass from A to B through one buffer, which keeps the block below 64 KiB.
//
// Per cell: 64 bytes each of x, grad_z in and out, 192 of grad_p out and about 350 in for a row;
// 45,056 operations a row. Reference: host/reference/step.hpp. Test: tests/engine_test.cpp.

#include "cuda/backward_tile.cuh"
#include "cuda/launch.cuh"
#include "cuda/perceive.cuh"
#include "cuda/philox.hpp"

namespace nca::cuda {
namespace {

constexpr int chunk = Traits::backward_rows;

struct SharedStorage {
    BackwardTile tile;
    alignas(16) float w1[Traits::perception * Traits::hidden];  // [48, 128]
    alignas(16) float p[chunk * Traits::p_pitch];
    alignas(16) float grad_u[chunk * Traits::grad_u_pitch];
    alignas(16) float rows_by_hidden[chunk * Traits::hidden_pitch];  // h, then grad_a
    alignas(16) float shared_grad_u[Traits::channels];  // the row that has no cell of its own
};

// A thread's own part of the block's weight gradients. Hidden units run along a quad, so that
// [48, 128] and [16, 128] are written in pieces of 16 bytes.
struct WeightSums {
    float4 w1[6];  // perception k_of(0) .. k_of(5)
    float4 w2[2];  // channels 2 * column, 2 * column + 1
    float4 b1;     // of phase A's hidden units
    float b2[2];   // of channels 2 * column, 2 * column + 1
};

// Where a thread stands in phase B: 32 groups of four hidden units times 8 columns.
struct SumPlace {
    int hidden;  // first of four
    int column;  // 0 .. 7

    // The i-th of the column's six perceptions: four that are 16 bytes, and two that are 8.
    __device__ int k(int i) const { return i < 4 ? column * 4 + i : 32 + column * 2 + i - 4; }
};

__device__ SumPlace sum_place(int warp, int lane) {
    return {((warp & 3) * 8 + (lane & 7)) * 4, (warp >> 2) * 4 + (lane >> 3)};
}

__device__ void load_w1(SharedStorage& shared, const PackedModel& model, int thread) {
    for (int i = thread; i < Traits::perception * Traits::hidden / 4; i += Traits::threads) {
        copy_async(shared.w1 + i * 4, model.forward.w1 + i * 4);
    }
}

// grad_z of the tile: gathered where the cell lives after the step, zero elsewhere.
__device__ void write_grad_z(const SharedStorage& shared, const StepBackwardArgs& args,
                             const Tile& tile, int thread) {
    const std::size_t sample = std::size_t(tile.sample) * args.grid.height * args.grid.width;
    for (int i = thread; i < Traits::tile_cells * Traits::quads; i += Traits::threads) {
        const int own = i / Traits::quads, quad = i % Traits::quads;
        const int cell = own_cell(args.grid, tile, own);
        if (cell < 0) continue;
        const std::size_t at = (sample + cell) * Traits::channels + quad * 4;
        float4 grad = zero4();
        if (shared.tile.lives_on[own]) {
            grad = load4(args.grad + at);
            if (args.grad_p != nullptr) {
                const float4 sent = gather_sent(shared.tile, args, tile, own, quad);
                add_scaled(grad, 1, sent);
            }
        }
        store4(args.grad_z_out + at, grad);
    }
}

__device__ float grad_u_of(const StepBackwardArgs& args, const Tile& tile, int own, int channel) {
    const std::size_t cell = std::size_t(tile.sample) * args.grid.height * args.grid.width +
                             own_cell(args.grid, tile, own);
    return args.rule.step_size * args.grad_z_out[cell * Traits::channels + channel];
}

// Perception and grad_u of up to 32 rows; the row behind the cells' own is the shared one.
__device__ void gather_rows(SharedStorage& shared, const StepBackwardArgs& args, const Tile& tile,
                            int first, int cells, int total, int warp, int lane) {
    constexpr int rows_at_once = Traits::warp_size / Traits::quads;
    static_assert(chunk <= rows_at_once * Traits::warps);
    const int start = warp * rows_at_once;
    if (start >= chunk) return;
    const int left = cells - first - start;
    perceive_rows(shared.p + start * Traits::p_pitch, shared.tile.states,
                  shared.tile.cells + first + start, left, args.rule, lane);
    const int row = start + lane / Traits::quads, quad = lane % Traits::quads;
    float4 grad_u = zero4();
    if (first + row < cells) {
        const int own = shared.tile.cells[first + row];
        grad_u.x = grad_u_of(args, tile, own, quad * 4);
        grad_u.y = grad_u_of(args, tile, own, quad * 4 + 1);
        grad_u.z = grad_u_of(args, tile, own, quad * 4 + 2);
        grad_u.w = grad_u_of(args, tile, own, quad * 4 + 3);
    } else if (first + row < total) {
        grad_u = load4(shared.shared_grad_u + quad * 4);
    }
    store4(shared.grad_u + row * Traits::grad_u_pitch + quad * 4, grad_u);
}

// Phase A: 16 hidden units by 32 rows. A lane has rows lane % 8 + 8 r and four hidden units.
struct HiddenTile {
    float4 a[4];       // [row], then h
    float4 grad_h[4];  // [row], then grad_a
};

__device__ HiddenTile compute_hidden(const SharedStorage& shared, const PackedModel& model,
                                     int warp, int lane) {
    const int row = lane & 7, hidden = warp * 16 + (lane >> 3) * 4;
    HiddenTile tile;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        tile.a[r] = load4(model.forward.b1 + hidden);
        tile.grad_h[r] = zero4();
    }
#pragma unroll 1
    for (int k = 0; k < Traits::perception; k += 4) {
        float4 p[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) p[r] = load4(shared.p + (row + 8 * r) * Traits::p_pitch + k);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float4 w1 = load4(shared.w1 + (k + i) * Traits::hidden + hidden);
#pragma unroll
            for (int r = 0; r < 4; ++r) add_scaled(tile.a[r], element(p[r], i), w1);
        }
    }
#pragma unroll
    for (int c = 0; c < Traits::channels; c += 4) {
        float4 grad_u[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            grad_u[r] = load4(shared.grad_u + (row + 8 * r) * Traits::grad_u_pitch + c);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float4 w2 = load4(model.w2 + (c + i) * Traits::hidden + hidden);
#pragma unroll
            for (int r = 0; r < 4; ++r) add_scaled(tile.grad_h[r], element(grad_u[r], i), w2);
        }
    }
    // A hidden unit that is off passes nothing on, in either direction.
    const auto switch_off = [](float& a, float& grad_h) {
        const bool on = a > 0;
        a = on ? a : 0.0F;
        grad_h = on ? grad_h : 0.0F;
    };
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        switch_off(tile.a[r].x, tile.grad_h[r].x);
        switch_off(tile.a[r].y, tile.grad_h[r].y);
        switch_off(tile.a[r].z, tile.grad_h[r].z);
        switch_off(tile.a[r].w, tile.grad_h[r].w);
    }
    return tile;
}

__device__ void store_hidden(SharedStorage& shared, const float4 (&values)[4], int warp, int lane) {
    const int row = lane & 7, hidden = warp * 16 + (lane >> 3) * 4;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        store4(shared.rows_by_hidden + (row + 8 * r) * Traits::hidden_pitch + hidden, values[r]);
    }
}

// Phase B, first half: grad_W2 and grad_b2 while the buffer holds h.
__device__ void sum_output_layer(WeightSums& sums, const SharedStorage& shared,
                                 const SumPlace& place, int rows) {
#pragma unroll 4
    for (int row = 0; row < rows; ++row) {
        const float4 h = load4(shared.rows_by_hidden + row * Traits::hidden_pitch + place.hidden);
        const float* grad_u = shared.grad_u + row * Traits::grad_u_pitch + place.column * 2;
        const float2 both = *reinterpret_cast<const float2*>(grad_u);
        add_scaled(sums.w2[0], both.x, h);
        add_scaled(sums.w2[1], both.y, h);
        sums.b2[0] += both.x;
        sums.b2[1] += both.y;
    }
}

// Second half: grad_W1 while it holds grad_a.
__device__ void sum_hidden_layer(WeightSums& sums, const SharedStorage& shared,
                                 const SumPlace& place, int rows) {
#pragma unroll 2
    for (int row = 0; row < rows; ++row) {
        const float4 grad_a =
            load4(shared.rows_by_hidden + row * Traits::hidden_pitch + place.hidden);
        const float* p = shared.p + row * Traits::p_pitch;
        const float4 four = load4(p + place.k(0));
        const float2 two = *reinterpret_cast<const float2*>(p + place.k(4));
        add_scaled(sums.w1[0], four.x, grad_a);
        add_scaled(sums.w1[1], four.y, grad_a);
        add_scaled(sums.w1[2], four.z, grad_a);
        add_scaled(sums.w1[3], four.w, grad_a);
        add_scaled(sums.w1[4], two.x, grad_a);
        add_scaled(sums.w1[5], two.y, grad_a);
    }
}

// Phase C: grad_p of four rows by one warp. A lane sums every eighth group of four hidden units
// for four rows by twelve perceptions; three exchanges leave it six sums of one row.
__device__ void write_grad_p(const SharedStorage& shared, const StepBackwardArgs& args,
                             const Tile& tile, int first, int cells, int warp, int lane) {
    const int start = warp * 4;
    if (first + start >= cells) return;
    const int slice = lane & 7, block = lane >> 3;
    float sums[4][12] = {};
#pragma unroll 1
    for (int hidden = slice * 4; hidden < Traits::hidden; hidden += 32) {
        float4 grad_a[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            grad_a[r] = load4(shared.rows_by_hidden + (start + r) * Traits::hidden_pitch + hidden);
        }
#pragma unroll
        for (int k = 0; k < 12; ++k) {
            const float4 w1 = load4(shared.w1 + (block * 12 + k) * Traits::hidden + hidden);
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                sums[r][k] += grad_a[r].x * w1.x;
                sums[r][k] += grad_a[r].y * w1.y;
                sums[r][k] += grad_a[r].z * w1.z;
                sums[r][k] += grad_a[r].w * w1.w;
            }
        }
    }
    // Lanes that differ in bit 2 of the slice share out rows {0, 1} and {2, 3}, in bit 1 the two
    // rows, in bit 0 the first and the second six perceptions.
    const bool high = slice & 4, middle = slice & 2, low = slice & 1;
    float pair[2][12], single[12], six[6];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int k = 0; k < 12; ++k) {
            const float keep = high ? sums[2 + r][k] : sums[r][k];
            const float give = high ? sums[r][k] : sums[2 + r][k];
            pair[r][k] = keep + __shfl_xor_sync(0xffffffffU, give, 4);
        }
    }
#pragma unroll
    for (int k = 0; k < 12; ++k) {
        const float keep = middle ? pair[1][k] : pair[0][k];
        const float give = middle ? pair[0][k] : pair[1][k];
        single[k] = keep + __shfl_xor_sync(0xffffffffU, give, 2);
    }
#pragma unroll
    for (int k = 0; k < 6; ++k) {
        const float keep = low ? single[6 + k] : single[k];
        const float give = low ? single[k] : single[6 + k];
        six[k] = keep + __shfl_xor_sync(0xffffffffU, give, 1);
    }
    const int row = first + start + (high ? 2 : 0) + (middle ? 1 : 0);
    if (row >= cells) return;  // the shared row, or none
    const std::size_t cell = std::size_t(tile.sample) * args.grid.height * args.grid.width +
                             own_cell(args.grid, tile, shared.tile.cells[row]);
    float* to = args.grad_p_out + cell * Traits::perception + block * 12 + (low ? 6 : 0);
#pragma unroll
    for (int k = 0; k < 6; k += 2) {
        *reinterpret_cast<float2*>(to + k) = make_float2(six[k], six[k + 1]);
    }
}

// Sums the gradients that the lone cells share, in the order of cells.
__device__ void sum_lone_cells(SharedStorage& shared, const StepBackwardArgs& args,
                               const Tile& tile, int lone, int thread) {
    if (thread >= Traits::channels) return;
    float sum = 0;
    for (int i = 0; i < lone; ++i) sum += grad_u_of(args, tile, shared.tile.lone[i], thread);
    shared.shared_grad_u[thread] = sum;
}

// All rows of a tile through the network.
__device__ void step_rows(WeightSums& sums, SharedStorage& shared, const StepBackwardArgs& args,
                          const Tile& tile, int cells, int total, int warp, int lane) {
    const SumPlace place = sum_place(warp, lane);
    for (int first = 0; first < total; first += chunk) {
        const int rows = total - first < chunk ? total - first : chunk;
        gather_rows(shared, args, tile, first, cells, total, warp, lane);
        __syncthreads();  // p and grad_u are there
        HiddenTile hidden = compute_hidden(shared, *args.model, warp, lane);
        store_hidden(shared, hidden.a, warp, lane);
        __syncthreads();  // h is whole
        sum_output_layer(sums, shared, place, rows);
        __syncthreads();  // everybody has read h
        store_hidden(shared, hidden.grad_h, warp, lane);
#pragma unroll
        for (int r = 0; r < 4; ++r) add_scaled(sums.b1, 1, hidden.grad_h[r]);
        __syncthreads();  // grad_a is whole
        sum_hidden_layer(sums, shared, place, rows);
        write_grad_p(shared, args, tile, first, cells, warp, lane);
        __syncthreads();  // nobody reads these rows any more
    }
}

// Adds a piece to the block's partial sums; the first to come overwrites.
__device__ void add_to(float* partial, float4 sum, bool overwrite) {
    if (!overwrite) add_scaled(sum, 1, load4(partial));
    store4(partial, sum);
}

__device__ void write_sums(const WeightSums& sums, const StepBackwardArgs& args, int warp,
                           int lane) {
    PartialGradients& partial = args.partial[blockIdx.x];
    const bool overwrite = args.has_partial[blockIdx.x] == 0;
    const SumPlace place = sum_place(warp, lane);
#pragma unroll
    for (int i = 0; i < 6; ++i) {
        add_to(partial.w1 + place.k(i) * Traits::hidden + place.hidden, sums.w1[i], overwrite);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        add_to(partial.w2 + (place.column * 2 + i) * Traits::hidden + place.hidden, sums.w2[i],
               overwrite);
        // One of the threads that have summed this channel.
        float& b2 = partial.b2[place.column * 2 + i];
        if (place.hidden == 0) b2 = overwrite ? sums.b2[i] : b2 + sums.b2[i];
    }
    // Eight lanes have summed different rows of the same four hidden units.
    float4 b1 = sums.b1;
#pragma unroll
    for (int distance = 1; distance < 8; distance *= 2) {
        b1.x += __shfl_xor_sync(0xffffffffU, b1.x, distance);
        b1.y += __shfl_xor_sync(0xffffffffU, b1.y, distance);
        b1.z += __shfl_xor_sync(0xffffffffU, b1.z, distance);
        b1.w += __shfl_xor_sync(0xffffffffU, b1.w, distance);
    }
    if ((lane & 7) == 0) add_to(partial.b1 + warp * 16 + (lane >> 3) * 4, b1, overwrite);
}

__global__ void __launch_bounds__(Traits::threads)
    step_backward_kernel(const __grid_constant__ StepBackwardArgs args) {
    auto& shared = shared_storage<SharedStorage>();
    const int thread = static_cast<int>(threadIdx.x);
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    const int tiles = tile_count(args.grid), blocks = static_cast<int>(gridDim.x);
    WeightSums sums = {};
    bool any_rows = false, w1_asked_for = false;
    let_dependents_start();
    for (int index = static_cast<int>(blockIdx.x); index < tiles; index += blocks) {
        const Tile tile = tile_at(args.grid, index);
        const int cell = thread < Traits::tile_cells ? own_cell(args.grid, tile, thread) : -1;
        const bool fires = cell >= 0 && cell_fires(args.model->key, args.rule.fire_threshold,
                                                   args.step, tile.sample, cell);
        wait_for_predecessor();
        if (thread < Traits::halo_cells) {
            shared.tile.living[thread] = lives_before(args, tile, thread);
            shared.tile.row_after[thread] = has_row_after(args, tile, thread);
        }
        load_lives_on(shared.tile, args, tile, thread);
        __syncthreads();  // masks are loaded and the living counted
        const bool any_living = sum_of_counts(shared.tile.living_counts) > 0;
        if (any_living) {
            load_halo_states(shared.tile.states, args.state, args.grid, args.rule.circular, tile,
                             thread);
            if (!w1_asked_for) load_w1(shared, *args.model, thread);
            w1_asked_for = true;
        }
        write_grad_z(shared, args, tile, thread);
        bool has_row, is_lone;
        find_rows(shared.tile, fires, has_row, is_lone, thread);
        write_row(args, tile, has_row, thread);
        wait_for_copies();
        __syncthreads();  // grad_z is written, rows are counted, states and w1 loaded
        const int cells = sum_of_counts(shared.tile.row_counts);
        const int lone = sum_of_counts(shared.tile.lone_counts);
        any_rows |= cells + lone > 0;
        list_cell(shared.tile.cells, shared.tile.row_counts, has_row, thread);
        list_cell(shared.tile.lone, shared.tile.lone_counts, is_lone, thread);
        __syncthreads();  // rows are listed
        if (lone > 0) {
            sum_lone_cells(shared, args, tile, lone, thread);
            __syncthreads();  // the shared row is summed
        }
        step_rows(sums, shared, args, tile, cells, cells + (lone > 0 ? 1 : 0), warp, lane);
        if (index + blocks < tiles) __syncthreads();  // nobody reads this tile any more
    }
    if (any_rows) write_sums(sums, args, warp, lane);
    __syncthreads();  // everybody has read the flag
    if (any_rows && thread == 0) args.has_partial[blockIdx.x] = 1;
}

}  // namespace

int backward_blocks(const Grid& grid) {
    return blocks_for(tile_count(grid), Traits::most_backward_blocks);
}

void launch_step_backward(const StepBackwardArgs& args, bool dependent, cudaStream_t stream) {
    launch(NCA_KERNEL(step_backward_kernel),
           {.blocks = backward_blocks(args.grid),
            .threads = Traits::threads,
            .shared_bytes = sizeof(SharedStorage),
            .dependent = dependent},
           stream, args);
}

}  // namespace nca::cuda
