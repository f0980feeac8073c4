// SPDX-License-Identifier: MIT
#pragma once

#include <nca/engine.hpp>
#include <nca/model.hpp>

#include <cstddef>
#include <span>

namespace nca::bench {

// A batch of square grids with a start cell in each middle, and an engine's calls that take it
// forward and back: forward, loss, backward. All in the engine's memory.
class EngineRollout {
public:
    // target: [grid, grid, visible_channels].
    EngineRollout(Engine& engine, const Model& model, std::span<const float> target, int batch,
                  int grid, const RolloutOptions& options)
        : engine_(engine),
          rule_(model.rule),
          options_(options),
          grid_(grid),
          output_bias_(model.weights.has_output_bias()),
          state_(engine.make_state(batch, grid, grid)),
          grad_state_(engine.make_state(batch, grid, grid)),
          target_(engine.allocate(target.size())),
          weights_(engine.allocate(model.weights.all().size())),
          grad_weights_(engine.allocate(model.weights.all().size())),
          losses_(engine.allocate(std::size_t(batch) * 2)) {
        engine.copy_from_host(target_.data(), target);
        engine.copy_from_host(weights_.data(), model.weights.all());
        const auto start = rule_.start_values();
        for (int sample = 0; sample < batch; ++sample) {
            engine.copy_from_host(state_.view().cell(sample, grid / 2, grid / 2), start);
        }
    }

    // values: [batch, grid, grid, channels] on the host, instead of the start cells.
    void set_state(std::span<const float> values) {
        engine_.copy_from_host(state_.view().data, values);
    }

    Tape forward() {
        const auto weights = view_parameters<const float>(weights_.data(), output_bias_);
        return engine_.forward(rule_, weights, state_.view(), options_);
    }

    // Of the batch's loss at the end.
    Tape forward_backward() {
        Tape tape = forward();
        const int batch = state_.view().batch;
        engine_.loss(grad_state_.view(), losses_.data(), losses_.data() + batch, tape.last(),
                     {target_.data(), grid_, grid_});
        engine_.backward(tape, grad_state_.view(),
                         view_parameters(grad_weights_.data(), output_bias_), Accumulate::no);
        return tape;
    }
    const float* grad_first() const { return grad_state_.view().data; }
    const float* grad_weights() const { return grad_weights_.data(); }

private:
    Engine& engine_;
    Rule rule_;
    RolloutOptions options_;
    int grid_;
    bool output_bias_;
    State state_, grad_state_;
    Buffer target_, weights_, grad_weights_, losses_;
};

}  // namespace nca::bench
