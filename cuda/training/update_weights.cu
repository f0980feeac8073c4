// SPDX-License-Identifier: MIT
// The end of a training iteration in one launch: what finish_loss, reduce_gradients, tensor_norms,
// adam, pack_model and close_iteration do one after the other (their files have the formulas).
//
// A block takes slices of 32 weights: it sums the rollout's partial gradients, and after all blocks
// have done so updates the weights and writes them to their packed places. All blocks wait for each
// other once, and once more before the cursor moves. No sum depends on which block has a slice, so
// the bits do not depend on the number of blocks.
//
// Reads 33 KiB for each block of the way back. Tests: tests/update_weights_test.cpp.

#include "cuda/device/flags.cuh"
#include "cuda/device/launch.cuh"
#include "cuda/rule/loss.cuh"
#include "cuda/rule/pack_tensor.cuh"
#include "cuda/rule/partial_gradients.cuh"
#include "cuda/training/adam.cuh"

namespace nca::cuda {
namespace {

// The slices of each tensor, in the order of PartialGradients.
constexpr int w1_slices = Traits::perception * Traits::hidden / Traits::warp_size;
constexpr int w2_slices = Traits::channels * Traits::hidden / Traits::warp_size;
constexpr int b1_slices = Traits::hidden / Traits::warp_size;
static_assert(w1_slices + w2_slices + b1_slices + 1 == update_slices,
              "a slice has weights of one tensor");

struct SharedStorage {
    PartialSums sums;
    double squares[tensors];
};

__device__ Span slices_of(int tensor) {
    return tensor == 0   ? Span{0, w1_slices}
           : tensor == 1 ? Span{w1_slices + w2_slices, update_slices - 1}
           : tensor == 2 ? Span{w1_slices, w1_slices + w2_slices}
                         : Span{update_slices - 1, update_slices};
}

// Waits until all blocks have come here; then this block can read what they wrote.
__device__ void wait_for_all_blocks(BlockArrival* arrivals, std::uint32_t& passed, int thread) {
    BlockArrival& all = arrivals[0];
    BlockArrival* const each = arrivals + 1;
    ++passed;
    __syncthreads();  // this block has come
    if (thread == 0) release_flag(&each[blockIdx.x].barriers, passed);
    if (blockIdx.x == 0) {
        for (int i = thread; i < int(gridDim.x); i += Traits::threads) {
            wait_for_count(&each[i].barriers, passed);
        }
        __syncthreads();  // all blocks have
        if (thread == 0) release_flag(&all.barriers, passed);
    }
    if (thread == 0) wait_for_count(&all.barriers, passed);
    __syncthreads();  // and this block knows
}

// Where a lane's weight of a slice lies in Weights::all(), and its tensor; no index for b2 where
// the model has none.
__device__ ParameterPlace weight_of(const AdamArgs& adam, int slice, int lane) {
    const int i = slice * Traits::warp_size + lane;
    if (i >= partial_floats) return {tensors - 1, -1};
    const ParameterPlace place = parameter_of_partial(i);
    const Span span = tensor_span(place.tensor, adam.output_bias);
    if (span.begin == span.end) return {place.tensor, -1};
    return {place.tensor, span.begin + place.index};
}

__device__ void reduce_slice(SharedStorage& shared, const UpdateWeightsArgs& args, int slice,
                             int warp, int lane) {
    const float sum = sum_of_partials(shared.sums, args.partial, nullptr, args.partials,
                                      slice * Traits::warp_size + lane, warp, lane);
    if (warp == 0) {
        const int index = weight_of(args.adam, slice, lane).index;
        if (index >= 0) args.adam.grad_weights[index] = sum;
        const double squares = sum_of_warp(index >= 0 ? double(sum) * sum : 0);
        if (lane == 0) args.squares[slice] = squares;
    }
    __syncthreads();  // the sums may be used again
}

// The squares of the tensors' norms, by a warp each.
__device__ void sum_squares(SharedStorage& shared, const UpdateWeightsArgs& args, int warp,
                            int lane) {
    if (warp < tensors) {
        const Span slices = slices_of(warp);
        double sum = 0;
        for (int i = slices.begin + lane; i < slices.end; i += Traits::warp_size) {
            sum += args.squares[i];
        }
        sum = sum_of_warp(sum);
        if (lane == 0) shared.squares[warp] = sum;
    }
    __syncthreads();  // all four are there
}

__global__ void __launch_bounds__(Traits::threads)
    update_weights_kernel(const __grid_constant__ UpdateWeightsArgs args) {
    auto& shared = shared_storage<SharedStorage>();
    const int thread = int(threadIdx.x);
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    const int first = int(blockIdx.x), blocks = int(gridDim.x);
    TrainingControl& control = *args.adam.control;
    // Every launch counts all blocks alike.
    std::uint32_t passed = args.arrivals[1 + first].barriers;
    for (int slice = first; slice < update_slices; slice += blocks) {
        reduce_slice(shared, args, slice, warp, lane);
    }
    if (first == 0) {
        finish_losses(args.loss, args.living, args.loss_partial, args.losses_per_sample, args.grid,
                      thread);
        __syncthreads();  // all samples have their loss
        if (thread == 0) judge_batch(control, args.loss, args.living, args.grid.batch);
    }
    wait_for_all_blocks(args.arrivals, passed, thread);

    sum_squares(shared, args, warp, lane);
    if (first == 0 && thread < tensors) {
        args.adam.norms[thread] = float(sqrt(shared.squares[thread]));
    }
    if (judge_gradient(control, shared.squares, first == 0 && thread == 0) && warp == 0) {
        const AdamRates rates = control.plans[control.cursor].rates;
        const int count = tensor_span(tensors - 1, args.adam.output_bias).end;
        for (int slice = first; slice < update_slices; slice += blocks) {
            const ParameterPlace weight = weight_of(args.adam, slice, lane);
            if (weight.index < 0) continue;
            keep_copies(args.adam, weight.index, count);
            const float w =
                update_weight(args.adam, rates, weight.index, shared.squares[weight.tensor]);
            store_packed(*args.packed, weight.index, w);
        }
    }
    if (!args.close) return;
    wait_for_all_blocks(args.arrivals, passed, thread);
    if (first == 0 && thread == 0) close_iteration(control);
}

}  // namespace

int resident_update_blocks() {
    return resident_blocks(NCA_KERNEL(update_weights_kernel), Traits::threads,
                           sizeof(SharedStorage));
}

void launch_update_weights(const UpdateWeightsArgs& args, int blocks, cudaStream_t stream) {
    launch(NCA_KERNEL(update_weights_kernel),
           {.blocks = blocks_for(update_slices, blocks),
            .threads = Traits::threads,
            .shared_bytes = sizeof(SharedStorage),
            .cooperative = true},
           stream, args);
}

}  // namespace nca::cuda
