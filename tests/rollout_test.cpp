// SPDX-License-Identifier: MIT
#include "host/reference/rollout.hpp"

#include "host/reference/adam.hpp"
#include "tests/support/cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/compare.hpp"

#include <cmath>
#include <limits>
#include <vector>

using namespace nca;
using namespace nca::reference;
using test::Case;
using test::CaseOptions;

namespace {

// A difference quotient with step 1e-6 of a loss near 1: 2^-53 / 1e-6 is 1e-10 of cancellation, and
// the loss sums a few dozen terms. Truncation, 1e-12 times a third derivative, is smaller.
const test::Tolerance difference_tolerance = {2e-9, 1e-6};

// A step of 1e-6 in one parameter moves no alpha and no pre-activation of these cases by 1e-4.
const test::Margins difference_margins = {1e-4, 1e-4};

GradientCheck make_check(const Case& drawn) {
    return GradientCheck(drawn.rule, WeightValues<double>(drawn.weights),
                         split_batch<double>(drawn.view()), drawn.target, drawn.options);
}

// A case that keeps away from the kinks.
Case smooth_case(const CaseOptions& options) {
    for (std::uint32_t seed = 1; seed < 200; ++seed) {
        Case drawn = test::random_case(options, seed);
        if (test::expected_of(drawn, difference_margins)) return drawn;
    }
    FAIL("no seed keeps this case away from the kinks");
    return test::random_case(options, 0);
}

// Every parameter whose index is a multiple of stride, and every value of every first state.
void require_gradients_match_differences(const CaseOptions& options, std::size_t stride) {
    const Case drawn = smooth_case(options);
    const GradientCheck check = make_check(drawn);
    const auto gradients = check.gradients();

    std::vector<double> gradient, difference;
    for (std::size_t i = 0; i < gradients.weights.all.size(); i += stride) {
        gradient.push_back(gradients.weights.all[i]);
        difference.push_back(check.central_difference(i));
    }
    REQUIRE(test::worst_error(gradient, difference, difference_tolerance) <= 1);
    const auto norms = tensor_norms(gradients.weights);
    for (int tensor = 0; tensor < 3; ++tensor) REQUIRE(norms[tensor] > 1e-3);
    REQUIRE((norms[3] > 1e-3) == options.output_bias);
    REQUIRE(test::largest_magnitude(gradient) > 1e-3);

    for (int sample = 0; sample < options.batch; ++sample) {
        const auto& grad_state = gradients.states[sample].values;
        difference.clear();
        for (std::size_t i = 0; i < grad_state.size(); ++i) {
            difference.push_back(check.central_difference(sample, i));
        }
        REQUIRE(test::worst_error(grad_state, difference, difference_tolerance) <= 1);
        REQUIRE(test::largest_magnitude(grad_state) > 1e-3);
    }
}

}  // namespace

TEST_CASE("every gradient of the notebook's rule is its central difference", "[slow][gradients]") {
    require_gradients_match_differences({.height = 2,
                                         .width = 3,
                                         .steps = 2,
                                         .output_bias = false,
                                         .fire_rate = 0.75F,
                                         .start = test::Start::random},
                                        1);
}

TEST_CASE("every gradient of the paper's rule is its central difference", "[slow][gradients]") {
    require_gradients_match_differences({.height = 3,
                                         .width = 2,
                                         .steps = 2,
                                         .edges = Edges::zero,
                                         .life = Life::pre_and_post,
                                         .own_filters = true,
                                         .fire_rate = 0.75F,
                                         .step_size = 0.7F,
                                         .start = test::Start::random},
                                        1);
}

TEST_CASE("gradients are central differences for all edges, life rules and biases", "[gradients]") {
    for (const Edges edges : {Edges::circular, Edges::zero}) {
        for (const Life life : {Life::post, Life::pre_and_post}) {
            for (const bool output_bias : {false, true}) {
                require_gradients_match_differences({.height = 5,
                                                     .width = 4,
                                                     .batch = 2,
                                                     .steps = 3,
                                                     .edges = edges,
                                                     .life = life,
                                                     .output_bias = output_bias,
                                                     .own_filters = life == Life::post,
                                                     .step_size = 1.3F,
                                                     .empty_alpha = 0.2F},
                                                    307);
            }
        }
    }
}

