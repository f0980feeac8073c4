// SPDX-License-Identifier: MIT
#include <nca/error.hpp>
#include <nca/image.hpp>
#include <nca/simulator.hpp>

#include "support/cases.hpp"
#include "support/catch.hpp"
#include "support/engines.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace {

nca::Model random_model(nca::test::CaseOptions options = {}) {
    const nca::test::Case drawn = nca::test::random_case(options, 7);
    return {drawn.rule, drawn.weights, {}, {}};
}

nca::SimulatorOptions options_for(int height, int width, std::uint32_t seed = 0) {
    return {.device = nca::test::any_device(), .height = height, .width = width, .seed = seed};
}

// Writes value into every channel of every cell.
void fill(nca::Simulator& simulator, float value) {
    const std::vector<float> values(simulator.state().size(), value);
    simulator.engine().copy_from_host(simulator.state().data, values);
}

// The cells whose channels are all zero; fails where only some of them are.
std::vector<bool> dead_cells(const nca::Simulator& simulator) {
    const std::vector<float> values = simulator.download();
    std::vector<bool> dead;
    for (std::size_t i = 0; i < values.size(); i += nca::channels) {
        int zeros = 0;
        for (std::size_t c = 0; c < nca::channels; ++c) {
            zeros += values[i + c] == 0;
        }
        REQUIRE((zeros == 0 || zeros == nca::channels));
        dead.push_back(zeros == nca::channels);
    }
    return dead;
}

}  // namespace

TEST_CASE("a new grid is empty") {
    const nca::Simulator simulator(random_model(), options_for(3, 5));
    const std::vector<float> values = simulator.download();
    REQUIRE(values == std::vector<float>(std::size_t{3} * 5 * nca::channels));
    REQUIRE(simulator.steps_done() == 0);
}

TEST_CASE("plant_seed writes the rule's start cell and nothing else") {
    for (const nca::StartCell start : {nca::StartCell::alpha, nca::StartCell::alpha_and_hidden}) {
        nca::Model model = random_model();
        model.rule.start_cell = start;
        nca::Simulator simulator(model, options_for(4, 6));
        fill(simulator, 0.25F);
        simulator.plant_seed(2, 5);
        const std::vector<float> values = simulator.download();
        for (std::size_t i = 0; i < values.size(); ++i) {
            const std::size_t cell = i / nca::channels;
            const std::size_t c = i % nca::channels;
            const bool one = c == nca::alpha_channel || (c >= nca::visible_channels &&
                                                         start == nca::StartCell::alpha_and_hidden);
            const float expected = cell != 2 * 6 + 5 ? 0.25F : one ? 1.0F : 0.0F;
            REQUIRE(values[i] == expected);
        }
    }
}

TEST_CASE("plant_seed without a place plants what the model was trained with") {
    const auto planted = [](const nca::Model& model, int height, int width) {
        nca::Simulator simulator(model, options_for(height, width));
        simulator.plant_seed();
        const std::vector<float> values = simulator.download();
        std::vector<nca::Place> cells;
        for (int i = 0; i < height * width; ++i) {
            if (values[std::size_t(i) * nca::channels + nca::alpha_channel] != 0) {
                cells.push_back({i / width, i % width});
            }
        }
        return cells;
    };
    using Places = std::vector<nca::Place>;
    nca::Model model = random_model();
    REQUIRE(planted(model, 5, 8) == Places{{2, 4}});
    model.history.height = 6, model.history.width = 9;
    REQUIRE(planted(model, 5, 8) == Places{{2, 4}});
    model.history.start_cells = {{0, 8}, {3, 4}, {5, 0}};  // {3, 4} is its middle
    REQUIRE(planted(model, 6, 9) == Places{{0, 8}, {3, 4}, {5, 0}});
    REQUIRE(planted(model, 10, 9) == Places{{2, 8}, {5, 4}, {7, 0}});
    REQUIRE(planted(model, 7, 14) == Places{{0, 11}, {3, 7}, {5, 3}});
    for (const auto& [height, width] : {std::pair(5, 9), std::pair(6, 8)}) {
        nca::Simulator simulator(model, options_for(height, width));
        REQUIRE_THROWS_AS(simulator.plant_seed(), nca::InvalidArgument);
        const auto values = simulator.download();
        REQUIRE(std::ranges::all_of(values, [](float value) { return value == 0; }));
    }
    const int far = std::numeric_limits<int>::max();
    model.history.start_cells = {{-far, far}};
    nca::Simulator simulator(model, options_for(4, 4));
    REQUIRE_THROWS_AS(simulator.plant_seed(), nca::InvalidArgument);
}

