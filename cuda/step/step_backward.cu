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
// masked there. Masks, states, the lists of rows and the first perceptions do not hang on the step
// after, and come first. Rows go through the network 32 at a time. In phase A a warp owns 16 hidden
// units and computes a and grad_h; in B each thread sums 24 elements of grad_W1 and 8 of grad_W2
// over the rows, in registers for the block's life; in C a warp computes grad_p of four rows. h and
// then grad_a pass from A to B through one buffer, which keeps the block below 64 KiB.
//
// Per cell: 64 bytes each of x, grad_z in and out, 192 of grad_p out and about 350 in for a row;
// 45,056 operations a row. Reference: host/reference/step.hpp. Test: tests/engine_test.cpp.

#include "cuda/device/launch.cuh"
#include "cuda/rule/perceive.cuh"
#include "cuda/step/tile_backward.cuh"

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

__device__ SumPlace sum_place(int thread) {
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    return {((warp & 3) * 8 + (lane & 7)) * 4, (warp >> 2) * 4 + (lane >> 3)};
}

__device__ void load_w1(SharedStorage& shared, const PackedModel& model, int thread) {
    for (int i = thread; i < Traits::perception * Traits::hidden / 4; i += Traits::threads) {
        copy_async(shared.w1 + i * 4, model.forward.w1 + i * 4);
    }
}

// grad_z of the tile: gathered where the cell lives after the step, zero elsewhere.
__device__ void write_grad_z(const SharedStorage& shared, const StepBackwardArgs& args,
                             int thread) {
    const Tile& tile = shared.tile.place;
    const std::size_t sample = std::size_t(tile.sample) * args.grid.height * args.grid.width;
    constexpr int rounds = Traits::tile_cells * Traits::quads / Traits::threads;
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
        const int i = thread + round * Traits::threads;
        const int own = i / Traits::quads, quad = i % Traits::quads;
        const int cell = own_cell(args.grid, tile, own);
        if (cell < 0) continue;
        const std::size_t at = (sample + cell) * Traits::channels + quad * 4;
        float4 grad = zero4();
        if (shared.tile.lives_on[own]) {
            grad = load4(args.grad + at);
            if (args.grad_p != nullptr) {
                const float4 sent = gather_sent(shared.tile, args, own, quad);
                add_scaled(grad, 1, sent);
            }
        }
        store4(args.grad_z_out + at, grad);
    }
}

// Rows of a chunk by four threads each.
constexpr int rows_at_once = Traits::warp_size / Traits::quads;
static_assert(chunk <= rows_at_once * Traits::warps);

__device__ void perceive_chunk(SharedStorage& shared, const StepRule& rule, int first, int thread) {
    const int lane = thread % Traits::warp_size;
    const int start = thread / Traits::warp_size * rows_at_once;
    if (start >= chunk) return;
    perceive_rows(shared.p + start * Traits::p_pitch, shared.tile.states,
                  shared.tile.cells + first + start, shared.tile.rows - first - start, rule, lane);
}

// grad_u of a chunk of rows, the one behind those of cells being the shared one: first copies of
// grad_z, which may be under way for long, and then the rest.
__device__ void start_grad_u(SharedStorage& shared, const StepBackwardArgs& args, int first,
                             int thread) {
    const int row = thread / Traits::quads, quad = thread % Traits::quads;
    if (row >= chunk || first + row >= shared.tile.rows) return;
    const std::size_t cell =
        std::size_t(shared.tile.place.sample) * args.grid.height * args.grid.width +
        own_cell(args.grid, shared.tile.place, shared.tile.cells[first + row]);
    copy_async(shared.grad_u + row * Traits::grad_u_pitch + quad * 4,
               args.grad_z_out + cell * Traits::channels + quad * 4);
}

__device__ void finish_grad_u(SharedStorage& shared, float step_size, int first, int thread) {
    const int row = thread / Traits::quads, quad = thread % Traits::quads;
    if (row >= chunk) return;
    float* const to = shared.grad_u + row * Traits::grad_u_pitch + quad * 4;
    float4 grad_u = zero4();
    if (first + row < shared.tile.rows) {
        wait_for_copies();
        const float4 grad = load4(to);
        grad_u = make_float4(step_size * grad.x, step_size * grad.y, step_size * grad.z,
                             step_size * grad.w);
    } else if (first + row < shared.tile.all_rows()) {
        grad_u = load4(shared.shared_grad_u + quad * 4);
    }
    store4(to, grad_u);
}

// Phase A: 16 hidden units by so many groups of eight rows. A lane has rows lane % 8 + 8 r and four
// hidden units.
template <int groups>
struct HiddenTile {
    float4 a[groups];       // [row], then h
    float4 grad_h[groups];  // [row], then grad_a
};

