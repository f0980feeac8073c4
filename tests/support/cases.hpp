// SPDX-License-Identifier: MIT
#pragma once

// Random automata to test with, and their results in the double reference.

#include "host/reference/rollout.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <utility>
#include <vector>

namespace nca::test {

// Draws the same numbers with every standard library.
class Uniform {
public:
    explicit Uniform(std::uint32_t seed) : generator_(seed) {}
    float operator()(float low, float high) {
        const float unit = static_cast<float>(generator_() >> 8) * 0x1p-24F;
        return low + (high - low) * unit;
    }

private:
    std::mt19937 generator_;
};

// An automaton's first state.
enum class Start {
    empty,   // all cells zero
    seed,    // one living cell
    random,  // every cell living, every channel set
    patch,   // a living corner; elsewhere zero cells, and dead ones with hidden channels
};

struct CaseOptions {
    int height = 3;
    int width = 5;
    int batch = 1;
    int steps = 2;
    Edges edges = Edges::circular;
    Life life = Life::post;
    bool output_bias = true;
    bool own_filters = false;  // nine arbitrary numbers each, no identity and no Sobel
    float fire_rate = 0.5F;
    float step_size = 1;
    Start start = Start::patch;
    float empty_alpha = 0.02F;  // alpha that an empty cell gets when it fires
    float output_scale = 0.05F;
    std::vector<int> from_steps = {};      // where the way back begins; empty: at the last state
    std::vector<int> gradient_steps = {};  // after these steps gradients come into it
    bool only_step_gradients = false;      // the gradient where it begins is zero
};

// A gradient that comes in after so many steps.
struct CaseGradient {
    int step;
    std::vector<float> values;  // [batch, height, width, channels]
};

struct Case {
    Rule rule;
    Weights weights;
    std::vector<float> state;      // [batch, height, width, channels]
    std::vector<float> target;     // [height, width, visible_channels]
    std::vector<float> grad_last;  // [batch, height, width, channels]
    std::vector<int> from_steps;   // [batch] or empty
    std::vector<CaseGradient> step_gradients;
    int batch;
    int height;
    int width;
    RolloutOptions options;

    ConstStateView view() const { return view_of(state); }
    ConstStateView grad_view() const { return view_of(grad_last); }
    ConstStateView view_of(const std::vector<float>& values) const {
        return {values.data(), batch, height, width, MemorySpace::host};
    }
};

inline Rule random_rule(const CaseOptions& options, Uniform& uniform) {
    Rule rule = options.edges == Edges::circular ? notebook_rule() : Rule{};
    if (options.own_filters) {
        for (Filter& filter : rule.filters) {
            for (float& value : filter) value = uniform(-0.5F, 0.5F);
        }
    }
    rule.edges = options.edges;
    rule.life = options.life;
    rule.fire_rate = options.fire_rate;
    rule.step_size = options.step_size;
    return rule;
}

// Draws the first layer as PyTorch does, and the second layer such that an empty cell that fires
// gets empty_alpha.
inline Weights random_weights(const CaseOptions& options, Uniform& uniform) {
    Weights weights(options.output_bias);
    const auto [w1, b1, w2, b2] = weights.view();
    const float bound = 1 / std::sqrt(static_cast<float>(perception));
    for (std::size_t i = 0; i < w1_size; ++i) w1[i] = uniform(-bound, bound);
    for (std::size_t i = 0; i < b1_size; ++i) b1[i] = uniform(-bound, bound);
    const float scale = options.output_scale;
    for (std::size_t i = 0; i < w2_size; ++i) w2[i] = uniform(-scale, scale);
    if (b2) {
        for (std::size_t i = 0; i < b2_size; ++i) b2[i] = uniform(-scale, scale);
    }

    float alpha = b2 ? b2[alpha_channel] : 0;
    float square = 0;
    for (int j = 0; j < hidden; ++j) {
        const float h = std::max(b1[j], 0.0F);
        alpha += w2[alpha_channel * hidden + j] * h;
        square += h * h;
    }
    const float missing = options.empty_alpha / options.step_size - alpha;
    if (b2) {
        b2[alpha_channel] += missing;
    } else {
        for (int j = 0; j < hidden; ++j) {
            w2[alpha_channel * hidden + j] += missing * std::max(b1[j], 0.0F) / square;
        }
    }
    return weights;
}

inline std::vector<float> random_state(const CaseOptions& options, Uniform& uniform) {
    const int height = options.height, width = options.width;
    std::vector<float> state(std::size_t(options.batch) * height * width * channels);
    float* cell = state.data();
    for (int sample = 0; sample < options.batch; ++sample) {
        for (int y = 0; y < height; ++y) {
            for (int x = 0; x < width; ++x, cell += channels) {
                const bool corner = y < (height + 1) / 2 && x < (width + 1) / 2;
                const bool centre = y == height / 2 && x == width / 2;
                if (options.start == Start::random || (options.start == Start::patch && corner)) {
                    for (int c = 0; c < channels; ++c) cell[c] = uniform(-1, 1);
                    cell[alpha_channel] = uniform(0.3F, 1);
                } else if (options.start == Start::patch && (y * width + x) % 7 == 3) {
                    for (int c = alpha_channel + 1; c < channels; ++c) cell[c] = uniform(-1, 1);
                    cell[alpha_channel] = 0.03F;
                } else if (options.start == Start::seed && centre) {
                    for (int c = alpha_channel; c < channels; ++c) cell[c] = 1;
                }
            }
        }
    }
    return state;
}

inline Case random_case(const CaseOptions& options, std::uint32_t seed) {
    Uniform uniform(seed);
    Case drawn;
    drawn.rule = random_rule(options, uniform);
    drawn.weights = random_weights(options, uniform);
    drawn.state = random_state(options, uniform);
    drawn.batch = options.batch;
    drawn.height = options.height;
    drawn.width = options.width;
    const std::size_t cells = std::size_t(options.height) * options.width;
    drawn.target.resize(cells * visible_channels);
    for (float& value : drawn.target) value = uniform(0, 1);
    drawn.grad_last.resize(drawn.state.size());
    for (float& value : drawn.grad_last) value = uniform(-1, 1);
    drawn.from_steps = options.from_steps;
    for (const int step : options.gradient_steps) {
        CaseGradient gradient = {step, std::vector<float>(drawn.state.size())};
        for (float& value : gradient.values) value = uniform(-1, 1);
        drawn.step_gradients.push_back(std::move(gradient));
    }
    if (options.only_step_gradients) {
        std::fill(drawn.grad_last.begin(), drawn.grad_last.end(), 0.0F);
    }
    drawn.options.steps = options.steps;
    drawn.options.key = {seed, 5, 3, 2};
    return drawn;
}

// A rollout's smallest distances from the kinks. Closer than a float's rounding or the step of a
// difference quotient, two computations may kill different cells or switch different hidden units.
struct Margins {
    double alpha = std::numeric_limits<double>::infinity();  // from any largest alpha of 3x3 to 0.1
    double relu = std::numeric_limits<double>::infinity();   // from any a to 0