TEST_CASE("the same steps in one call and in several give the same bits") {
    const nca::Model model = random_model();
    nca::Simulator one(model, options_for(9, 11, 5));
    nca::Simulator other(model, options_for(9, 11, 5));
    one.plant_seed(4, 5);
    other.plant_seed(4, 5);
    one.step(17);
    other.step();
    other.step(0);
    other.step(4);
    other.step(12);
    REQUIRE(one.steps_done() == 17);
    REQUIRE(other.steps_done() == 17);
    REQUIRE(one.download() == other.download());
    REQUIRE(std::vector<float>(one.download().size()) != one.download());
}

TEST_CASE("another seed draws other fire masks") {
    const nca::Model model = random_model();
    nca::Simulator one(model, options_for(9, 11, 1));
    nca::Simulator other(model, options_for(9, 11, 2));
    fill(one, 0.5F);
    fill(other, 0.5F);
    one.step();
    other.step();
    REQUIRE(one.download() != other.download());
}

TEST_CASE("a simulator does what the double reference does") {
    const auto [height, width] = GENERATE(std::pair(1, 1), std::pair(3, 5), std::pair(12, 7));
    const auto edges = GENERATE(nca::Edges::zero, nca::Edges::circular);
    const bool output_bias = GENERATE(false, true);
    const int steps = 6;
    nca::test::CaseOptions options;
    options.edges = edges;
    options.output_bias = output_bias;
    const nca::Model model = random_model(options);
    nca::Simulator simulator(model, options_for(height, width, 3));
    fill(simulator, 0.5F);
    simulator.step(steps);

    nca::reference::SampleState<double> start(height, width);
    start.values.assign(start.values.size(), 0.5);
    const auto rollout = nca::reference::rollout_forward(
        model.rule, nca::reference::WeightValues<double>(model.weights), start,
        nca::RolloutOptions{.steps = steps, .key = {.seed = 3}}, 0);
    const std::vector<float> values = simulator.download();
    REQUIRE(values.size() == rollout.last().values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
        REQUIRE(std::abs(values[i] - rollout.last().values[i]) <= 1e-4);
    }
}

TEST_CASE("erase_circle kills the cells whose centre is within the radius") {
    struct Circle {
        double y, x, radius;
    };
    const double far = 1e308;
    const double farthest = std::numeric_limits<double>::max();
    const double least = std::numeric_limits<double>::denorm_min();
    const Circle circle = GENERATE_COPY(
        Circle{far, 5, far}, Circle{-far, 5, far}, Circle{4, far, far}, Circle{4, -far, far},
        Circle{far, far, far}, Circle{far, -far, farthest}, Circle{farthest, farthest, farthest},
        Circle{4, 5, farthest}, Circle{farthest, 5, 3}, Circle{4, -farthest, 3},
        Circle{4, 1e300, 1e200}, Circle{4, -1e300, 1e200}, Circle{1e200, 5, 1e155},
        Circle{0, least, least}, Circle{least, 5, 0}, Circle{4, 5, 1e-200}, Circle{4, 1e10, 1e10},
        Circle{-3e9, 5, 3e9}, Circle{4, 0x1p53, 0x1p53}, Circle{4, 5, 5}, Circle{4, 5, 3},
        Circle{4.5, 5.25, 2.7}, Circle{0, 0, 0}, Circle{-1, 12, 4}, Circle{4, 5, 1e300},
        Circle{-50, 3, 2}, Circle{1e300, 3, 2});
    nca::Simulator simulator(random_model(), options_for(9, 11));
    fill(simulator, 1);
    simulator.erase_circle(circle.y, circle.x, circle.radius);
    const std::vector<bool> dead = dead_cells(simulator);
    for (int y = 0; y < 9; ++y) {
        for (int x = 0; x < 11; ++x) {
            const bool inside = std::hypot(y - circle.y, x - circle.x) <= circle.radius;
            REQUIRE(dead[static_cast<std::size_t>(y * 11 + x)] == inside);
        }
    }
}