template <int groups>
__device__ HiddenTile<groups> compute_hidden(const SharedStorage& shared, const PackedModel& model,
                                             int warp, int lane) {
    const int row = lane & 7, hidden = warp * 16 + (lane >> 3) * 4;
    HiddenTile<groups> tile;
#pragma unroll
    for (int r = 0; r < groups; ++r) {
        tile.a[r] = load4(model.forward.b1 + hidden);
        tile.grad_h[r] = zero4();
    }
#pragma unroll 1
    for (int k = 0; k < Traits::perception; k += 4) {
        float4 p[groups];
#pragma unroll
        for (int r = 0; r < groups; ++r)
            p[r] = load4(shared.p + (row + 8 * r) * Traits::p_pitch + k);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float4 w1 = load4(shared.w1 + (k + i) * Traits::hidden + hidden);
#pragma unroll
            for (int r = 0; r < groups; ++r) add_scaled(tile.a[r], element(p[r], i), w1);
        }
    }
#pragma unroll
    for (int c = 0; c < Traits::channels; c += 4) {
        float4 grad_u[groups];
#pragma unroll
        for (int r = 0; r < groups; ++r) {
            grad_u[r] = load4(shared.grad_u + (row + 8 * r) * Traits::grad_u_pitch + c);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float4 w2 = load4(model.w2 + (c + i) * Traits::hidden + hidden);
#pragma unroll
            for (int r = 0; r < groups; ++r) add_scaled(tile.grad_h[r], element(grad_u[r], i), w2);
        }
    }
    // A hidden unit that is off passes nothing on, in either direction.
    const auto switch_off = [](float& a, float& grad_h) {
        const bool on = a > 0;
        a = on ? a : 0.0F;
        grad_h = on ? grad_h : 0.0F;
    };
#pragma unroll
    for (int r = 0; r < groups; ++r) {
        switch_off(tile.a[r].x, tile.grad_h[r].x);
        switch_off(tile.a[r].y, tile.grad_h[r].y);
        switch_off(tile.a[r].z, tile.grad_h[r].z);
        switch_off(tile.a[r].w, tile.grad_h[r].w);
    }
    return tile;
}

