// SPDX-License-Identifier: MIT
// One step back with the MLP on tensor cores: step_backward.cu's formula and buffers, for one tile
// of 16 x 8 cells after the other, 64 rows at a time. A warp keeps its weight gradients in
// registers for the block's life, summed once a chunk of rows in float32, rounded to nearest. What
// does not hang on the step after comes first, so that it is done while that step ends.
//
// Per row 45,056 operations. Reference: host/reference/step.hpp. Tests:
// tests/tensor_engine_test.cpp.

#include "cuda/backward_tile.cuh"
#include "cuda/kernels.hpp"
#include "cuda/launch.cuh"
#include "cuda/perceive.cuh"
#include "cuda/philox.hpp"
#include "cuda/tensor_mlp.cuh"

namespace nca::cuda {
namespace {

struct SharedStorage {
    BackwardTile tile;
    // Of the state after the step at first, then grad_z of the step.
    alignas(16) float grads[Traits::tile_cells * Traits::channels];
    alignas(16) float lone_grad_u[Traits::channels];  // the row that has no cell of its own
    BackwardRows rows;
};

// Rows that a block has: those of cells, and behind them one for all lone cells where there are
// any.
struct RowCounts {
    int cells;
    int lone;      // cells
    bool own_row;  // whether the thread's own cell has a row
    __device__ int all() const { return cells + (lone > 0 ? 1 : 0); }
};

// Masks and states, and from them the lists of rows: all that is known before the step after ends.
// A tile in which nobody lives has no rows, and its states are not read.
__device__ RowCounts list_backward_rows(SharedStorage& shared, const StepBackwardArgs& args,
                                        const Tile& tile, bool fires, int thread) {
    load_lives_on(shared.tile, args, tile, thread);
    __syncthreads();  // the living are counted
    if (sum_of_counts(shared.tile.living_counts) > 0) {
        load_halo_states(shared.tile.states, args.state, args.grid, args.rule.circular, tile,
                         thread);
    }
    if (thread < Traits::halo_cells) {
        shared.tile.living[thread] = lives_before(args, tile, thread);
    }
    __syncthreads();  // masks are loaded
    RowCounts counts = {};
    bool is_lone;
    find_rows(shared.tile, fires, counts.own_row, is_lone, thread);
    wait_for_copies();
    __syncthreads();  // rows are counted, states loaded
    counts.cells = sum_of_counts(shared.tile.row_counts);
    counts.lone = sum_of_counts(shared.tile.lone_counts);
    list_cell(shared.tile.cells, shared.tile.row_counts, counts.own_row, thread);
    list_cell(shared.tile.lone, shared.tile.lone_counts, is_lone, thread);
    __syncthreads();  // rows are listed
    return counts;
}

// The gradient of the state after the step: from global memory to shared, and grad_z back.
__device__ void copy_grads(SharedStorage& shared, const StepBackwardArgs& args, const Tile& tile,
                           bool back, int thread) {
    const std::size_t sample = std::size_t(tile.sample) * args.grid.height * args.grid.width;
    for (int i = thread; i < Traits::tile_cells * Traits::quads; i += Traits::threads) {
        const int cell = own_cell(args.grid, tile, i / Traits::quads);
        if (cell < 0) continue;
        const std::size_t at = (sample + cell) * Traits::channels + i % Traits::quads * 4;
        if (back) {
            store4(args.grad_z_out + at, load4(shared.grads + i * 4));
        } else {
            copy_async(shared.grads + i * 4, args.grad + at);
        }
    }
}

// grads becomes grad_z: what the step after sends is added, and what died is cleared. The step
// before is told who will send. Ends with a barrier.
__device__ void gather_grad_z(SharedStorage& shared, const StepBackwardArgs& args, const Tile& tile,
                              const RowCounts& counts, int thread) {
    if (thread < Traits::halo_cells) {
        shared.tile.row_after[thread] = has_row_after(args, tile, thread);
    }
    write_row(args, tile, counts.own_row, thread);
    __syncthreads();  // it is known who sends, and the gradients of all threads are there
    for (int i = thread; i < Traits::tile_cells * Traits::quads; i += Traits::threads) {
        const int own = i / Traits::quads, quad = i % Traits::quads;
        float* const at = shared.grads + i * 4;
        float4 grad = zero4();
        if (shared.tile.lives_on[own]) {
            grad = load4(at);
            if (args.grad_p != nullptr) {
                add_scaled(grad, 1, gather_sent(shared.tile, args, tile, own, quad));
            }
        }
        store4(at, grad);
    }
    __syncthreads();  // grad_z is there
}

// Sums the gradients that the lone cells share, in the order of cells.
__device__ void sum_lone_cells(SharedStorage& shared, int lone, float step_size, int thread) {
    if (thread >= Traits::channels) return;
    float sum = 0;
    for (int i = 0; i < lone; ++i) {
        sum += shared.grads[shared.tile.lone[i] * Traits::channels + thread];
    }
    shared.lone_grad_u[thread] = step_size * sum;
}

// Where two values of an own cell's grad_p lie in [cells, 48].
__device__ float2& grad_p_place(const StepBackwardArgs& args, const Tile& tile, int own,
                                int column) {
    const std::size_t cell = std::size_t(tile.sample) * args.grid.height * args.grid.width +
                             own_cell(args.grid, tile, own);
    return *reinterpret_cast<float2*>(args.grad_p_out + cell * Traits::perception + column);
}

// Sends the rows through the network: adds to sums, writes grad_p. Ends with a barrier where there
// are rows.
template <class Arithmetic>
__device__ void send_rows_back(TensorSums& sums, SharedStorage& shared,
                               const BackwardOperands<Arithmetic>& own,
                               const StepBackwardArgs& args, const Tile& tile,
                               const RowCounts& counts, int thread) {
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    const int quad = lane % Traits::quads, row_of_thread = thread / Traits::quads;
    for (int first = 0; first < counts.all(); first += TensorShape::rows) {
        const int row = first + row_of_thread;
        const float* state = nullptr;
        float4 grad_u = zero4();
        if (row < counts.cells) {
            const int cell = shared.tile.cells[row];
            state = shared.tile.states + halo_of_own(cell) * Traits::channels;
            add_scaled(grad_u, args.rule.step_size,
                       load4(shared.grads + cell * Traits::channels + quad * 4));
        } else if (row < counts.all()) {
            grad_u = load4(shared.lone_grad_u + quad * 4);
        }
        perceive_cell(shared.rows.p + row_of_thread * TensorShape::p_pitch, state, args.rule, quad);
        store4(shared.rows.grad_u + row_of_thread * TensorShape::u_pitch + quad * 4, grad_u);
        __syncthreads();  // p and grad_u are there
        const int count =
            counts.all() - first < TensorShape::rows ? counts.all() - first : TensorShape::rows;
        tensor_weight_gradients<Arithmetic>(sums, shared.rows, own, count, warp, lane);
        __syncthreads();  // grad_a is whole
        tensor_grad_p<Arithmetic>(
            shared.rows, count, warp, lane, [&](int of_chunk, int column, float2 grad_p) {
                if (first + of_chunk >= counts.cells) return;  // the lone cells' row, or none
                grad_p_place(args, tile, shared.tile.cells[first + of_chunk], column) = grad_p;
            });
        __syncthreads();  // nobody reads these rows any more
    }
}

template <class Arithmetic>
__global__ void __launch_bounds__(Traits::threads)
    step_backward_tensor_kernel(const __grid_constant__ StepBackwardArgs args) {
    auto& shared = shared_storage<SharedStorage, Traits::tensor_shared_bytes>();
    const int thread = static_cast<int>(threadIdx.x);
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    const int tiles = tile_count(args.grid), blocks = static_cast<int>(gridDim.x);
    let_dependents_start();
    const auto own = load_backward_operands<Arithmetic>(args.model->tensor, warp, lane);
    load_w1_back(shared.rows, args.model->tensor, thread);
    TensorSums sums = {};
    bool any_rows = false;
    for (int index = static_cast<int>(blockIdx.x); index < tiles; index += blocks) {
        const Tile tile = tile_at(args.grid, index);
        const int cell = thread < Traits::tile_cells ? own_cell(args.grid, tile, thread) : -1;
        const bool fires = cell >= 0 && cell_fires(args.model->key, args.rule.fire_threshold,
                                                   args.step, tile.sample, cell);
        const RowCounts counts = list_backward_rows(shared, args, tile, fires, thread);
        any_rows |= counts.all() > 0;
        wait_for_predecessor();
        copy_grads(shared, args, tile, false, thread);
        wait_for_copies();
        gather_grad_z(shared, args, tile, counts, thread);
        copy_grads(shared, args, tile, true, thread);
        if (counts.lone > 0) {
            sum_lone_cells(shared, counts.lone, args.rule.step_size, thread);
            __syncthreads();  // the lone cells' row is summed
        }
        send_rows_back<Arithmetic>(sums, shared, own, args, tile, counts, thread);
        __syncthreads();  // nobody reads this tile any more
    }
    if (any_rows) {
        const bool overwrite = args.has_partial[blockIdx.x] == 0;
        write_tensor_sums(args.partial[blockIdx.x], sums, overwrite, warp, lane);
    }
    __syncthreads();  // everybody has read the flag
    if (any_rows && thread == 0) args.has_partial[blockIdx.x] = 1;
}

}  // namespace

void launch_step_backward_tensor(const StepBackwardArgs& args, Precision precision, bool dependent,
                                 cudaStream_t stream) {
    with_arithmetic(precision, [&](auto arithmetic) {
        launch("step_backward_tensor_kernel", step_backward_tensor_kernel<decltype(arithmetic)>,
               {.blocks = backward_blocks(args.grid),
                .threads = Traits::threads,
                .shared_bytes = sizeof(SharedStorage),
                .dependent = dependent},
               stream, args);
    });
}

}  // namespace nca::cuda