TEST_CASE("erase_rectangle kills rows top to bottom - 1 and columns left to right - 1") {
    struct Rectangle {
        int top, left, bottom, right;
    };
    const int far = std::numeric_limits<int>::max();
    const int least = std::numeric_limits<int>::min();
    const Rectangle r =
        GENERATE_COPY(Rectangle{2, 3, 5, 10}, Rectangle{0, 0, 9, 11}, Rectangle{-far, 4, far, far},
                      Rectangle{5, 5, 5, 8}, Rectangle{6, 8, 2, 3}, Rectangle{20, 20, 30, 30},
                      Rectangle{least, least, far, far}, Rectangle{least, 2, 3, far},
                      Rectangle{far, far, least, least}, Rectangle{least, least, least, least},
                      Rectangle{far, far, far, far});
    nca::Simulator simulator(random_model(), options_for(9, 11));
    fill(simulator, 1);
    simulator.erase_rectangle(r.top, r.left, r.bottom, r.right);
    const std::vector<bool> dead = dead_cells(simulator);
    for (int y = 0; y < 9; ++y) {
        for (int x = 0; x < 11; ++x) {
            const bool inside = y >= r.top && y < r.bottom && x >= r.left && x < r.right;
            REQUIRE(dead[static_cast<std::size_t>(y * 11 + x)] == inside);
        }
    }
}

TEST_CASE("a simulator says how many cells are living and whether all values are finite") {
    nca::Simulator simulator(random_model(), options_for(4, 6));
    REQUIRE(simulator.check().living == 0);
    simulator.plant_seed(1, 2);
    simulator.plant_seed(3, 5);
    REQUIRE(simulator.check().living == 2);
    simulator.erase_circle(1, 2, 0);
    REQUIRE(simulator.check().living == 1);
    REQUIRE(simulator.check().finite);
    const std::vector<float> infinite = {std::numeric_limits<float>::infinity()};
    simulator.engine().copy_from_host(simulator.state().cell(0, 2, 4) + nca::channels - 1,
                                      infinite);
    REQUIRE_FALSE(simulator.check().finite);
    REQUIRE(simulator.check().living == 1);
}

TEST_CASE("the picture of a simulator shows its state") {
    nca::Simulator simulator(random_model(), options_for(5, 7));
    simulator.plant_seed(2, 3);
    const nca::Image picture = simulator.picture();
    REQUIRE(picture.height == 5);
    REQUIRE(picture.width == 7);
    for (int y = 0; y < 5; ++y) {
        for (int x = 0; x < 7; ++x) {
            REQUIRE(int{picture.pixel(y, x)[3]} == (y == 2 && x == 3 ? 255 : 0));
        }
    }
}

TEST_CASE("a simulator can be moved") {
    nca::Simulator one(random_model(), options_for(5, 7));
    one.plant_seed(2, 3);
    nca::Simulator other = std::move(one);
    other.step(3);
    REQUIRE(other.steps_done() == 3);
    REQUIRE(other.state().height == 5);
}

TEST_CASE("a simulator that was moved from refuses what needs its engine") {
    nca::Simulator one(random_model(), options_for(5, 7));
    nca::Simulator other = std::move(one);
    REQUIRE_THROWS_WITH(one.step(), "the simulator has no engine: was it moved from?");
    REQUIRE_THROWS_AS(one.plant_seed(2, 3), nca::InvalidArgument);
    REQUIRE_THROWS_AS(one.erase_circle(2, 3, 1), nca::InvalidArgument);
    REQUIRE_THROWS_AS(one.erase_rectangle(0, 0, 1, 1), nca::InvalidArgument);
    REQUIRE_THROWS_AS(one.download(), nca::InvalidArgument);
    REQUIRE_THROWS_AS(one.picture(), nca::InvalidArgument);
    REQUIRE_THROWS_AS(one.engine(), nca::InvalidArgument);
    one = std::move(other);
    one.plant_seed(2, 3);
    one.step();
    REQUIRE(one.steps_done() == 1);
}