template <int groups>
__device__ void store_hidden(SharedStorage& shared, const float4 (&values)[groups], int warp,
                             int lane) {
    const int row = lane & 7, hidden = warp * 16 + (lane >> 3) * 4;
#pragma unroll
    for (int r = 0; r < groups; ++r) {
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
#pragma unroll 4
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
__device__ void write_grad_p(const SharedStorage& shared, const StepBackwardArgs& args, int first,
                             int thread) {
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    const int start = warp * 4;
    if (first + start >= shared.tile.rows) return;
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
    if (row >= shared.tile.rows) return;  // the shared row, or none
    const std::size_t cell =
        std::size_t(shared.tile.place.sample) * args.grid.height * args.grid.width +
        own_cell(args.grid, shared.tile.place, shared.tile.cells[row]);
    float* to = args.grad_p_out + cell * Traits::perception + block * 12 + (low ? 6 : 0);
#pragma unroll
    for (int k = 0; k < 6; k += 2) {
        *reinterpret_cast<float2*>(to + k) = make_float2(six[k], six[k + 1]);
    }
}

// Sums the gradients that the lone cells share, in the order of cells.
__device__ void sum_lone_cells(SharedStorage& shared, const StepBackwardArgs& args, int thread) {
    if (thread >= Traits::channels) return;
    const int lone = sum_of_counts(shared.tile.lone_counts);
    const std::size_t sample =
        std::size_t(shared.tile.place.sample) * args.grid.height * args.grid.width;
    float sum = 0;
    for (int i = 0; i < lone; ++i) {
        const std::size_t cell =
            sample + own_cell(args.grid, shared.tile.place, shared.tile.lone[i]);
        sum += args.rule.step_size * args.grad_z_out[cell * Traits::channels + thread];
    }
    shared.shared_grad_u[thread] = sum;
}

// A chunk's first layers, of which so many groups of eight rows are there. Afterwards the next
// chunk's grad_u is asked for, and grad_a whole after a barrier.
template <int groups>
__device__ void step_chunk(WeightSums& sums, SharedStorage& shared, const StepBackwardArgs& args,
                           int first, int rows, int thread) {
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    HiddenTile<groups> hidden = compute_hidden<groups>(shared, *args.model, warp, lane);
    store_hidden<groups>(shared, hidden.a, warp, lane);
    __syncthreads();  // h is whole
    sum_output_layer(sums, shared, sum_place(thread), rows);
    __syncthreads();  // everybody has read h, and grad_u
    start_grad_u(shared, args, first + chunk, thread);
    store_hidden<groups>(shared, hidden.grad_h, warp, lane);
#pragma unroll
    for (int r = 0; r < groups; ++r) add_scaled(sums.b1, 1, hidden.grad_h[r]);
}

// All rows of a tile through the network. The first ones are perceived.
__device__ void step_rows(WeightSums& sums, SharedStorage& shared, const StepBackwardArgs& args,
                          int thread) {
    start_grad_u(shared, args, 0, thread);
    for (int first = 0; first < shared.tile.all_rows(); first += chunk) {
        const int left = shared.tile.all_rows() - first, rows = left < chunk ? left : chunk;
        if (first > 0) perceive_chunk(shared, args.rule, first, thread);
        finish_grad_u(shared, args.rule.step_size, first, thread);
        __syncthreads();  // p and grad_u are there
        // A tile's last rows are often few.
        if (rows > 8) {
            step_chunk<4>(sums, shared, args, first, rows, not_known_before(thread));
        } else {
            step_chunk<1>(sums, shared, args, first, rows, not_known_before(thread));
        }
        __syncthreads();  // grad_a is whole
        sum_hidden_layer(sums, shared, sum_place(not_known_before(thread)), rows);
        write_grad_p(shared, args, first, not_known_before(thread));
        __syncthreads();  // nobody reads these rows any more
    }
}

// Adds the threads' sums to the block's, or overwrites those. All that is read is under way
// together.
__device__ void write_sums(const WeightSums& sums, const StepBackwardArgs& args, bool overwrite,
                           int thread) {
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    PartialGradients& partial = args.partial[blockIdx.x];
    const SumPlace place = sum_place(thread);
    float* const w1 = partial.w1 + place.hidden;
    float* const w2 = partial.w2 + place.column * 2 * Traits::hidden + place.hidden;
    float* const b1 = partial.b1 + warp * 16 + (lane >> 3) * 4;
    float* const b2 = partial.b2 + place.column * 2;
    // Of the threads that have summed a channel, and of the lanes that have summed a unit, one.
    const bool has_b1 = (lane & 7) == 0, has_b2 = place.hidden == 0;
    WeightSums before = {};
    if (!overwrite) {
#pragma unroll
        for (int i = 0; i < 6; ++i) before.w1[i] = load4(w1 + place.k(i) * Traits::hidden);
#pragma unroll
        for (int i = 0; i < 2; ++i) before.w2[i] = load4(w2 + i * Traits::hidden);
        if (has_b1) before.b1 = load4(b1);
        if (has_b2) before.b2[0] = b2[0], before.b2[1] = b2[1];
    }
    const auto store_sum = [&](float* to, float4 sum, float4 of_before) {
        if (!overwrite) add_scaled(sum, 1, of_before);
        store4(to, sum);
    };
#pragma unroll
    for (int i = 0; i < 6; ++i) {
        store_sum(w1 + place.k(i) * Traits::hidden, sums.w1[i], before.w1[i]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        store_sum(w2 + i * Traits::hidden, sums.w2[i], before.w2[i]);
        if (has_b2) b2[i] = overwrite ? sums.b2[i] : before.b2[i] + sums.b2[i];
    }
    // Eight lanes have summed different rows of the same four hidden units.
    float4 own = sums.b1;
#pragma unroll
    for (int distance = 1; distance < 8; distance *= 2) {
        own.x += __shfl_xor_sync(0xffffffffU, own.x, distance);
        own.y += __shfl_xor_sync(0xffffffffU, own.y, distance);
        own.z += __shfl_xor_sync(0xffffffffU, own.z, distance);
        own.w += __shfl_xor_sync(0xffffffffU, own.w, distance);
    }
    if (has_b1) store_sum(b1, own, before.b1);
}

__global__ void __launch_bounds__(Traits::threads, 2)
    step_backward_kernel(const __grid_constant__ StepBackwardArgs args) {
    auto& shared = shared_storage<SharedStorage>();
    // Of which the compiler cannot tell that it stays the same: what is made of it for one phase is
    // not kept in registers through the others.
    const auto thread = [] { return not_known_before(static_cast<int>(threadIdx.x)); };
    WeightSums sums = {};
    if (thread() == 0) shared.tile.any_rows = false;
    let_dependents_start();
    load_w1(shared, *args.model, thread());
    for (int index = static_cast<int>(blockIdx.x); index >= 0; index = shared.tile.next) {
        const bool has_row = list_rows(shared.tile, args, index, thread());
        if (shared.tile.all_rows() > 0) perceive_chunk(shared, args.rule, 0, thread());
        wait_for_predecessor();
        if (shared.tile.any_rows && shared.tile.next < 0) prefetch_partial(args, thread());
        note_senders(shared.tile, args, has_row, thread());
        __syncthreads();  // it is known who sends
        write_grad_z(shared, args, thread());
        __syncthreads();  // grad_z is written
        if (shared.tile.lone_rows > 0) {
            sum_lone_cells(shared, args, thread());
            __syncthreads();  // the shared row is summed
        }
        step_rows(sums, shared, args, thread());
    }
    if (!shared.tile.any_rows) return;
    write_sums(sums, args, args.has_partial[blockIdx.x] == 0, thread());
    __syncthreads();  // everybody has read the flag
    if (thread() == 0) args.has_partial[blockIdx.x] = 1;
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
