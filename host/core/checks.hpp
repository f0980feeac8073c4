// SPDX-License-Identifier: MIT
#pragma once

#include <nca/engine.hpp>

#include <vector>

// The preconditions of Engine's functions, which every engine checks with these. All throw
// InvalidArgument. space is the engine's own memory space.
namespace nca {

void check_rollout(const Rule& rule, ConstWeightsView weights, ConstStateView state,
                   const RolloutOptions& options, MemorySpace space);

// output_bias says whether the tape's weights have b2.
void check_backward(const Tape& tape, bool output_bias, const BackwardOptions& options,
                    StateView grad_state, WeightsView grad_weights, MemorySpace space);

// The step_gradients, which are checked but for a step that is there twice, as the gradients of the
// states after 0 to tape.steps() steps: null where there is none, empty where there is none at all.
std::vector<const float*> step_gradient_table(const Tape& tape, const BackwardOptions& options);

// Either both of the buffers are there or, where they are optional, none; the rest is aligned.
void check_buffers(const TapeBuffers& buffers, bool are_optional);

void check_tape_size(int batch, int height, int width, int steps);

void check_loss(StateView grad_state, const float* loss, const float* living, ConstStateView state,
                TargetView target, MemorySpace space);

void check_adam(const float* weights, const float* first_moments, const float* second_moments,
                const float* grad_weights, const float* norms, const AdamOptions& options);

// pointer is to the floats in the engine's memory.
void check_copy(const float* pointer, std::size_t size);

// step has to be in 0 .. steps.
void check_tape_step(int step, int steps);

// The number of weights has to be that of an automaton with or without an output bias, as
// has_output_bias says. Weights that were moved from have none.
void check_weights(const Weights& weights);

}  // namespace nca