TEST_CASE("gradients that come in at steps are central differences", "[gradients]") {
    const Case drawn = smooth_case({.height = 5,
                                    .width = 4,
                                    .steps = 3,
                                    .edges = Edges::zero,
                                    .life = Life::pre_and_post,
                                    .step_size = 1.3F,
                                    .empty_alpha = 0.2F,
                                    .gradient_steps = {2, 0, 1}});
    const WeightValues<double> weights(drawn.weights);
    const auto first = split_batch<double>(drawn.view())[0];
    const auto rollout = rollout_forward(drawn.rule, weights, first, drawn.options, 0);
    // The sum of all states, weighed by their gradients.
    const auto sum = [&](const WeightValues<double>& of, const SampleState<double>& from) {
        double total = 0;
        const auto add = [&](int steps, const std::vector<float>& gradient) {
            const std::vector<Mask> fire(rollout.fire.begin(), rollout.fire.begin() + steps);
            const std::vector<Mask> life(rollout.life.begin(), rollout.life.begin() + steps);
            const auto state = frozen_rollout(drawn.rule, of, from, fire, life);
            for (std::size_t i = 0; i < gradient.size(); ++i)
                total += gradient[i] * state.values[i];
        };
        add(drawn.options.steps, drawn.grad_last);
        for (const auto& gradient : drawn.step_gradients) add(gradient.step, gradient.values);
        return total;
    };
    WeightValues<double> grad_weights(true);
    const auto grad_first =
        test::backward(drawn, rollout, 0, split_batch<double>(drawn.grad_view())[0], grad_weights);

    constexpr double epsilon = 1e-6;
    const test::Tolerance tolerance = {2e-8, 1e-6};  // the sum has about a thousand terms
    std::vector<double> gradient, difference;
    for (std::size_t i = 0; i < weights.all.size(); i += 307) {
        WeightValues<double> up = weights, down = weights;
        up.all[i] += epsilon;
        down.all[i] -= epsilon;
        gradient.push_back(grad_weights.all[i]);
        difference.push_back((sum(up, first) - sum(down, first)) / (2 * epsilon));
    }
    REQUIRE(test::worst_error(gradient, difference, tolerance) <= 1);
    REQUIRE(test::largest_magnitude(gradient) > 1e-3);
    difference.clear();
    for (std::size_t i = 0; i < first.values.size(); ++i) {
        SampleState<double> up = first, down = first;
        up.values[i] += epsilon;
        down.values[i] -= epsilon;
        difference.push_back((sum(weights, up) - sum(weights, down)) / (2 * epsilon));
    }
    REQUIRE(test::worst_error(grad_first.values, difference, tolerance) <= 1);
}

TEST_CASE("the gradient check fails for one corrupted entry", "[gradients]") {
    const Case drawn = smooth_case({.height = 2, .width = 2, .start = test::Start::random});
    const GradientCheck check = make_check(drawn);
    auto gradients = check.gradients().weights.all;
    std::vector<std::size_t> indices = {0, 47, w1_size + 3, w1_size + b1_size + 200};
    std::vector<double> gradient, difference;
    for (const std::size_t i : indices) {
        gradient.push_back(gradients[i]);
        difference.push_back(check.central_difference(i));
    }
    REQUIRE(test::worst_error(gradient, difference, difference_tolerance) <= 1);
    REQUIRE(test::largest_magnitude(gradient) > 1e-4);
    for (double& value : gradient) {
        const double right = value;
        value = right * 1.0001 + 1e-6;
        REQUIRE(test::worst_error(gradient, difference, difference_tolerance) > 1);
        value = std::numeric_limits<double>::quiet_NaN();
        REQUIRE(test::worst_error(gradient, difference, difference_tolerance) > 1);
        value = right;
    }
}

TEST_CASE("the check's loss is that of the rollout's last states") {
    const Case drawn = test::random_case({.batch = 2, .steps = 3}, 4);
    const GradientCheck check = make_check(drawn);
    double sum = 0;
    for (const auto& rollout : check.tapes()) {
        REQUIRE(rollout.steps() == 3);
        const auto& last = rollout.last();
        for (int cell = 0; cell < last.cells(); ++cell) {
            for (int c = 0; c < visible_channels; ++c) {
                const double error =
                    last.cell(cell)[c] - double(drawn.target[cell * visible_channels + c]);
                sum += error * error;
            }
        }
    }
    REQUIRE(check.loss() > 0.01);
    REQUIRE(std::abs(check.loss() - sum / (2 * 3 * 5 * 4)) <= 1e-12);
}

TEST_CASE("a frozen rollout takes its masks from outside") {
    const Case drawn = test::random_case({.steps = 2, .start = test::Start::random}, 6);
    const WeightValues<double> parameters(drawn.weights);
    const auto first = split_batch<double>(drawn.view())[0];
    const auto rollout = rollout_forward(drawn.rule, parameters, first, drawn.options, 0);
    REQUIRE(frozen_rollout(drawn.rule, parameters, first, rollout.fire, rollout.life).values ==
            rollout.last().values);
    std::vector<Mask> life = rollout.life;
    REQUIRE(life[1][4] == 1);
    life[1][4] = 0;
    const auto last = frozen_rollout(drawn.rule, parameters, first, rollout.fire, life);
    REQUIRE(test::largest_magnitude(std::span(last.cell(4), channels)) == 0);
    REQUIRE(test::largest_magnitude(std::span(last.cell(5), channels)) > 0);
}

