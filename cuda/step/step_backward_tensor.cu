// SPDX-License-Identifier: MIT
// One step back with the MLP on tensor cores: step_backward.cu's formula and buffers, for one tile
// of 16 x 8 cells after the other, and of a tile 64 rows at a time, or 128 where operands have one
// part. What does not depend on the step after comes first, and is done while that step ends:
// weights, masks, states, the lists of rows, and the first rows' perception.
//
// Each chunk of rows has powers of two of its own for its operands
// (cuda/step/mlp_backward_tensor.cuh), from its largest perception and its largest gradient.
//
// Per row 45,056 operations. Reference: host/reference/step.hpp. Tests:
// tests/tensor_engine_test.cpp.

#include "cuda/device/launch.cuh"
#include "cuda/rule/perceive.cuh"
#include "cuda/step/mlp_backward_tensor.cuh"
#include "cuda/step/step_kernels.hpp"
#include "cuda/step/tile_backward.cuh"

namespace nca::cuda {
namespace {

template <int parts>
struct SharedStorage {
    BackwardTile tile;
    alignas(16) float grads[Traits::tile_cells * Traits::channels];  // grad_z of the step
    alignas(16) float shared_grad_u[Traits::channels];  // the row that has no cell of its own
    BackwardRows<parts> rows;
    WeightScales weights;
    ChunkScale scale;
    // Of the chunk's rows, as bits; zero between chunks.
    std::uint32_t largest_p, largest_grad;
    std::uint32_t largest_weights[4];
};

// That all threads have at a time: a thread has a piece of every 64th row of a chunk.
constexpr int rows_of_threads = Traits::threads / Traits::quads;

// What stays in shared memory for all tiles. It is there after a barrier.
template <int parts>
__device__ void prepare(SharedStorage<parts>& shared, const TensorWeights& weights, int thread) {
    if (thread < 4) shared.largest_weights[thread] = 0;
    if (thread < Traits::warps * Traits::channels) (&shared.rows.b2[0][0])[thread] = 0;
    const WeightScales scales = weight_scales(weights, shared.largest_weights, thread);
    if (thread == 0) {
        shared.weights = scales;
        shared.largest_p = shared.largest_grad = 0;
        shared.tile.any_rows = false;
    }
    load_w1<parts>(shared.rows, weights, scales, thread);
}

// grad_z of the tile, in shared and in global memory: gathered where the cell lives after the step,
// zero elsewhere. Also writes which cells will send to the step before. Ends with a barrier.
template <int parts>
__device__ void write_grad_z(SharedStorage<parts>& shared, const StepBackwardArgs& args,
                             bool has_row, int thread) {
    const Tile& tile = shared.tile.place;
    const std::size_t sample = first_cell(args.grid, tile);
    const float* const after = grad_after(args, tile.sample);
    constexpr int rounds = Traits::tile_cells * Traits::quads / Traits::threads;
#pragma unroll
    for (int round = 0; round < rounds; ++round) {
        const int i = thread + round * Traits::threads, own = i / Traits::quads;
        if (shared.tile.life_after[own] == 0) continue;
        const std::size_t cell = sample + own_cell(args.grid, tile, own);
        copy_async(shared.grads + i * 4, after + cell * Traits::channels + i % Traits::quads * 4);
    }
    note_senders(shared.tile, args, has_row, thread);
    wait_for_copies();  // of its own pieces
    __syncthreads();    // it is known which cells send
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
        const int i = thread + round * Traits::threads;
        const int own = i / Traits::quads, quad = i % Traits::quads;
        float* const at = shared.grads + i * 4;
        const int cell = own_cell(args.grid, tile, own);
        const std::size_t place = (sample + cell) * Traits::channels + quad * 4;
        float4 grad = zero4();
        if (shared.tile.life_after[own] != 0) {
            grad = load4(at);
            if (args.grad_p != nullptr) {
                add_scaled(grad, 1, gather_sent(shared.tile, args, own, quad));
            }
            if (args.added != nullptr) add_scaled(grad, 1, load4(args.added + place));
        }
        store4(at, grad);
        if (cell < 0) continue;
        store4(args.grad_z_out + place, grad);
    }
    __syncthreads();  // grad_z is there
}

// grad_u of the shared row: the sum over the empty cells, in their order. Ends with a barrier.
template <int parts>
__device__ void sum_shared_row(SharedStorage<parts>& shared, float step_size, int thread) {
    if (thread < Traits::channels) {
        const int count = sum_of_counts(shared.tile.empty_counts);
        float sum = 0;
        for (int i = 0; i < count; ++i) {
            sum += shared.grads[shared.tile.empty[i] * Traits::channels + thread];
        }
        shared.shared_grad_u[thread] = step_size * sum;
    }
    __syncthreads();  // the shared row is summed
}

__device__ void note_largest(std::uint32_t& of_block, float of_thread, int thread) {
    const float largest = largest_of_warp(of_thread);
    if (thread % Traits::warp_size == 0) atomicMax(&of_block, __float_as_uint(largest));
}

// Perception of the rows from `first` on as operands, and their f. Has a barrier.
template <bool plain, int parts>
__device__ void perceive_with(SharedStorage<parts>& shared, const StepRule& rule, int first,
                              int thread) {
    constexpr int pieces = BackwardRows<parts>::most / rows_of_threads;
    const int quad = thread % Traits::quads, cells = shared.tile.rows;
    CellPerception p[pieces];
    float largest = 0;
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
        const int row = first + thread / Traits::quads + i * rows_of_threads;
        const float* const cell =
            row < cells
                ? shared.tile.states + halo_of_own(shared.tile.cells[row]) * Traits::channels
                : nullptr;
        p[i] = perceived<plain>(cell, rule, quad);
#pragma unroll
        for (int k = 0; k < filter_count; ++k) {
            largest = fmaxf(largest, largest_element(p[i].filters[k]));
        }
    }
    note_largest(shared.largest_p, largest, thread);
    __syncthreads();  // all warps have noted theirs
    const float f = scale_of_rows(shared.weights, __uint_as_float(shared.largest_p));
    if (thread == 0) shared.scale.f = f;
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
        store_p<parts>(shared.rows, thread / Traits::quads + i * rows_of_threads, quad, p[i],
                       f * inverse_of_power(shared.weights.w1));
    }
}
template <int parts>
__device__ void perceive_chunk(SharedStorage<parts>& shared, const StepRule& rule, int first,
                               int thread) {
    if (rule.plain_taps) {
        perceive_with<true>(shared, rule, first, thread);
    } else {
        perceive_with<false>(shared, rule, first, thread);
    }
}

