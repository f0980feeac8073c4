// SPDX-License-Identifier: MIT
#pragma once

// An engine's error against the double reference in any precision, and its tolerance.

#include "tests/support/cases.hpp"
#include "tests/support/compare.hpp"
#include "tests/support/engine_runs.hpp"

#include <nca/device.hpp>

#include <cmath>
#include <vector>

namespace nca::test {

// The error of a chain of so many steps whose operands are rounded, if the roundings of its terms
// are independent: 9 neighbours, 48 perceptions, 128 hidden units. Sums on tensor cores are cut,
// not rounded, and the error of cutting grows with their number.
inline double tolerance(Precision precision, int steps) {
    const double terms = 9 + perception + hidden;
    if (precision == Precision::precise) return steps * terms * 0x1p-24;
    return std::sqrt(steps * terms) * 0x1p-11;
}

// A rollout in double with the life masks of the engine's: those that each of its states leads to.
inline reference::SampleTape<double> frozen(const Case& drawn,
                                            const std::vector<std::vector<float>>& states,
                                            int sample) {
    const reference::WeightValues<double> parameters(drawn.weights);
    const auto state_of = [&](int step) {
        const ConstStateView view = {states[std::size_t(step)].data(), drawn.batch, drawn.height,
                                     drawn.width, MemorySpace::host};
        return reference::split_batch<double>(view)[std::size_t(sample)];
    };
    reference::SampleTape<double> rollout{{state_of(0)}, {}, {}};
    for (int step = 0; step < drawn.options.steps; ++step) {
        rollout.fire.push_back(reference::fire_mask(drawn.options.key, drawn.rule.fire_rate, step,
                                                    sample, drawn.height, drawn.width));
        const auto& fire = rollout.fire.back();
        rollout.life.push_back(
            reference::step_forward(drawn.rule, parameters, state_of(step), fire).life);
        rollout.states.push_back(reference::masked(
            reference::update(drawn.rule, parameters, rollout.last(), fire), rollout.life.back()));
    }
    return rollout;
}

struct Errors {
    double states;   // of the last states
    double weights;  // of the gradient of the weights
    double first;    // of the gradient of the first state
};

// The gradient of the first state in double, with the engine's life masks. Adds the gradient of the
// weights to grad_weights.
inline std::vector<double> expected_first(const RolloutResult& result, const Case& drawn,
                                          reference::WeightValues<double>& grad_weights) {
    std::vector<double> first;
    for (int sample = 0; sample < drawn.batch; ++sample) {
        const auto grad = backward(
            drawn, frozen(drawn, result.states, sample), sample,
            reference::split_batch<double>(drawn.grad_view())[std::size_t(sample)], grad_weights);
        first.insert(first.end(), grad.values.begin(), grad.values.end());
    }
    return first;
}

// The engine's errors against double with the engine's life masks.
inline Errors errors_of(const RolloutResult& result, const Case& drawn) {
    reference::WeightValues<double> grad_weights(drawn.weights.has_output_bias());
    std::vector<double> last;
    for (int sample = 0; sample < drawn.batch; ++sample) {
        const auto rollout = frozen(drawn, result.states, sample);
        last.insert(last.end(), rollout.last().values.begin(), rollout.last().values.end());
    }
    const std::vector<double> first = expected_first(result, drawn, grad_weights);
    return {relative_error(result.states.back(), last),
            relative_error(result.gradients.weights, grad_weights.all),
            relative_error(result.gradients.first, first)};
}

}  // namespace nca::test
