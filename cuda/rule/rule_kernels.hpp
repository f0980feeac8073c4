// SPDX-License-Identifier: MIT
#pragma once

// The launchers of what comes before a rollout and after it, whatever its form.
// Launchers queue their kernel on the stream and return. Pointers are to device memory unless a
// comment says otherwise. They throw CudaError where the launch is refused.

#include <nca/weights.hpp>

#include <cuda_runtime.h>

#include <span>

#include "cuda/rule/model.hpp"
#include "cuda/rule/training_control.hpp"

namespace nca::cuda {

// pack_model.cu: the copies of the weights that kernels of that precision and rule read, with u0.
// The key is the one given, or that of the plan at the training's cursor.
void launch_pack_model(PackedModel* model, ConstWeightsView weights, const StepRule& rule,
                       const FireKey& key, const TrainingControl* control, Precision precision,
                       cudaStream_t stream);

// from_steps.cu: after how many steps the samples' way back begins: to [batch] receives numbers of
// the host, or those of the plan at the training's cursor, out of those of all plans of a queue,
// [most_queued_iterations, batch].
void launch_put_steps(int* to, std::span<const int> steps, cudaStream_t stream);
// The same with pointers to gradients that come in at a step.
void launch_put_pointers(const float** to, std::span<const float* const> pointers,
                         cudaStream_t stream);
void launch_plan_steps(int* to, const int* of_plans, int batch, const TrainingControl* control,
                       cudaStream_t stream);

// reduce_gradients.cu: the blocks' sums, in the order of blocks, as gradients of the model's
// tensors; grad_weights is added to or overwritten.
void launch_reduce_gradients(WeightsView grad_weights, const PartialGradients* partial,
                             const std::uint32_t* has_partial, int blocks, bool accumulate,
                             cudaStream_t stream);

}  // namespace nca::cuda
