// SPDX-License-Identifier: MIT
#pragma once

// The specification, continued: rollouts, the loss, and central differences, which check gradients.

#include "host/reference/step.hpp"

#include <nca/engine.hpp>
#include <nca/random.hpp>
#include <nca/state.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace nca::reference {

// The samples of a batch in host memory.
template <class Real>
std::vector<SampleState<Real>> split_batch(ConstStateView batch) {
    std::vector<SampleState<Real>> samples;
    for (int sample = 0; sample < batch.batch; ++sample) {
        const ConstStateView view = batch.sample(sample);
        SampleState<Real> grid(batch.height, batch.width);
        grid.values.assign(view.data, view.data + view.size());
        samples.push_back(std::move(grid));
    }
    return samples;
}

inline Mask fire_mask(const FireKey& key, float fire_rate, int step, int sample, int height,
                      int width) {
    Mask mask(std::size_t(height) * width);
    for (std::size_t cell = 0; cell < mask.size(); ++cell) {
        mask[cell] =
            fires(key, fire_rate, std::uint32_t(step), std::uint32_t(sample), std::uint32_t(cell));
    }
    return mask;
}

// What the rollout of one sample leaves for backward.
template <class Real>
struct SampleTape {
    std::vector<SampleState<Real>> states;  // [steps + 1], the first state included
    std::vector<Mask> fire;                 // [steps]
    std::vector<Mask> life;                 // [steps]

    int steps() const { return int(fire.size()); }
    const SampleState<Real>& first() const { return states.front(); }
    const SampleState<Real>& last() const { return states.back(); }
};

template <class Real>
SampleTape<Real> rollout_forward(const Rule& rule, const WeightValues<Real>& weights,
                                 const SampleState<Real>& state, const RolloutOptions& options,
                                 int sample) {
    SampleTape<Real> tape{{state}, {}, {}};
    for (int t = 0; t < options.steps; ++t) {
        tape.fire.push_back(
            fire_mask(options.key, rule.fire_rate, t, sample, state.height, state.width));
        auto [z, life, next] = step_forward(rule, weights, tape.last(), tape.fire.back());
        tape.life.push_back(std::move(life));
        tape.states.push_back(std::move(next));
    }
    return tape;
}

// A gradient of the state after some steps of a rollout.
template <class Real>
struct SampleGradient {
    int step;
    SampleState<Real> grad_state;
};

// The gradient of the first state, from the gradient of the last state and, where there are any,
// those of other states. Adds to the gradients of the weights.
template <class Real>
SampleState<Real> rollout_backward(const Rule& rule, const WeightValues<Real>& weights,
                                   const SampleTape<Real>& tape, SampleState<Real> grad_state,
                                   WeightValues<Real>& grad_weights,
                                   const std::vector<SampleGradient<Real>>& step_gradients = {}) {
    const auto add_of_step = [&](int step) {
        for (const SampleGradient<Real>& gradient : step_gradients) {
            if (gradient.step != step) continue;
            for (std::size_t i = 0; i < grad_state.values.size(); ++i) {
                grad_state.values[i] += gradient.grad_state.values[i];
            }
        }
    };
    for (int t = tape.steps() - 1; t >= 0; --t) {
        add_of_step(t + 1);
        grad_state = step_backward(rule, weights, tape.states[t], tape.fire[t], tape.life[t],
                                   grad_state, grad_weights);
    }
    add_of_step(0);
    return grad_state;
}

// The last state of a rollout with given masks. As a function of weights and state it is smooth
// except at the kinks of ReLU, and rollout_backward computes its derivative.
template <class Real>
SampleState<Real> frozen_rollout(const Rule& rule, const WeightValues<Real>& weights,
                                 SampleState<Real> state, const std::vector<Mask>& fire,
                                 const std::vector<Mask>& life) {
    for (std::size_t t = 0; t < fire.size(); ++t) {
        Mask needed = fire[t];  // the update of a cell that the life mask clears changes nothing
        for (std::size_t cell = 0; cell < needed.size(); ++cell) needed[cell] &= life[t][cell];
        state = masked(update(rule, weights, state, needed), life[t]);
    }
    return state;
}

// Mean squared error of one sample's visible channels. target is [height, width,
// visible_channels].
template <class Real, class Target>
Real loss(const SampleState<Real>& state, std::span<const Target> target) {
    Real sum = 0;
    for (int cell = 0; cell < state.cells(); ++cell) {
        for (int c = 0; c < visible_channels; ++c) {
            const Real error =
                state.cell(cell)[c] - Real(target[std::size_t(cell) * visible_channels + c]);
            sum += error * error;
        }
    }
    return sum / Real(state.cells() * visible_channels);
}

