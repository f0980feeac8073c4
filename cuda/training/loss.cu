// SPDX-License-Identifier: MIT
// Engine::loss: the mean squared error of the visible channels, its gradient, and living cells.
//
//   loss[b]         = sum of (state - target)^2 / (height * width * 4)
//   grad_state      = 2 (state - target) / (height * width * 4 * batch), 0 for hidden channels
//   living[b]       = cells whose own alpha is above living_threshold
//
// Overwrites all three. In two launches: the first writes gradients and, for every 1,024 cells, a
// partial sum in double; the second adds these up in order and, in training, judges the iteration.
// Per cell 16 bytes of state and target read, 64 of gradient written.
// Reference: host/reference/rollout.hpp. Test: tests/engine_test.cpp, tests/trainer_test.cpp.

#include "cuda/device/launch.cuh"
#include "cuda/rule/loss.cuh"
#include "cuda/training/training_kernels.hpp"
#include "cuda/training/verdicts.cuh"

namespace nca::cuda {
namespace {

constexpr int cells_per_partial = 1024;

int partials_per_sample(const BatchShape& grid) {
    const long long cells = static_cast<long long>(grid.height) * grid.width;
    return int((cells + cells_per_partial - 1) / cells_per_partial);
}

struct LossArgs {
    float* grad_state;      // [cells, 16]
    float* loss;            // [batch]
    float* living;          // [batch]
    LossPartial* partial;   // [batch, per_sample]
    const float* state;     // [cells, 16], of a tape where there are from_steps
    const int* from_steps;  // [batch] or null
    const float* target;    // [height, width, 4]
    BatchShape grid;
    int per_sample;
    float scale;  // 2 / (height * width * 4 * batch)
    TrainingControl* control;
};

struct SharedStorage {
    LossPartial sums[Traits::threads];
};

// Adds the threads' sums up, always in the same order; the result is thread 0's.
__device__ LossPartial sum_of_block(SharedStorage& shared, LossPartial own, int thread) {
    shared.sums[thread] = own;
    for (int half = Traits::threads / 2; half > 0; half /= 2) {
        __syncthreads();  // the sums of the round before are written
        if (thread < half) {
            own.squares += shared.sums[thread + half].squares;
            own.living += shared.sums[thread + half].living;
            shared.sums[thread] = own;
        }
    }
    __syncthreads();  // the storage may be used again
    return own;
}

__global__ void __launch_bounds__(Traits::threads)
    loss_kernel(const __grid_constant__ LossArgs args) {
    auto& shared = shared_storage<SharedStorage>();
    const int thread = int(threadIdx.x);
    const int cells = args.grid.height * args.grid.width;
    const int sample = int(blockIdx.x) / args.per_sample;
    const int first = int(blockIdx.x) % args.per_sample * cells_per_partial;
    const int count = cells - first < cells_per_partial ? cells - first : cells_per_partial;
    const float* state = args.state;
    if (args.from_steps != nullptr) {
        state += std::size_t(args.from_steps[sample]) * args.grid.batch * cells * Traits::channels;
    }
    LossPartial own = {};
    for (int i = thread; i < count * Traits::quads; i += Traits::threads) {
        const int cell = first + i / Traits::quads, quad = i % Traits::quads;
        const std::size_t at = (std::size_t(sample) * cells + cell) * Traits::channels + quad * 4;
        float4 grad = zero4();
        if (quad == 0) {
            const float4 x = load4(state + at);
            const float4 target = load4(args.target + std::size_t(cell) * visible_channels);
            add_loss(own, grad, x, target, args.scale);
        }
        store4(args.grad_state + at, grad);
    }
    own = sum_of_block(shared, own, thread);
    if (thread == 0) args.partial[blockIdx.x] = own;
}

__global__ void __launch_bounds__(Traits::threads)
    finish_loss_kernel(const __grid_constant__ LossArgs args) {
    const int thread = int(threadIdx.x);
    finish_losses(args.loss, args.living, args.partial, args.per_sample, args.grid, thread);
    __syncthreads();  // all samples have their loss
    if (thread == 0 && args.control != nullptr) {
        judge_batch(*args.control, args.loss, args.living, args.grid.batch);
    }
}

}  // namespace

int loss_partials(const BatchShape& grid) { return grid.batch * partials_per_sample(grid); }

void launch_loss(float* grad_state, float* loss, float* living, LossPartial* partial,
                 const float* state, const int* from_steps, const float* target,
                 const BatchShape& grid, TrainingControl* control, cudaStream_t stream) {
    const LossArgs args = {grad_state,       loss,   living,
                           partial,          state,  from_steps,
                           target,           grid,   partials_per_sample(grid),
                           loss_scale(grid), control};
    launch(NCA_KERNEL(loss_kernel),
           {.blocks = loss_partials(grid),
            .threads = Traits::threads,
            .shared_bytes = sizeof(SharedStorage)},
           stream, args);
    launch(NCA_KERNEL(finish_loss_kernel), {.threads = Traits::threads}, stream, args);
}

}  // namespace nca::cuda
