// SPDX-License-Identifier: MIT
#include "host/reference/step.hpp"

#include "tests/support/cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/compare.hpp"

#include <array>
#include <limits>
#include <numeric>
#include <vector>

using namespace nca;
using namespace nca::reference;
using test::Uniform;

namespace {

SampleState<double> random_grid(int height, int width, Uniform& uniform) {
    SampleState<double> grid(height, width);
    for (double& value : grid.values) value = uniform(-1, 1);
    return grid;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

Mask all_cells(const SampleState<double>& grid, std::uint8_t value) {
    return Mask(grid.cells(), value);
}

// All weights zero but an output of the given amount on every channel.
WeightValues<double> constant_update(double amount) {
    WeightValues<double> parameters(true);
    for (int c = 0; c < channels; ++c) parameters.view().b2[c] = amount;
    return parameters;
}

}  // namespace

TEST_CASE("perception sums each filter over the 3x3 without flipping it") {
    Rule rule = notebook_rule();
    rule.filters[2] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    SampleState<double> state(5, 5);
    state.cell(2 * 5 + 2)[7] = 1;
    const auto p = perceive(rule, state);
    const auto at = [&](int y, int x, int k) { return p[((y * 5 + x) * channels + 7) * 3 + k]; };
    REQUIRE(at(2, 2, 0) == 1);
    REQUIRE(at(2, 1, 0) == 0);
    REQUIRE(at(2, 1, 1) == 2);  // the lit cell is to the right: Sobel x is positive
    REQUIRE(at(2, 3, 1) == -2);
    REQUIRE(at(1, 1, 2) == 9);  // seen from above left, it is the last of the nine
    REQUIRE(at(3, 3, 2) == 1);
    REQUIRE(at(1, 3, 2) == 7);
    REQUIRE(at(2, 4, 2) == 0);
    REQUIRE(test::largest_magnitude(p) == 9);
}

TEST_CASE("perception wraps at a circular edge and sees zeros beyond a zero edge") {
    Rule rule = notebook_rule();
    SampleState<double> state(3, 4);
    state.cell(0)[0] = 1;
    const auto sobel_x = [&](int y, int x) {
        return perceive(rule, state)[(y * 4 + x) * perception + 1];
    };
    REQUIRE(sobel_x(0, 3) == 2);
    REQUIRE(sobel_x(2, 3) == 1);
    rule.edges = Edges::zero;
    REQUIRE(sobel_x(0, 3) == 0);
    REQUIRE(sobel_x(2, 3) == 0);
    REQUIRE(sobel_x(0, 1) == -2);
}

TEST_CASE("perceive_backward is the adjoint of perceive", "[gradients]") {
    for (const Edges edges : {Edges::circular, Edges::zero}) {
        for (const auto& [height, width] : {std::array{1, 1}, {3, 5}, {2, 2}, {7, 4}}) {
            Uniform uniform(height);
            const Rule rule = test::random_rule({.edges = edges, .own_filters = true}, uniform);
            const SampleState<double> v = random_grid(height, width, uniform);
            std::vector<double> w(std::size_t(height) * width * perception);
            for (double& value : w) value = uniform(-1, 1);
            SampleState<double> transposed(height, width);
            perceive_backward(rule, w, transposed);
            const double forward = dot(perceive(rule, v), w);
            const double backward = dot(v.values, transposed.values);
            REQUIRE(std::abs(forward) > 1e-3);
            REQUIRE(std::abs(forward - backward) <= 1e-12 * height * width * perception);
        }
    }
}

TEST_CASE("life mask wraps at a circular edge") {
    SampleState<double> state(4, 5);
    state.cell(0)[alpha_channel] = 1;
    const Mask mask = living(state, Edges::circular);
    REQUIRE(mask == Mask{1, 1, 0, 0, 1,  //
                         1, 1, 0, 0, 1,  //
                         0, 0, 0, 0, 0,  //
                         1, 1, 0, 0, 1});
}

TEST_CASE("life mask does not wrap at a zero edge") {
    SampleState<double> state(4, 5);
    state.cell(0)[alpha_channel] = 1;
    const Mask mask = living(state, Edges::zero);
    REQUIRE(mask == Mask{1, 1, 0, 0, 0,  //
                         1, 1, 0, 0, 0,  //
                         0, 0, 0, 0, 0,  //
                         0, 0, 0, 0, 0});
}

TEST_CASE("a cell whose alpha is exactly the threshold is not living") {
    SampleState<double> state(1, 1);
    state.cell(0)[alpha_channel] = living_threshold;
    REQUIRE(living(state, Edges::zero) == Mask{0});
    state.cell(0)[alpha_channel] = std::nextafter(double(living_threshold), 1.0);
    REQUIRE(living(state, Edges::zero) == Mask{1});
}

TEST_CASE("only life before and after keeps a cell under pre-and-post life") {
    Rule rule;
    SampleState<double> state(1, 4);
    state.cell(0)[alpha_channel] = 1;
    const auto parameters = constant_update(0.5);
    const auto fire = all_cells(state, 1);
    rule.life = Life::post;
    REQUIRE(step_forward(rule, parameters, state, fire).life == Mask{1, 1, 1, 1});
    rule.life = Life::pre_and_post;
    const auto step = step_forward(rule, parameters, state, fire);
    REQUIRE(step.life == Mask{1, 1, 0, 0});
    REQUIRE(step.z.cell(2)[0] == 0.5);
    REQUIRE(step.next.cell(2)[0] == 0);
    REQUIRE(step.next.cell(1)[0] == 0.5);
}

TEST_CASE("a cell that does not fire keeps its state") {
    Uniform uniform(1);
    SampleState<double> state = random_grid(2, 2, uniform);
    for (int cell = 0; cell < 4; ++cell) state.cell(cell)[alpha_channel] = 1;
    const auto next = step_forward(Rule{}, constant_update(0.25), state, {0, 1, 0, 0}).next;
    REQUIRE(next.cell(0)[5] == state.cell(0)[5]);
    REQUIRE(next.cell(1)[5] == state.cell(1)[5] + 0.25);
}

TEST_CASE("the notebook's rule gives the state that was worked out by hand") {
    // Three cells in a row, wrapped. Hidden unit 0 sees Sobel x of channel 0, unit 1 its identity
    // less 1; output 2 gets 0.5 of the first and 0.25 of the second.
    Rule rule = notebook_rule();
    WeightValues<double> parameters(false);
    const auto [w1, b1, w2, b2] = parameters.view();
    w1[0 * perception + 1] = 1;
    w1[1 * perception + 0] = 1;
    b1[1] = -1;
    w2[2 * hidden + 0] = 0.5;
    w2[2 * hidden + 1] = 0.25;
    SampleState<double> state(1, 3);
    for (int x = 0; x < 3; ++x) state.cell(x)[alpha_channel] = 1;
    state.cell(0)[0] = 1;
    state.cell(1)[0] = 2;
    state.cell(2)[0] = 4;
    // One row sees itself above and below, so Sobel x is 1 + 2 + 1 times (right - left):
    // 4 * (2 - 4) = -8, 4 * (4 - 1) = 12, 4 * (1 - 2) = -4; relu: 0, 12, 0.
    const auto next = step_forward(rule, parameters, state, Mask{1, 1, 1}).next;
    REQUIRE(next.cell(0)[2] == 0);
    REQUIRE(next.cell(1)[2] == 0.5 * 12 + 0.25 * 1);
    REQUIRE(next.cell(2)[2] == 0.25 * 3);
    REQUIRE(next.cell(2)[0] == 4);
    REQUIRE(b2 == nullptr);
}

TEST_CASE("the step size scales the update") {
    Rule rule;
    rule.step_size = 0.5F;
    const SampleState<double> state(1, 1);
    const auto next = step_forward(rule, constant_update(1), state, Mask{1}).z;
    REQUIRE(next.cell(0)[3] == 0.5);
}

TEST_CASE("ReLU's slope at 0 is 0") {
    // All of W1 and b1 are zero, so every pre-activation is exactly 0.
    Uniform uniform(2);
    WeightValues<double> parameters(true);
    for (std::size_t i = 0; i < w2_size; ++i) parameters.view().w2[i] = uniform(-1, 1);
    SampleState<double> state = random_grid(2, 3, uniform);
    for (int cell = 0; cell < 6; ++cell) state.cell(cell)[alpha_channel] = 1;
    const SampleState<double> grad_next = random_grid(2, 3, uniform);
    WeightValues<double> gradient(true);
    const Mask everywhere = all_cells(state, 1);
    const auto grad_state =
        step_backward(Rule{}, parameters, state, everywhere, everywhere, grad_next, gradient);
    REQUIRE(test::largest_magnitude(std::span(gradient.view().w1, w1_size)) == 0);
    REQUIRE(test::largest_magnitude(std::span(gradient.view().b1, b1_size)) == 0);
    REQUIRE(test::largest_magnitude(std::span(gradient.view().b2, b2_size)) > 0.1);
    REQUIRE(grad_state.values == grad_next.values);
}

TEST_CASE("a step back adds to the gradients and passes nothing through dead cells") {
    Uniform uniform(3);
    const WeightValues<double> parameters(test::random_weights({}, uniform));
    const SampleState<double> state = random_grid(3, 3, uniform);
    const SampleState<double> grad_next = random_grid(3, 3, uniform);
    const Mask fire = all_cells(state, 1), dead = all_cells(state, 0);
    WeightValues<double> gradient(true);
    for (double& value : gradient.all) value = 7;
    const auto grad_state =
        step_backward(Rule{}, parameters, state, fire, dead, grad_next, gradient);
    REQUIRE(test::largest_magnitude(grad_state.values) == 0);
    REQUIRE(gradient.all == std::vector<double>(gradient.all.size(), 7));
}

TEST_CASE("weight values are in the order of Weights::all") {
    Weights weights(true);
    for (std::size_t i = 0; i < weights.all().size(); ++i) weights.all()[i] = float(i);
    const WeightValues<double> parameters(weights);
    REQUIRE(parameters.view().w1[1] == 1);
    REQUIRE(parameters.view().b1[0] == double(w1_size));
    REQUIRE(parameters.view().w2[0] == double(w1_size + b1_size));
    REQUIRE(parameters.view().b2[0] == double(w1_size + b1_size + w2_size));
    REQUIRE(WeightValues<float>(Weights(false)).view().b2 == nullptr);
}

TEST_CASE("the comparison that the tests use fails on NaN, on other lengths and on one element") {
    const std::vector<double> expected = {1, 2, 3};
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const test::Tolerance tolerance = {1e-6, 1e-6};
    REQUIRE(test::worst_error(expected, expected, tolerance) == 0);
    REQUIRE(test::worst_error(std::vector{1.0, 2.0, 3.0 + 1e-6}, expected, tolerance) <= 1);
    REQUIRE(test::worst_error(std::vector{1.0, 2.0, 3.0 + 1e-5}, expected, tolerance) > 1);
    REQUIRE(test::worst_error(std::vector{nan, 2.0, 3.0}, expected, tolerance) > 1);
    REQUIRE(test::worst_error(std::vector{nan, 2.0, 3.0}, std::vector{nan, 2.0, 3.0}, tolerance) >
            1);
    REQUIRE(test::worst_error(std::vector{1.0, 2.0}, expected, tolerance) > 1);
}
