// SPDX-License-Identifier: MIT
#include <nca/simulator.hpp>

#include "host/tool/comparison.hpp"
#include "support/cases.hpp"
#include "support/catch.hpp"
#include "support/engines.hpp"

#include <cmath>
#include <utility>
#include <vector>

using nca::GridSize;
using nca::Place;
using nca::tool::placed;

namespace {

constexpr std::size_t visible = nca::visible_channels;

// [side, side, visible_channels]
std::vector<float> noise(int side) {
    nca::test::Uniform uniform(3);
    std::vector<float> picture(std::size_t(side) * side * visible);
    for (float& value : picture) value = uniform(0.1F, 1);
    return picture;
}

// What an automaton with random weights has grown after some steps on a grid of side x side.
std::vector<float> grown(int side, double degrees) {
    nca::test::CaseOptions options;
    options.edges = nca::Edges::zero;
    options.fire_rate = 1;
    options.output_scale = 0.3F;
    const nca::test::Case drawn = nca::test::random_case(options, 7);
    nca::Simulator simulator({drawn.rule.rotated(degrees), drawn.weights, {}, {}},
                             {.device = nca::test::any_device(), .height = side, .width = side});
    simulator.plant_seed(side / 2, side / 2);
    simulator.step(4);
    return simulator.download();
}

}  // namespace

TEST_CASE("a target that is not turned lies around the start cell, cut off at the grid's edges") {
    const int side = GENERATE(6, 7);
    const Place start = GENERATE(Place{4, 7}, Place{0, 0}, Place{8, 13}, Place{8, 3});
    const GridSize grid{9, 14};
    const std::vector<float> picture = noise(side);
    const std::vector<float> state = placed(picture, side, grid, start, 0);
    REQUIRE(state.size() == std::size_t{9} * 14 * nca::channels);
    for (int y = 0; y < grid.height; ++y) {
        for (int x = 0; x < grid.width; ++x) {
            const int row = y - start.y + side / 2;
            const int column = x - start.x + side / 2;
            const bool inside = row >= 0 && row < side && column >= 0 && column < side;
            for (std::size_t c = 0; c < nca::channels; ++c) {
                const std::size_t from = (std::size_t(row) * side + column) * visible + c;
                const float expected = inside && c < visible ? picture[from] : 0.0F;
                REQUIRE(state[(std::size_t(y) * 14 + x) * nca::channels + c] == expected);
            }
        }
    }
}

TEST_CASE("a target turns as the picture does that a rotated rule grows") {
    const int side = 11;
    const double degrees = GENERATE(90.0, 180.0, 270.0, -90.0, 450.0);
    std::vector<float> upright = grown(side, 0);
    const std::vector<float> rotated = grown(side, degrees);
    std::vector<float> picture;
    for (std::size_t i = 0; i < upright.size(); ++i) {
        if (i % nca::channels < visible) picture.push_back(upright[i]);
    }
    const std::vector<float> turned = placed(picture, side, {side, side}, {5, 5}, degrees);
    double difference = 0;  // from the upright one
    for (std::size_t i = 0; i < turned.size(); ++i) {
        if (i % nca::channels >= visible) continue;
        REQUIRE(std::abs(turned[i] - rotated[i]) <= 1e-4);
        difference = std::max<double>(difference, std::abs(turned[i] - upright[i]));
    }
    REQUIRE(difference > 0.1);
}

TEST_CASE("between its cells a turned target is linear, and beyond them it is nothing") {
    const int side = 20;
    const double degrees = GENERATE(30.0, 45.0, -100.0);
    const auto plane = [](double right, double down, std::size_t c) {
        return 1 + 0.01 * double(c) + 0.02 * right - 0.03 * down;
    };
    std::vector<float> picture;
    for (int y = 0; y < side; ++y) {
        for (int x = 0; x < side; ++x) {
            for (std::size_t c = 0; c < visible; ++c) {
                picture.push_back(float(plane(x - 10, y - 10, c)));
            }
        }
    }
    const GridSize grid{40, 42};
    const std::vector<float> state = placed(picture, side, grid, {20, 21}, degrees);
    const double angle = degrees * 3.14159265358979 / 180;
    for (int y = 0; y < grid.height; ++y) {
        for (int x = 0; x < grid.width; ++x) {
            const float* cell = &state[(std::size_t(y) * grid.width + x) * nca::channels];
            const double distance = std::hypot(x - 21, y - 20);
            const double right = std::cos(angle) * (x - 21) - std::sin(angle) * (y - 20);
            const double down = std::sin(angle) * (x - 21) + std::cos(angle) * (y - 20);
            for (std::size_t c = 0; c < visible; ++c) {
                if (distance <= 9) REQUIRE(std::abs(cell[c] - plane(right, down, c)) <= 1e-5);
                if (distance >= 16) REQUIRE(cell[c] == 0);
            }
        }
    }
}

TEST_CASE("on any grid the target keeps the size of training and its place around the start") {
    nca::Image image{.height = 8, .width = 8, .pixels = {}};
    image.pixels.assign(std::size_t{8} * 8 * 4, 255);
    nca::Model model;
    model.history.height = 14;
    model.history.width = 14;
    model.history.padding = 3;
    // Larger than that of the training, and smaller.
    for (const auto& [grid, start] : {std::pair{nca::GridSize{30, 41}, nca::Place{15, 20}},
                                      {nca::GridSize{10, 12}, nca::Place{5, 6}}}) {
        const std::vector<float> state = nca::tool::target_state(image, model, grid, start, 0);
        for (int y = 0; y < grid.height; ++y) {
            for (int x = 0; x < grid.width; ++x) {
                const bool inside =
                    y >= start.y - 4 && y < start.y + 4 && x >= start.x - 4 && x < start.x + 4;
                const float alpha =
                    state[(std::size_t(y) * grid.width + x) * nca::channels + nca::alpha_channel];
                REQUIRE(alpha == (inside ? 1.0F : 0.0F));
            }
        }
    }
}