TEST_CASE("a rollout draws its fire masks by seed, iteration, first step and first sample") {
    const FireKey key = {9, 8, 7, 6};
    const Mask mask = fire_mask(key, 0.5F, 2, 1, 3, 5);
    REQUIRE(mask == fire_mask({9, 8, 9, 6}, 0.5F, 0, 1, 3, 5));
    REQUIRE(mask == fire_mask({9, 8, 7, 7}, 0.5F, 2, 0, 3, 5));
    REQUIRE(mask != fire_mask({9, 9, 7, 6}, 0.5F, 2, 1, 3, 5));
    REQUIRE(mask != fire_mask({8, 8, 7, 6}, 0.5F, 2, 1, 3, 5));
    for (std::uint32_t cell = 0; cell < 15; ++cell) {
        REQUIRE(bool(mask[cell]) == fires(key, 0.5F, 2, 1, cell));
    }
}

TEST_CASE("a rollout of no steps is the state, and its gradient passes unchanged") {
    const Case drawn = test::random_case({.steps = 0}, 7);
    const WeightValues<double> parameters(drawn.weights);
    const auto first = split_batch<double>(drawn.view())[0];
    const auto rollout = rollout_forward(drawn.rule, parameters, first, drawn.options, 0);
    REQUIRE(rollout.last().values == first.values);
    WeightValues<double> gradient(true);
    REQUIRE(rollout_backward(drawn.rule, parameters, rollout, first, gradient).values ==
            first.values);
    REQUIRE(test::largest_magnitude(gradient.all) == 0);
}

TEST_CASE("living cells are counted by their own alpha") {
    SampleState<float> state(2, 2);
    state.cell(0)[alpha_channel] = 0.1F;
    state.cell(1)[alpha_channel] = 0.11F;
    state.cell(2)[0] = 1;
    REQUIRE(count_living(state) == 1);
}

TEST_CASE("Adam's first update moves each weight by the learning rate against its gradient") {
    WeightValues<double> weights(true), first(true), second(true), gradient(true);
    gradient.all[0] = 3;
    gradient.all[w1_size] = -1e-3;
    adam(weights, first, second, gradient, {.learning_rate = 0.01F});
    REQUIRE(std::abs(weights.all[0] + 0.01F) <= 1e-9);
    REQUIRE(std::abs(weights.all[w1_size] - 0.01F) <= 1e-6);
    REQUIRE(weights.all[1] == 0);
    REQUIRE(std::abs(first.all[0] - 0.3) <= 1e-6);
    REQUIRE(std::abs(second.all[0] - 0.009) <= 1e-6);
}

TEST_CASE("Adam's second update follows the paper's formula") {
    WeightValues<double> weights(false), first(false), second(false), gradient(false);
    AdamOptions options = {.learning_rate = 0.5F, .beta1 = 0.5F, .beta2 = 0.75F, .epsilon = 0};
    gradient.all[5] = 2;
    adam(weights, first, second, gradient, options);
    options.update = 2;
    gradient.all[5] = -1;
    adam(weights, first, second, gradient, options);
    // m = 0.5 * 1 - 0.5 = 0, v = 0.75 * 1 + 0.25 = 1: the second update stands still.
    REQUIRE(first.all[5] == 0);
    REQUIRE(second.all[5] == 1);
    REQUIRE(weights.all[5] == -0.5);
}

TEST_CASE("normalisation divides each tensor by its own norm") {
    WeightValues<double> gradient(true);
    gradient.all[0] = 3;
    gradient.all[1] = 4;
    gradient.view().b1[0] = -100;
    gradient.view().b2[15] = 0.25;
    const auto norms = tensor_norms(gradient);
    REQUIRE(norms[0] == 5);
    REQUIRE(norms[1] == 100);
    REQUIRE(norms[2] == 0);
    REQUIRE(norms[3] == 0.25);
    normalise(gradient);
    REQUIRE(std::abs(gradient.all[1] - 0.8) <= 1e-8);
    REQUIRE(std::abs(gradient.view().b1[0] + 1) <= 1e-8);
    REQUIRE(gradient.view().w2[0] == 0);
    REQUIRE(std::abs(gradient.view().b2[15] - 1) <= 1e-7);
}
