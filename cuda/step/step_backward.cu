// SPDX-License-Identifier: MIT
// One step back.
//
//   grad_x'  = grad_z + perceive^T(grad_p) of the step after       gathered, applied late
//              [+ the caller's gradient of the state after this step]
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
// A cell needs a row of the MLP where it fired and lives after the step. Cells whose neighbourhood
// was dead before the step are empty: they have p = 0, what they would send to their neighbours is
// masked there, and so they share one row. Rows go through the MLP (mlp_backward.cuh) 32 at a time.
// Masks, states, the lists of rows and the first perceptions do not depend on the step after, and
// come first.
//
// Per cell: 64 bytes each of x, grad_z in and out, 192 of grad_p out and about 350 in for a row;
// 45,056 operations a row. Reference: host/reference/step.hpp. Test: tests/engine_test.cpp.

#include "cuda/device/launch.cuh"
#include "cuda/step/mlp_backward.cuh"

namespace nca::cuda {
namespace {

constexpr int chunk = Traits::backward_rows;

// grad_z of the tile: gathered where the cell lives after the step, zero elsewhere.
__device__ void write_grad_z(const BackwardStorage& shared, const StepBackwardArgs& args,
                             int thread) {
    const Tile& tile = shared.tile.place;
    const std::size_t sample = first_cell(args.grid, tile);
    const float* const after = grad_after(args, tile.sample);
    constexpr int rounds = Traits::tile_cells * Traits::quads / Traits::threads;
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
        const int i = thread + round * Traits::threads;
        const int own = i / Traits::quads, quad = i % Traits::quads;
        const int cell = own_cell(args.grid, tile, own);
        if (cell < 0) continue;
        const std::size_t at = (sample + cell) * Traits::channels + quad * 4;
        float4 grad = zero4();
        if (shared.tile.life_after[own]) {
            grad = load4(after + at);
            if (args.grad_p != nullptr) {
                const float4 sent = gather_sent(shared.tile, args, own, quad);
                add_scaled(grad, 1, sent);
            }
            if (args.added != nullptr) add_scaled(grad, 1, load4(args.added + at));
        }
        store4(args.grad_z_out + at, grad);
    }
}

// Rows of a chunk by four threads each.
constexpr int rows_at_once = Traits::warp_size / Traits::quads;
static_assert(chunk <= rows_at_once * Traits::warps);

__device__ void perceive_chunk(BackwardStorage& shared, const StepRule& rule, int first,
                               int thread) {
    const int lane = thread % Traits::warp_size;
    const int start = thread / Traits::warp_size * rows_at_once;
    if (start >= chunk) return;
    perceive_rows(shared.p + start * Traits::p_pitch, shared.tile.states,
                  shared.tile.cells + first + start, shared.tile.rows - first - start, rule, lane);
}

// grad_u of a chunk of rows. start_grad_u starts the copies of grad_z, which may take long;
// finish_grad_u does the rest, the shared row behind those of cells included.
__device__ void start_grad_u(BackwardStorage& shared, const StepBackwardArgs& args, int first,
                             int thread) {
    const int row = thread / Traits::quads, quad = thread % Traits::quads;
    if (row >= chunk || first + row >= shared.tile.rows) return;
    const std::size_t cell = first_cell(args.grid, shared.tile.place) +
                             own_cell(args.grid, shared.tile.place, shared.tile.cells[first + row]);
    copy_async(shared.grad_u + row * Traits::grad_u_pitch + quad * 4,
               args.grad_z_out + cell * Traits::channels + quad * 4);
}

__device__ void finish_grad_u(BackwardStorage& shared, float step_size, int first, int thread) {
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

// grad_u of the shared row: the sum over the empty cells, in their order.
__device__ void sum_shared_row(BackwardStorage& shared, const StepBackwardArgs& args, int thread) {
    if (thread >= Traits::channels) return;
    const int count = sum_of_counts(shared.tile.empty_counts);
    const std::size_t sample = first_cell(args.grid, shared.tile.place);
    float sum = 0;
    for (int i = 0; i < count; ++i) {
        const std::size_t cell =
            sample + own_cell(args.grid, shared.tile.place, shared.tile.empty[i]);
        sum += args.rule.step_size * args.grad_z_out[cell * Traits::channels + thread];
    }
    shared.shared_grad_u[thread] = sum;
}

// Phase A and the first half of B, of a chunk with so many groups of eight rows; starts the copies
// of the next chunk's grad_u. grad_a is whole after a barrier.
template <int groups>
__device__ void step_chunk(WeightSums& sums, BackwardStorage& shared, const StepBackwardArgs& args,
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

// Sends all rows of a tile through the MLP. The first chunk is perceived already.
__device__ void step_rows(WeightSums& sums, BackwardStorage& shared, const StepBackwardArgs& args,
                          int thread) {
    start_grad_u(shared, args, 0, thread);
    for (int first = 0; first < shared.tile.all_rows(); first += chunk) {
        const int left = shared.tile.all_rows() - first, rows = left < chunk ? left : chunk;
        if (first > 0) perceive_chunk(shared, args.rule, first, thread);
        finish_grad_u(shared, args.rule.step_size, first, thread);
        __syncthreads();  // p and grad_u are there
        // A tile's last rows are often few.
        if (rows > 8) {
            step_chunk<4>(sums, shared, args, first, rows, opaque(thread));
        } else {
            step_chunk<1>(sums, shared, args, first, rows, opaque(thread));
        }
        __syncthreads();  // grad_a is whole
        sum_hidden_layer(sums, shared, sum_place(opaque(thread)), rows);
        write_grad_p(shared, args, first, opaque(thread));
        __syncthreads();  // nobody reads these rows any more
    }
}

__global__ void __launch_bounds__(Traits::threads, 2)
    step_backward_kernel(const __grid_constant__ StepBackwardArgs args) {
    auto& shared = shared_storage<BackwardStorage>();
    // Opaque: what one phase computes from it is not kept in registers through the others.
    const auto thread = [] { return opaque(int(threadIdx.x)); };
    WeightSums sums = {};
    if (thread() == 0) shared.tile.any_rows = false;
    let_dependents_start();
    load_w1(shared, *args.model, thread());
    for (int index = int(blockIdx.x); index >= 0; index = shared.tile.next) {
        const bool has_row = list_rows(shared.tile, args, index, thread());
        if (shared.tile.all_rows() > 0) perceive_chunk(shared, args.rule, 0, thread());
        wait_for_predecessor();
        if (shared.tile.any_rows && shared.tile.next < 0) prefetch_partial(args, thread());
        note_senders(shared.tile, args, has_row, thread());
        __syncthreads();  // it is known which cells send
        write_grad_z(shared, args, thread());
        __syncthreads();  // grad_z is written
        if (shared.tile.shared_row > 0) {
            sum_shared_row(shared, args, thread());
            __syncthreads();  // the shared row is summed
        }
        step_rows(sums, shared, args, thread());
    }
    if (!shared.tile.any_rows) return;
    write_sums(args.partial[blockIdx.x], sums, args.has_partial[blockIdx.x] == 0, thread());
    __syncthreads();  // everybody has read the flag
    if (thread() == 0) args.has_partial[blockIdx.x] = 1;
}

}  // namespace

int backward_blocks(const BatchShape& grid) {
    return blocks_for(tile_count(grid), Traits::most_backward_blocks);
}

void launch_step_backward(const StepBackwardArgs& args, bool dependent, cudaStream_t stream) {
    launch(NCA_KERNEL(step_backward_kernel),
           {.blocks = backward_blocks(args.grid),
            .threads = Traits::threads,
            .shared_bytes = sizeof(BackwardStorage),
            .dependent = dependent},
           stream, args);
}

}  // namespace nca::cuda
