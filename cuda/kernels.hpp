// SPDX-License-Identifier: MIT
#pragma once

// All launchers. They queue their kernel on the stream and return; pointers are to device memory
// unless a comment says otherwise. They throw CudaError when the launch is refused.

#include <nca/engine.hpp>

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/rule/model.hpp"
#include "cuda/rule/training_control.hpp"
#include "host/iteration/pool.hpp"

namespace nca::cuda {

// pack_model.cu: the copies of the weights that kernels of that precision and rule read, with u0.
// The key is the one given, or that of the plan at the training's cursor.
void launch_pack_model(PackedModel* model, ConstWeightsView weights, const StepRule& rule,
                       const FireKey& key, const TrainingControl* control, Precision precision,
                       cudaStream_t stream);

// What a byte of marks says of a cell's z', in bits.
enum CellMark : std::uint8_t { mark_above = 1, mark_holds = 2 };  // see StepForwardArgs::marks_out

struct StepForwardArgs {
    float* next;                      // [cells, 16] z', unmasked
    float* state_out;                 // [cells, 16] x; or null
    std::uint8_t* life_out;           // [cells] the mask that made x; or null
    std::uint8_t* living_before_out;  // [cells] living(x), for the step to come; pre-and-post only
    std::uint8_t* marks_out;          // [cells] CellMark of z', for launch_mask_state; or null
    const float* state;               // [cells, 16] z, or the first state
    const std::uint8_t* living_before;  // [cells] as the step before wrote it; null in the first
    const PackedModel* model;
    Grid grid;
    StepRule rule;
    std::uint32_t step;  // of the rollout, from 0
    bool first;          // state is the rollout's first and is not masked
};
// What a device has for steps that stream.
struct StreamLimits {
    int multiprocessors = 1;
    std::size_t shared_bytes = 0;  // of a block that asks
};
// step_forward.cu for any rule, exact; stream_forward.cu for has_sobel_filters and any precision
// but exact. dependent: the kernel launched before it on the stream is a step, too. most_blocks:
// how many blocks the device can hold at once; each loads the weights once.
void launch_step_forward(const StepForwardArgs& args, int most_blocks, bool dependent,
                         cudaStream_t stream);
void launch_stream_forward(const StepForwardArgs& args, Precision precision,
                           const StreamLimits& limits, bool dependent, cudaStream_t stream);
// How many of its blocks one multiprocessor of the current device holds.
int resident_step_forward_blocks();
// What all kernels of this build are compiled for on the current device (code_of_kernel).
int loaded_code();

struct MaskStateArgs {
    float* state_out;                   // [cells, 16] x; may be z
    std::uint8_t* life_out;             // [cells] or null
    const float* state;                 // [cells, 16] z
    const std::uint8_t* marks;          // [cells] as the step left them
    const std::uint8_t* living_before;  // [cells]; pre-and-post only
    Grid grid;
    StepRule rule;
};
// mask_state.cu: the mask of the last step, which no further step applies.
void launch_mask_state(const MaskStateArgs& args, cudaStream_t stream);

// Sums of weight gradients of one block, in the kernels' order. 33 KiB.
struct PartialGradients {
    float w1[Traits::perception * Traits::hidden];  // [48, 128]
    float w2[Traits::channels * Traits::hidden];    // [16, 128]
    float b1[Traits::hidden];
    float b2[Traits::channels];
};
inline constexpr int partial_floats = sizeof(PartialGradients) / sizeof(float);

struct StepBackwardArgs {
    float* grad_z_out;           // [cells, 16] of the step's z
    float* grad_p_out;           // [cells, 48] where row_out is set
    std::uint8_t* row_out;       // [cells]
    PartialGradients* partial;   // [backward_blocks], added to where has_partial is set
    std::uint32_t* has_partial;  // [backward_blocks]
    const float* grad;    // [cells, 16] grad_z_out of the step after, or the last state's gradient
    const float* grad_p;  // [cells, 48] of the step after; null in the last step
    const std::uint8_t* row;        // [cells] of the step after; null in the last step
    const float* state;             // [cells, 16] x before the step
    const std::uint8_t* life;       // [cells] the mask that made x; null for the first state
    const std::uint8_t* next_life;  // [cells] the mask of this step
    const PackedModel* model;
    Grid grid;
    StepRule rule;
    std::uint32_t step;
};
// step_backward.cu; step_backward_tensor.cu for any precision but exact.
int backward_blocks(const Grid& grid);
void launch_step_backward(const StepBackwardArgs& args, bool dependent, cudaStream_t stream);
void launch_step_backward_tensor(const StepBackwardArgs& args, Precision precision, bool dependent,
                                 cudaStream_t stream);

// gather_gradient.cu: the gradient of the first state, from what the first step left.
// grad_state [cells, 16] is overwritten; the others are as in StepBackwardArgs.
void launch_gather_gradient(float* grad_state, const float* grad_z, const float* grad_p,
                            const std::uint8_t* row, const Grid& grid, const StepRule& rule,
                            cudaStream_t stream);

// reduce_gradients.cu: the blocks' sums, in the order of blocks, as gradients of the model's
// tensors; grad_weights is added to or overwritten.
void launch_reduce_gradients(WeightsView grad_weights, const PartialGradients* partial,
                             const std::uint32_t* has_partial, int blocks, bool accumulate,
                             cudaStream_t stream);

// loss.cu: Engine::loss. partial [loss_partials(grid)] is scratch. Where control is given, it is
// told the batch's loss and its dead, and whether training can go on.
struct LossPartial {
    double squares;
    long long living;
};
int loss_partials(const Grid& grid);
// 2 / (height * width * 4 * batch)
inline float loss_scale(const Grid& grid) {
    return static_cast<float>(2 /
                              (double(grid.height) * grid.width * visible_channels * grid.batch));
}
void launch_loss(float* grad_state, float* loss, float* living, LossPartial* partial,
                 const float* state, const float* target, const Grid& grid,
                 TrainingControl* control, cudaStream_t stream);

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
    TrainingControl* control;
    float* good;    // [parameter_count] receives the weights before the update
    float* anchor;  // [3 * parameter_count] receives weights and moments where the plan says so
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
    Grid grid;
    bool close;  // the iteration, too: put_samples does not come behind it
};
// update_weights.cu: the gradients' sums, the verdicts, Adam's update and the packed weights, in
// one launch. What the launches before left in loss_partial and partial is summed in their order.
inline constexpr int update_slices = (partial_floats + Traits::warp_size - 1) / Traits::warp_size;
void launch_update_weights(const UpdateWeightsArgs& args, int blocks, cudaStream_t stream);
int resident_update_blocks();

