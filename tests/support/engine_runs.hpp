// SPDX-License-Identifier: MIT
#pragma once

// Runs a case on an engine and copies the results to the host.

#include "tests/support/cases.hpp"

#include <nca/engine.hpp>

#include <span>
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

// The gradients of a tape for the case's grad_last. Replaces `before`, or adds to it. from_steps:
// as Engine::backward has them.
inline Gradients run_backward(Engine& engine, const Tape& tape, const Case& drawn,
                              Accumulate accumulate = Accumulate::no, float before = 1e30F,
                              std::span<const int> from_steps = {}) {
    State grad_state = engine.make_state(drawn.batch, drawn.height, drawn.width);
    engine.copy_from_host(grad_state.view().data, drawn.grad_last);
    const bool output_bias = drawn.weights.has_output_bias();
    const std::vector<float> start(parameter_count(output_bias), before);
    const Buffer grad_weights = upload(engine, start);
    engine.backward(tape, from_steps, grad_state.view(),
                    view_parameters(grad_weights.data(), output_bias), accumulate);
    return {download(engine, grad_weights.data(), grad_weights.size()),
            download(engine, grad_state.view())};
}

// Everything that forward and backward compute.
struct RolloutResult {
    std::vector<std::vector<float>> states;  // [steps + 1]
    Gradients gradients;

    bool operator==(const RolloutResult&) const = default;
};

inline RolloutResult run_rollout(Engine& engine, const Case& drawn) {
    const Uploaded on_engine(engine, drawn);
    const Tape tape =
        engine.forward(drawn.rule, on_engine.weights, on_engine.state.view(), drawn.options);
    RolloutResult result;
    for (int step = 0; step <= tape.steps(); ++step) {
        result.states.push_back(download(engine, tape.state(step)));
    }
    result.gradients = run_backward(engine, tape, drawn);
    return result;
}

inline std::vector<float> run_advance(Engine& engine, const Case& drawn) {
    Uploaded on_engine(engine, drawn);
    engine.advance(drawn.rule, on_engine.weights, on_engine.state.view(), drawn.options);
    return download(engine, on_engine.state.view());
}

}  // namespace nca::test