    void look_at(const reference::SampleState<double>& state, Edges edges) {
        for (int y = 0; y < state.height; ++y) {
            for (int x = 0; x < state.width; ++x) {
                double largest = 0;
                for (int i = 0; i < 9; ++i) {
                    const int from = reference::cell_at(y + i / 3 - 1, x + i % 3 - 1, state.height,
                                                        state.width, edges);
                    if (from < 0) continue;
                    largest = std::max(largest, state.cell(from)[alpha_channel]);
                }
                alpha = std::min(alpha, std::abs(largest - double(living_threshold)));
            }
        }
    }
};

inline Margins margins(const Rule& rule, const reference::WeightValues<double>& parameters,
                       const reference::SampleTape<double>& rollout) {
    Margins result;
    for (int t = 0; t < rollout.steps(); ++t) {
        const auto& state = rollout.states[t];
        result.look_at(state, rule.edges);
        result.look_at(reference::update(rule, parameters, state, rollout.fire[t]), rule.edges);
        const auto perceived = reference::perceive(rule, state);
        for (int cell = 0; cell < state.cells(); ++cell) {
            if (!rollout.fire[t][cell]) continue;
            const double* p = &perceived[std::size_t(cell) * perception];
            for (const double a : reference::network(parameters, p).a) {
                result.relu = std::min(result.relu, std::abs(a));
            }
        }
    }
    return result;
}

// A case's results in the double reference.
struct Expected {
    std::vector<reference::SampleTape<double>> rollouts;  // one for each sample
    reference::WeightValues<double> grad_weights{true};
    std::vector<reference::SampleState<double>> grad_first;  // one for each sample
};

// The way back of a sample in double through a rollout. Adds to the gradients of the weights.
inline reference::SampleState<double> backward(const Case& drawn,
                                               reference::SampleTape<double> rollout, int sample,
                                               const reference::SampleState<double>& grad_last,
                                               reference::WeightValues<double>& grad_weights) {
    if (!drawn.from_steps.empty()) {  // what comes behind takes no part
        const auto steps = std::size_t(drawn.from_steps[std::size_t(sample)]);
        rollout.states.resize(steps + 1, rollout.states.front());
        rollout.fire.resize(steps);
        rollout.life.resize(steps);
    }
    std::vector<reference::SampleGradient<double>> step_gradients;
    for (const CaseGradient& gradient : drawn.step_gradients) {
        step_gradients.push_back({gradient.step, reference::split_batch<double>(drawn.view_of(
                                                     gradient.values))[std::size_t(sample)]});
    }
    return reference::rollout_backward(drawn.rule, reference::WeightValues<double>(drawn.weights),
                                       rollout, grad_last, grad_weights, step_gradients);
}

// Nothing where the case comes closer to a kink than `least`.
inline std::optional<Expected> expected_of(const Case& drawn, const Margins& least) {
    const reference::WeightValues<double> parameters(drawn.weights);
    Expected expected;
    expected.grad_weights = reference::WeightValues<double>(drawn.weights.has_output_bias());
    const auto states = reference::split_batch<double>(drawn.view());
    for (int sample = 0; sample < drawn.batch; ++sample) {
        expected.rollouts.push_back(reference::rollout_forward(
            drawn.rule, parameters, states[sample], drawn.options, sample));
        const Margins found = margins(drawn.rule, parameters, expected.rollouts.back());
        if (found.alpha < least.alpha || found.relu < least.relu) return std::nullopt;
    }
    const auto grad_last = reference::split_batch<double>(drawn.grad_view());
    for (int sample = 0; sample < drawn.batch; ++sample) {
        expected.grad_first.push_back(backward(drawn, expected.rollouts[sample], sample,
                                               grad_last[sample], expected.grad_weights));
    }
    return expected;
}

// The states of all samples after `step` steps, one after the other.
inline std::vector<double> state_after(const Expected& expected, int step) {
    std::vector<double> all;
    for (const auto& rollout : expected.rollouts) {
        const auto& values = rollout.states[step].values;
        all.insert(all.end(), values.begin(), values.end());
    }
    return all;
}

}  // namespace nca::test
