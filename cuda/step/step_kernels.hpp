// SPDX-License-Identifier: MIT
#pragma once

// The launchers of a rollout with one kernel a step.
// cuda/rule/rule_kernels.hpp says what all launchers have in common.

#include <nca/device.hpp>

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/rule/model.hpp"

namespace nca::cuda {

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
    BatchShape grid;
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
    BatchShape grid;
    StepRule rule;
};
// mask_state.cu: the mask of the last step, which no further step applies.
void launch_mask_state(const MaskStateArgs& args, cudaStream_t stream);

struct StepBackwardArgs {
    float* grad_z_out;           // [cells, 16] of the step's z
    float* grad_p_out;           // [cells, 48] where row_out is set
    std::uint8_t* row_out;       // [cells]
    PartialGradients* partial;   // [backward_blocks], added to where has_partial is set
    std::uint32_t* has_partial;  // [backward_blocks]
    const float* grad_last;      // [cells, 16] of the states where the way back begins
    const int* from_steps;       // [batch] after how many steps; null: the last step
    const float* grad;    // [cells, 16] grad_z_out of the step after, grad_last in the last step
    const float* grad_p;  // [cells, 48] of the step after; null in the last step
    const std::uint8_t* row;          // [cells] of the step after; null in the last step
    const float* added;               // [cells, 16] is added to grad; or null
    const float* state;               // [cells, 16] x before the step
    const std::uint8_t* life_before;  // [cells] the mask that made x; null for the first state
    const std::uint8_t* life_after;   // [cells] the mask of this step
    const PackedModel* model;
    BatchShape grid;
    StepRule rule;
    std::uint32_t step;
};
// step_backward.cu; step_backward_tensor.cu for any precision but exact.
int backward_blocks(const BatchShape& grid);
void launch_step_backward(const StepBackwardArgs& args, bool dependent, cudaStream_t stream);
void launch_step_backward_tensor(const StepBackwardArgs& args, Precision precision, bool dependent,
                                 cudaStream_t stream);

// gather_gradient.cu: the gradient of the first state, from what the first step left.
// grad_state [cells, 16] is overwritten, and may be grad_z; the others are as in StepBackwardArgs.
void launch_gather_gradient(float* grad_state, const float* grad_z, const float* grad_p,
                            const std::uint8_t* row, const float* added, const BatchShape& grid,
                            const StepRule& rule, cudaStream_t stream);

}  // namespace nca::cuda
