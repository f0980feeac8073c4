// SPDX-License-Identifier: MIT
#pragma once

// Runs a case on an engine and copies the results to the host.

#include "tests/support/cases.hpp"

#include <nca/engine.hpp>

#include <cmath>
#include <cstddef>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

namespace nca::test {

inline Buffer upload(Engine& engine, std::span<const float> values) {
    Buffer buffer = engine.allocate(values.size());
    engine.copy_from_host(buffer.data(), values);
    return buffer;
}

inline std::vector<float> download(Engine& engine, const float* values, std::size_t size) {
    std::vector<float> host(size);
    engine.copy_to_host(host, values);
    return host;
}

inline std::vector<float> download(Engine& engine, ConstStateView view) {
    return download(engine, view.data, view.size());
}

// A case in the engine's memory.
struct Uploaded {
    Uploaded(Engine& engine, const Case& drawn)
        : weights_buffer(upload(engine, drawn.weights.all())),
          state(engine.make_state(drawn.batch, drawn.height, drawn.width)),
          weights(view_parameters<const float>(weights_buffer.data(),
                                               drawn.weights.has_output_bias())) {
        engine.copy_from_host(state.view().data, drawn.state);
    }

    Buffer weights_buffer;
    State state;
    ConstWeightsView weights;
};

struct Gradients {
    std::vector<float> weights;  // laid out as Weights::all()
    std::vector<float> first;    // gradient of the tape's first state

    bool operator==(const Gradients&) const = default;
};

// The gradients of a tape for the case's grad_last, from_steps and step_gradients; options come
// before the last two. Replaces `before`, or adds to it.
inline Gradients run_backward(Engine& engine, const Tape& tape, const Case& drawn,
                              Accumulate accumulate = Accumulate::no, float before = 1e30F,
                              BackwardOptions options = {}) {
    const auto upload_state = [&](const std::vector<float>& values) {
        State state = engine.make_state(drawn.batch, drawn.height, drawn.width);
        engine.copy_from_host(state.view().data, values);
        return state;
    };
    State grad_state = upload_state(drawn.grad_last);
    std::vector<State> added;
    std::vector<StepGradient> step_gradients;
    for (const CaseGradient& gradient : drawn.step_gradients) {
        added.push_back(upload_state(gradient.values));
        step_gradients.push_back({gradient.step, std::as_const(added.back()).view()});
    }
    if (options.from_steps.empty()) options.from_steps = drawn.from_steps;
    if (options.step_gradients.empty()) options.step_gradients = step_gradients;
    const bool output_bias = drawn.weights.has_output_bias();
    const std::vector<float> start(parameter_count(output_bias), before);
    const Buffer grad_weights = upload(engine, start);
    engine.backward(tape, options, grad_state.view(),
                    view_parameters(grad_weights.data(), output_bias), accumulate);
    return {download(engine, grad_weights.data(), grad_weights.size()),
            download(engine, grad_state.view())};
}

// Memory of a caller's for the tape of a case with so many steps. Full of NaN and bytes 0xAB at
// first, or of zeros.
class CallersTape {
public:
    CallersTape(Engine& engine, const Case& drawn, int steps, bool are_clean)
        : are_clean_(are_clean),
          states_(engine.allocate((std::size_t(steps) + 1) * drawn.state.size())),
          rest_(engine.allocate(
              engine.tape_bytes(drawn.rule, drawn.batch, drawn.height, drawn.width, steps) /
                  sizeof(float) +
              1)) {
        if (are_clean) return;
        engine.copy_from_host(states_.data(), std::vector<float>(states_.size(), std::nanf("")));
        std::vector<float> bytes(rest_.size());
        std::memset(bytes.data(), 0xAB, bytes.size() * sizeof(float));
        engine.copy_from_host(rest_.data(), bytes);
    }
    // A copy of another's bytes.
    CallersTape(Engine& engine, const CallersTape& from)
        : are_clean_(from.are_clean_),
          states_(upload(engine, download(engine, from.states_.data(), from.states_.size()))),
          rest_(upload(engine, download(engine, from.rest_.data(), from.rest_.size()))) {}

    TapeBuffers buffers() const {
        return {.states = states_.data(),
                .rest = reinterpret_cast<std::byte*>(rest_.data()),
                .are_clean = are_clean_};
    }

private:
    bool are_clean_;
    Buffer states_, rest_;
};

// Everything that forward and backward compute.
struct RolloutResult {
    std::vector<std::vector<float>> states;  // [steps + 1]
    Gradients gradients;

    bool operator==(const RolloutResult&) const = default;
};

inline RolloutResult result_of(Engine& engine, const Tape& tape, const Case& drawn) {
    RolloutResult result;
    for (int step = 0; step <= tape.steps(); ++step) {
        result.states.push_back(download(engine, tape.state(step)));
    }
    result.gradients = run_backward(engine, tape, drawn);
    return result;
}

// The tape lies in memory of the engine's, or in `buffers`.
inline RolloutResult run_rollout(Engine& engine, const Case& drawn,
                                 const TapeBuffers& buffers = {}) {
    const Uploaded on_engine(engine, drawn);
    const Tape tape = engine.forward(drawn.rule, on_engine.weights, on_engine.state.view(),
                                     drawn.options, buffers);
    return result_of(engine, tape, drawn);
}

inline std::vector<float> run_advance(Engine& engine, const Case& drawn) {
    Uploaded on_engine(engine, drawn);
    engine.advance(drawn.rule, on_engine.weights, on_engine.state.view(), drawn.options);
    return download(engine, on_engine.state.view());
}

}  // namespace nca::test
