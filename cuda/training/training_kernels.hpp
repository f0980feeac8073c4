// SPDX-License-Identifier: MIT
#pragma once

// The launchers of a training iteration, without its rollout.
// cuda/rule/rule_kernels.hpp says what all launchers have in common.

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/rule/model.hpp"
#include "cuda/rule/training_control.hpp"
#include "host/core/grid.hpp"
#include "host/iteration/pool.hpp"

namespace nca::cuda {

// loss.cu: Engine::loss. partial [loss_partials(grid)] is scratch. Where from_steps [batch] is
// given, state is a tape [steps + 1, cells, 16], and a sample's loss is that of its state after so
// many steps. Where control is given, it receives the batch's loss and number of dead samples, and
// whether training can go on.
int loss_partials(const BatchShape& grid);
void launch_loss(float* grad_state, float* loss, float* living, LossPartial* partial,
                 const float* state, const int* from_steps, const float* target,
                 const BatchShape& grid, TrainingControl* control, cudaStream_t stream);

struct AdamArgs {
    float* weights;        // [parameter_count], as the moments
    float* first_moments;  //
    float* second_moments;
    float* grad_weights;  // overwritten by its normalised value where that is asked for
    float* norms;         // [4] overwritten
    double* squares;      // [4] scratch
    bool output_bias;
    bool normalise;
    float beta1;
    float beta2;
    float epsilon;
    AdamRates rates;  // of this update; those of the plan where control is given
    // Training only, null otherwise.
    TrainingControl* control = nullptr;
    float* good = nullptr;    // [parameter_count] receives the weights before the update
    float* anchor = nullptr;  // [3 * parameter_count] receives all parameters if the plan says so
};
// adam.cu: the tensors' norms, then the update.
void launch_adam(const AdamArgs& args, cudaStream_t stream);

struct alignas(64) BlockArrival {
    std::uint32_t barriers;
};

struct UpdateWeightsArgs {
    AdamArgs adam;                    // control is not null; squares is not used
    const PartialGradients* partial;  // [partials]
    int partials;
    const LossPartial* loss_partial;  // [batch, losses_per_sample]
    int losses_per_sample;
    float* loss;             // [batch] overwritten
    float* living;           // [batch] overwritten
    double* squares;         // [update_slices] scratch
    BlockArrival* arrivals;  // [update_slices + 1] all equal before and after
    TensorWeights* packed;   // receives the new weights
    BatchShape grid;
    bool close;  // close the iteration, too: no put_samples follows
};
// update_weights.cu: the gradients' sums, the verdicts, Adam's update and the packed weights, in
// one launch. What the launches before left in loss_partial and partial is summed in their order.
inline constexpr int update_slices = (partial_floats + Traits::warp_size - 1) / Traits::warp_size;
void launch_update_weights(const UpdateWeightsArgs& args, int blocks, cudaStream_t stream);
int resident_update_blocks();

// The cells that a rollout starts from, and Rule::start_values, which all of them have.
struct StartCell {
    float values[Traits::channels];
    int count;
    int cells[most_start_cells];  // y * width + x, [count]
};
// start_states.cu: empty grids with the start cells. state [cells, 16] is overwritten.
void launch_start_states(float* state, const BatchShape& grid, const StartCell& start,
                         cudaStream_t stream);

// The pool of a training run, and what the plans of a queue draw from it (host/iteration/pool.hpp).
struct PoolArgs {
    float* states;               // [pool, height, width, 16]
    float* losses;               // [pool], of the states when they were put there
    const int* samples;          // [most_queued_iterations, batch]
    const DamageCircle* damage;  // [most_queued_iterations, damaged]
    int damaged;
    StartCell start;
    float start_loss;  // of the state that has nothing but the start cells
};
// take_samples.cu: the batch of the plan at the cursor. state [cells, 16] is overwritten.
void launch_take_samples(float* state, const BatchShape& grid, const PoolArgs& pool,
                         const TrainingControl* control, cudaStream_t stream);
// put_samples.cu: the batch goes back to the pool if the iteration at the cursor is good. state
// [cells, 16], loss and living [batch] are read.
void launch_put_samples(const PoolArgs& pool, const float* state, const float* loss,
                        const float* living, const BatchShape& grid, TrainingControl* control,
                        cudaStream_t stream);

// close_iteration.cu: moves the training's cursor on.
void launch_close_iteration(TrainingControl* control, cudaStream_t stream);

}  // namespace nca::cuda