// grad_u of the rows from `first` on as operands, and their g; adds to b2's gradient. Has a
// barrier.
template <int parts>
__device__ void put_grad_u(SharedStorage<parts>& shared, float step_size, int first, int thread) {
    constexpr int pieces = BackwardRows<parts>::most / rows_of_threads;
    const int quad = thread % Traits::quads;
    float4 grad_u[pieces], b2 = zero4();
    float largest = 0;
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
        const int row = first + thread / Traits::quads + i * rows_of_threads;
        grad_u[i] = zero4();
        if (row < shared.tile.rows) {
            grad_u[i] =
                scaled(load4(shared.grads + shared.tile.cells[row] * Traits::channels + quad * 4),
                       step_size);
        } else if (row < shared.tile.all_rows()) {
            grad_u[i] = load4(shared.shared_grad_u + quad * 4);
        }
        add_scaled(b2, 1, grad_u[i]);
        largest = fmaxf(largest, largest_element(grad_u[i]));
    }
    add_b2(shared.rows, b2, thread);
    note_largest(shared.largest_grad, largest, thread);
    __syncthreads();  // all warps have noted theirs
    const float g = scale_of_gradients(__uint_as_float(shared.largest_grad));
    if (thread == 0) shared.scale.g = g;
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
        store_grad_u<parts>(shared.rows, thread / Traits::quads + i * rows_of_threads, quad,
                            grad_u[i], g);
    }
}

