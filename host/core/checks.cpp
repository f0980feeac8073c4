// SPDX-License-Identifier: MIT
#include "host/core/checks.hpp"
#include "host/core/throw_error.hpp"

#include <nca/error.hpp>

#include <cstdint>
#include <initializer_list>

namespace nca {
namespace {

void check_view(const char* name, ConstStateView state, MemorySpace space) {
    const auto name_of = [](MemorySpace s) { return s == MemorySpace::host ? "host" : "device"; };
    if (state.data == nullptr) throw_error<InvalidArgument>("{} is null", name);
    if (state.space != space) {
        throw_error<InvalidArgument>(
            "{} is in {} memory, which this engine cannot reach: copy it to {} memory or use the "
            "engine that it belongs to",
            name, name_of(state.space), name_of(space));
    }
    if (state.batch < 1 || state.height < 1 || state.width < 1) {
        throw_error<InvalidArgument>("{} has {} x {} x {} cells: expected at least 1 x 1 x 1", name,
                                     state.batch, state.height, state.width);
    }
    // More than any memory holds, so that sizes in bytes do not overflow.
    constexpr std::int64_t most_cells = std::int64_t{1} << 42;
    // The index of a cell has 32 bits, also in the random draws of the fire masks.
    if (std::int64_t(state.height) * state.width > std::int64_t{1} << 30) {
        throw_error<InvalidArgument>("{} has grids of {} x {} cells: expected at most 2^30", name,
                                     state.height, state.width);
    }
    if (std::int64_t(state.height) * state.width * state.batch > most_cells) {
        throw_error<InvalidArgument>("{} has {} x {} x {} cells: expected at most 2^42", name,
                                     state.batch, state.height, state.width);
    }
}

void check_equal_size(const char* name, ConstStateView got, ConstStateView expected) {
    if (got.batch != expected.batch || got.height != expected.height ||
        got.width != expected.width) {
        throw_error<InvalidArgument>("{} has {} x {} x {} cells: expected {} x {} x {}", name,
                                     got.batch, got.height, got.width, expected.batch,
                                     expected.height, expected.width);
    }
}

void check_pointers(const char* names, std::initializer_list<const float*> pointers) {
    for (const float* pointer : pointers) {
        if (pointer == nullptr) throw_error<InvalidArgument>("one of {} is null", names);
    }
}

void check_step_count(int steps) {
    constexpr int most_steps = 1 << 24;
    if (steps < 0 || steps > most_steps) {
        throw_error<InvalidArgument>("{} steps: expected 0 to {}", steps, most_steps);
    }
}

}  // namespace

void check_weights(const Weights& weights) {
    const std::size_t expected = parameter_count(weights.has_output_bias());
    if (weights.all().size() != expected) {
        throw_error<InvalidArgument>("the model has {} weights, expected {}: was it moved from?",
                                     weights.all().size(), expected);
    }
}

void check_rollout(const Rule& rule, ConstWeightsView weights, ConstStateView state,
                   const RolloutOptions& options, MemorySpace space) {
    rule.validate();
    check_view("the state", state, space);
    check_pointers("w1, b1 and w2 (only b2 may be)", {weights.w1, weights.b1, weights.w2});
    check_step_count(options.steps);
}

void check_buffers(const TapeBuffers& buffers, bool are_optional) {
    const bool states = buffers.states != nullptr, rest = buffers.rest != nullptr;
    if (!states && !rest && are_optional) return;
    if (!states || !rest) {
        throw_error<InvalidArgument>("the tape's buffer {} is null",
                                     states ? "TapeBuffers::rest" : "TapeBuffers::states");
    }
    if (reinterpret_cast<std::uintptr_t>(buffers.rest) % 16 != 0) {
        throw_error<InvalidArgument>("TapeBuffers::rest is not aligned to 16 bytes");
    }
}

void check_tape_size(int batch, int height, int width, int steps) {
    constexpr float any = 0;  // the view has to point somewhere
    check_view("the tape", {&any, batch, height, width, MemorySpace::host}, MemorySpace::host);
    check_step_count(steps);
    // More than any memory holds, so that sizes in bytes do not overflow.
    constexpr std::int64_t most_cells = std::int64_t{1} << 52;
    const std::int64_t cells = std::int64_t(height) * width * batch;
    if (cells > most_cells / (steps + 1)) {
        throw_error<InvalidArgument>(
            "a tape of {} steps of {} x {} x {} cells: expected at most 2^52 cells in all", steps,
            batch, height, width);
    }
}

void check_backward(const Tape& tape, bool output_bias, const BackwardOptions& options,
                    StateView grad_state, WeightsView grad_weights, MemorySpace space) {
    check_view("grad_state", grad_state, space);
    check_equal_size("grad_state", grad_state, tape.last());
    for (const StepGradient& gradient : options.step_gradients) {
        check_view("a gradient of step_gradients", gradient.grad_state, space);
        check_equal_size("a gradient of step_gradients", gradient.grad_state, tape.last());
        if (gradient.step >= 0 && gradient.step <= tape.steps()) continue;
        throw_error<InvalidArgument>("step_gradients has step {}: expected 0 to {}", gradient.step,
                                     tape.steps());
    }
    const std::span<const int> from_steps = options.from_steps;
    if (!from_steps.empty() && from_steps.size() != std::size_t(grad_state.batch)) {
        throw_error<InvalidArgument>("from_steps has {} numbers: expected {}, one for each sample",
                                     from_steps.size(), grad_state.batch);
    }
    for (const int step : from_steps) {
        if (step >= 1 && step <= tape.steps()) continue;
        throw_error<InvalidArgument>("from_steps has {}: expected 1 to {}", step, tape.steps());
    }
    check_pointers("the gradients of w1, b1 and w2",
                   {grad_weights.w1, grad_weights.b1, grad_weights.w2});
    if (output_bias && grad_weights.b2 == nullptr) {
        throw InvalidArgument("the gradient of b2 is null, but the weights of the tape have b2");
    }
}

std::vector<const float*> step_gradient_table(const Tape& tape, const BackwardOptions& options) {
    std::vector<const float*> table;
    if (options.step_gradients.empty()) return table;
    table.resize(std::size_t(tape.steps()) + 1);
    for (const StepGradient& gradient : options.step_gradients) {
        const float*& of_step = table[std::size_t(gradient.step)];
        if (of_step != nullptr) {
            throw_error<InvalidArgument>(
                "step_gradients has step {} twice: give the sum of its gradients", gradient.step);
        }
        of_step = gradient.grad_state.data;
    }
    return table;
}

void check_loss(StateView grad_state, const float* loss, const float* living, ConstStateView state,
                TargetView target, MemorySpace space) {
    check_view("the state", state, space);
    check_view("grad_state", grad_state, space);
    check_equal_size("grad_state", grad_state, state);
    check_pointers("loss, living and target", {loss, living, target.data});
    if (target.height != state.height || target.width != state.width) {
        throw_error<InvalidArgument>("the target has {} x {} cells: expected {} x {}",
                                     target.height, target.width, state.height, state.width);
    }
}

void check_adam(const float* weights, const float* first_moments, const float* second_moments,
                const float* grad_weights, const float* norms, const AdamOptions& options) {
    check_pointers("weights, moments, gradients and norms",
                   {weights, first_moments, second_moments, grad_weights, norms});
    if (options.update < 1) {
        throw_error<InvalidArgument>("update {} of Adam: expected 1 or more", options.update);
    }
}

void check_copy(const float* pointer, std::size_t size) {
    if (pointer == nullptr && size > 0) {
        throw_error<InvalidArgument>(
            "the pointer to {} floats to copy is null: was their buffer moved from?", size);
    }
}

void check_tape_step(int step, int steps) {
    if (step < 0 || step > steps) {
        throw_error<InvalidArgument>("state {} of a tape of {} steps: expected 0 to {}", step,
                                     steps, steps);
    }
}

}  // namespace nca