TEST_CASE("a simulator refuses a model that was moved from") {
    for (const bool output_bias : {false, true}) {
        nca::Model model = random_model({.output_bias = output_bias});
        const nca::Model taken = std::move(model);
        REQUIRE_THROWS_AS(nca::Simulator(model, options_for(5, 5)), nca::InvalidArgument);
        REQUIRE_THROWS_WITH(nca::Simulator(model, options_for(5, 5)),
                            "the model has 0 weights, expected " +
                                std::to_string(nca::parameter_count(output_bias)) +
                                ": was it moved from?");
        model = taken;
        nca::Simulator(model, options_for(5, 5)).step();
    }
}

TEST_CASE("a simulator refuses sizes and rules outside their range") {
    const nca::Model model = random_model();
    REQUIRE_THROWS_AS(nca::Simulator(model, options_for(0, 5)), nca::InvalidArgument);
    REQUIRE_THROWS_AS(nca::Simulator(model, options_for(5, -1)), nca::InvalidArgument);
    REQUIRE_THROWS_AS(nca::Simulator(model, options_for(16385, 1)), nca::InvalidArgument);
    REQUIRE_THROWS_AS(nca::Simulator(model, options_for(16384, 16384)), nca::InvalidArgument);
    const int far = std::numeric_limits<int>::max();
    const int least = std::numeric_limits<int>::min();
    for (const auto& [height, width] :
         {std::pair(far, far), {least, least}, {far, 1}, {1, far}, {least, far}}) {
        REQUIRE_THROWS_AS(nca::Simulator(model, options_for(height, width)), nca::InvalidArgument);
    }
    nca::Model bad = model;
    bad.rule.fire_rate = 2;
    REQUIRE_THROWS_AS(nca::Simulator(bad, options_for(5, 5)), nca::InvalidArgument);
    bad.rule = model.rule;
    bad.rule.step_size = std::numeric_limits<float>::quiet_NaN();
    REQUIRE_THROWS_AS(nca::Simulator(bad, options_for(5, 5)), nca::InvalidArgument);
}

TEST_CASE("a simulator refuses cells, steps and circles outside their range") {
    nca::Simulator simulator(random_model(), options_for(4, 6));
    const double nan = std::numeric_limits<double>::quiet_NaN();
    REQUIRE_THROWS_AS(simulator.plant_seed(4, 0), nca::InvalidArgument);
    REQUIRE_THROWS_AS(simulator.plant_seed(0, 6), nca::InvalidArgument);
    REQUIRE_THROWS_AS(simulator.plant_seed(-1, 0), nca::InvalidArgument);
    const int far = std::numeric_limits<int>::max();
    const int least = std::numeric_limits<int>::min();
    REQUIRE_THROWS_AS(simulator.plant_seed(far, 0), nca::InvalidArgument);
    REQUIRE_THROWS_AS(simulator.plant_seed(0, least), nca::InvalidArgument);
    REQUIRE_THROWS_AS(simulator.step(far), nca::InvalidArgument);
    REQUIRE_THROWS_AS(simulator.step(least), nca::InvalidArgument);
    REQUIRE_THROWS_AS(simulator.step(-1), nca::InvalidArgument);
    REQUIRE_THROWS_AS(simulator.erase_circle(nan, 0, 1), nca::InvalidArgument);
    REQUIRE_THROWS_AS(simulator.erase_circle(0, 0, nan), nca::InvalidArgument);
    REQUIRE_THROWS_AS(simulator.erase_circle(0, 0, -1), nca::InvalidArgument);
    const double infinity = std::numeric_limits<double>::infinity();
    REQUIRE_THROWS_AS(simulator.erase_circle(infinity, 0, 1), nca::InvalidArgument);
    REQUIRE_THROWS_AS(simulator.erase_circle(0, -infinity, 1), nca::InvalidArgument);
    REQUIRE_THROWS_AS(simulator.erase_circle(0, 0, infinity), nca::InvalidArgument);
    REQUIRE_THROWS_AS(simulator.erase_circle(0, 0, -1e308), nca::InvalidArgument);
    REQUIRE(simulator.steps_done() == 0);
}