// The gradient of the batch's loss, which is the mean over `batch` samples, with respect to the
// state of one of them.
template <class Real, class Target>
SampleState<Real> loss_gradient(const SampleState<Real>& state, std::span<const Target> target,
                                int batch) {
    SampleState<Real> grad_state(state.height, state.width);
    const Real scale = Real(2) / (Real(state.cells()) * visible_channels * batch);
    for (int cell = 0; cell < state.cells(); ++cell) {
        for (int c = 0; c < visible_channels; ++c) {
            grad_state.cell(cell)[c] =
                scale *
                (state.cell(cell)[c] - Real(target[std::size_t(cell) * visible_channels + c]));
        }
    }
    return grad_state;
}

// Cells whose own alpha is above living_threshold.
template <class Real>
int count_living(const SampleState<Real>& state) {
    int count = 0;
    for (int cell = 0; cell < state.cells(); ++cell) {
        count += state.cell(cell)[alpha_channel] > Real(living_threshold);
    }
    return count;
}

// The loss of a batch after a rollout, its gradients by rollout_backward, and its derivatives by
// central differences. The rollouts of the differences use the masks of the first rollout.
class GradientCheck {
public:
    struct Gradients {
        WeightValues<double> weights;
        std::vector<SampleState<double>> states;  // of each sample's first state
    };

    // target is [height, width, visible_channels]. loss_steps: after how many steps each sample has
    // its loss; empty: all after options.steps. What comes behind changes nothing.
    GradientCheck(Rule rule, WeightValues<double> weights,
                  const std::vector<SampleState<double>>& states, std::vector<float> target,
                  RolloutOptions options, const std::vector<int>& loss_steps = {})
        : rule_(rule), weights_(std::move(weights)), target_(std::move(target)) {
        for (const SampleState<double>& state : states) {
            const int sample = int(tapes_.size());
            if (!loss_steps.empty()) options.steps = loss_steps[std::size_t(sample)];
            tapes_.push_back(rollout_forward(rule_, weights_, state, options, sample));
        }
    }

    const std::vector<SampleTape<double>>& tapes() const { return tapes_; }

    double loss() const {
        double sum = 0;
        for (const auto& tape : tapes_) sum += sample_loss(tape.last());
        return sum / batch();
    }

    Gradients gradients() const {
        Gradients result{WeightValues<double>(weights_.output_bias), {}};
        for (const auto& tape : tapes_) {
            const auto target = std::span<const float>(target_);
            result.states.push_back(rollout_backward(rule_, weights_, tape,
                                                     loss_gradient(tape.last(), target, batch()),
                                                     result.weights));
        }
        return result;
    }

    // The derivative by one weight, an index into Weights::all(). Runs two rollouts of each
    // sample. With the default epsilon and a loss near 1, the errors of truncation and cancellation
    // are both near 1e-10.
    double central_difference(std::size_t weight, double epsilon = 1e-6) const {
        WeightValues<double> up = weights_, down = weights_;
        up.all[weight] += epsilon;
        down.all[weight] -= epsilon;
        double difference = 0;
        for (const auto& tape : tapes_) {
            difference +=
                frozen_loss(up, tape.first(), tape) - frozen_loss(down, tape.first(), tape);
        }
        return difference / (2 * epsilon * batch());
    }

    // The derivative by one value of a sample's first state, an index into SampleState::values.
    double central_difference(int sample, std::size_t value, double epsilon = 1e-6) const {
        const SampleTape<double>& tape = tapes_[sample];
        SampleState<double> up = tape.first(), down = tape.first();
        up.values[value] += epsilon;
        down.values[value] -= epsilon;
        const double difference =
            frozen_loss(weights_, up, tape) - frozen_loss(weights_, down, tape);
        return difference / (2 * epsilon * batch());
    }

private:
    int batch() const { return int(tapes_.size()); }
    double sample_loss(const SampleState<double>& state) const {
        return reference::loss(state, std::span<const float>(target_));
    }
    double frozen_loss(const WeightValues<double>& weights, const SampleState<double>& first,
                       const SampleTape<double>& masks) const {
        return sample_loss(frozen_rollout(rule_, weights, first, masks.fire, masks.life));
    }

    Rule rule_;
    WeightValues<double> weights_;
    std::vector<float> target_;
    std::vector<SampleTape<double>> tapes_;  // one for each sample
};

}  // namespace nca::reference
