// SPDX-License-Identifier: MIT
#pragma once

#include "host/core/grid.hpp"
#include "host/core/throw_error.hpp"
#include "host/tool/arguments/arguments.hpp"

#include <nca/image.hpp>
#include <nca/model.hpp>
#include <nca/trainer.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <numbers>
#include <span>
#include <vector>

// The pictures of `nca grow --compare`: target, grown picture and their difference.
namespace nca::tool {

// The value of a picture [side, side, visible_channels] at {y, x}: bilinear between cells, zero
// outside.
inline std::array<float, visible_channels> sample(std::span<const float> picture, int side,
                                                  double y, double x) {
    std::array<double, visible_channels> sum = {};
    for (const double row : {std::floor(y), std::floor(y) + 1}) {
        for (const double column : {std::floor(x), std::floor(x) + 1}) {
            if (row < 0 || row >= side || column < 0 || column >= side) continue;
            const double weight = (1 - std::abs(y - row)) * (1 - std::abs(x - column));
            const std::size_t cell = std::size_t(row) * side + std::size_t(column);
            for (std::size_t c = 0; c < sum.size(); ++c) {
                sum[c] += weight * picture[cell * sum.size() + c];
            }
        }
    }
    std::array<float, visible_channels> values = {};
    std::transform(sum.begin(), sum.end(), values.begin(),
                   [](double value) { return float(value); });
    return values;
}

// Places a picture [side, side, visible_channels] on a grid and returns [height, width, channels]
// with hidden channels 0. The picture's middle {side / 2, side / 2} comes to `middle`. The picture
// is turned about it by `degrees`, counterclockwise, like one that Rule::rotated(degrees) grows.
inline std::vector<float> placed(std::span<const float> picture, int side, const GridSize& grid,
                                 const Place& middle, double degrees) {
    const double angle = std::fmod(degrees, 360.0) * std::numbers::pi / 180.0;
    const double cosine = std::cos(angle);
    const double sine = std::sin(angle);
    const int half = side / 2;
    std::vector<float> state(std::size_t(grid.height) * grid.width * channels);
    float* to = state.data();
    for (int y = 0; y < grid.height; ++y) {
        for (int x = 0; x < grid.width; ++x, to += channels) {
            const double right = x - middle.x;
            const double down = y - middle.y;
            const auto values = sample(picture, side, half + sine * right + cosine * down,
                                       half + cosine * right - sine * down);
            std::copy(values.begin(), values.end(), to);
        }
    }
    return state;
}

// The target in the size of the training, turned by `degrees` about its middle, which is at
// `middle`. Without a size in the history it fills the grid. Throws UsageError where it is larger
// than the grid.
inline std::vector<float> target_state(const Image& target, const Model& model,
                                       const GridSize& grid, const Place& middle, double degrees) {
    TrainingConfig config;
    config.rule = model.rule;
    config.padding = 0;  // beyond the target placed() has zeros
    const int smaller = std::min(grid.height, grid.width);
    const std::int64_t trained = model.history.height - 2 * std::int64_t{model.history.padding};
    if (trained > smaller) {
        throw_error<UsageError>(
            "--compare: the model was trained on a target of {} cells, and the grid has {}x{}: "
            "give a larger --size",
            trained, grid.height, grid.width);
    }
    config.target_size = trained > 0 ? int(trained) : smaller;
    return placed(make_target(target, config), config.grid(), grid, middle, degrees);
}

// |a - b| of two opaque pictures of one size: black where they agree.
inline Image absolute_difference(const Image& a, const Image& b) {
    Image result = a;
    for (std::size_t i = 0; i < result.pixels.size(); ++i) {
        const int difference = std::abs(int{a.pixels[i]} - int{b.pixels[i]});
        result.pixels[i] = i % 4 == 3 ? 255 : std::uint8_t(difference);
    }
    return result;
}

// Over the visible channels of two states.
inline double mean_squared_error(const std::vector<float>& state,
                                 const std::vector<float>& target) {
    double sum = 0;
    for (std::size_t i = 0; i < state.size(); ++i) {
        const double difference = i % channels < visible_channels ? state[i] - target[i] : 0.0;
        sum += difference * difference;
    }
    return sum / (double(state.size()) / channels * visible_channels);
}

}  // namespace nca::tool