// Sends a tile's rows through the MLP: adds to the sums, writes grad_p. The first chunk is
// perceived already. Ends with a barrier where there are rows.
template <int parts>
__device__ void send_rows_back(TensorSums& sums, SharedStorage<parts>& shared,
                               const StepBackwardArgs& args, int thread) {
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    constexpr int most = BackwardRows<parts>::most;
    for (int first = 0; first < shared.tile.all_rows(); first += most) {
        if (first > 0) perceive_chunk(shared, args.rule, first, thread);
        put_grad_u(shared, args.rule.step_size, first, thread);
        __syncthreads();  // the operands are there
        if (thread == 0) shared.largest_p = shared.largest_grad = 0;
        const int left = shared.tile.all_rows() - first, count = left < most ? left : most;
        multiply_rows<parts>(sums, shared.rows, args.model->tensor, shared.weights, shared.scale,
                             count, warp, lane);
        __syncthreads();  // grad_a is whole
        add_w1<parts>(sums, shared.rows, shared.weights, shared.scale, count, warp, lane);
        compute_grad_p<parts>(
            shared.rows, shared.weights, shared.scale, count, warp, lane, [&](int row) -> float* {
                if (first + row >= shared.tile.rows) return nullptr;  // the shared row, or none
                const Tile& tile = shared.tile.place;
                const std::size_t cell = first_cell(args.grid, tile) +
                                         own_cell(args.grid, tile, shared.tile.cells[first + row]);
                return args.grad_p_out + cell * Traits::perception;
            });
        __syncthreads();  // nobody reads these rows any more
    }
}

template <int parts>
__global__ void __launch_bounds__(Traits::threads, 2)
    step_backward_tensor_kernel(const __grid_constant__ StepBackwardArgs args) {
    auto& shared = shared_storage<SharedStorage<parts>, Traits::tensor_shared_bytes>();
    // Opaque: what one phase computes from it is not kept in registers through the others.
    const auto thread = [] { return opaque(int(threadIdx.x)); };
    let_dependents_start();
    prepare(shared, args.model->tensor, thread());
    TensorSums sums = {};
    for (int index = int(blockIdx.x); index >= 0; index = shared.tile.next) {
        const bool has_row = list_rows(shared.tile, args, index, thread());
        if (shared.tile.all_rows() > 0) perceive_chunk(shared, args.rule, 0, thread());
        wait_for_predecessor();
        if (shared.tile.all_rows() > 0) prefetch_backward_operands(args.model->tensor, thread());
        if (shared.tile.any_rows && shared.tile.next < 0) prefetch_partial(args, thread());
        write_grad_z(shared, args, has_row, thread());
        if (shared.tile.shared_row > 0) sum_shared_row(shared, args.rule.step_size, thread());
        send_rows_back<parts>(sums, shared, args, thread());
    }
    if (!shared.tile.any_rows) return;
    write_sums<parts>(args.partial[blockIdx.x], shared.rows, sums,
                      args.has_partial[blockIdx.x] == 0, thread());
    __syncthreads();  // everybody has read the flag
    if (threadIdx.x == 0) args.has_partial[blockIdx.x] = 1;
}

}  // namespace

void launch_step_backward_tensor(const StepBackwardArgs& args, Precision precision, bool dependent,
                                 cudaStream_t stream) {
    const auto launch_parts = [&](auto parts) {
        launch("step_backward_tensor_kernel", step_backward_tensor_kernel<parts>,
               {.blocks = backward_blocks(args.grid),
                .threads = Traits::threads,
                .shared_bytes = sizeof(SharedStorage<parts>),
                .dependent = dependent},
               stream, args);
    };
    if (precision == Precision::fast) return launch_parts(std::integral_constant<int, 1>{});
    launch_parts(std::integral_constant<int, 2>{});
}

}  // namespace nca::cuda