// Rule::start_values
struct StartCell {
    float values[Traits::channels];
};
// start_states.cu: empty grids with the start cell at their middle. state [cells, 16] is
// overwritten.
void launch_start_states(float* state, const Grid& grid, const StartCell& start,
                         cudaStream_t stream);

// The pool of a training run, and what the plans of a queue draw from it (host/iteration/pool.hpp).
struct PoolArgs {
    float* states;               // [pool, height, width, 16]
    float* losses;               // [pool], of the states when they were put there
    const int* samples;          // [most_queued_iterations, batch]
    const DamageCircle* damage;  // [most_queued_iterations, damaged]
    int damaged;
    StartCell start;
    float start_loss;  // of the state that has nothing but the start cell
};
// take_samples.cu: the batch that the plan at the cursor wants. state [cells, 16] is overwritten.
void launch_take_samples(float* state, const Grid& grid, const PoolArgs& pool,
                         const TrainingControl* control, cudaStream_t stream);
// put_samples.cu: the batch goes back, where the iteration at the cursor is good. state [cells,
// 16], loss and living [batch] are read.
void launch_put_samples(const PoolArgs& pool, const float* state, const float* loss,
                        const float* living, const Grid& grid, TrainingControl* control,
                        cudaStream_t stream);

// close_iteration.cu: moves the training's cursor on.
void launch_close_iteration(TrainingControl* control, cudaStream_t stream);

}  // namespace nca::cuda
