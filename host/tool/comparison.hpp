// SPDX-License-Identifier: MIT
#pragma once

#include "host/tool/grid.hpp"

#include <nca/image.hpp>
#include <nca/model.hpp>
#include <nca/trainer.hpp>

#include <algorithm>
#include <cstdlib>
#include <span>
#include <vector>

// What `nca grow --compare` shows: target, grown picture and difference.
namespace nca::tool {

// The target on the grid as training saw it, [height, width, channels] with hidden channels 0.
inline std::vector<float> target_state(const Image& target, const Model& model,
                                       const GridSize& grid) {
    TrainingConfig config;
    config.rule = model.rule;
    const int smaller = std::min(grid.height, grid.width);
    const int trained = std::max(model.history.height, 0);
    // The size of training is known only where the grid is; otherwise the target fills the grid.
    if (trained > 2 * model.history.padding && trained <= smaller) {
        config.target_size = trained - 2 * model.history.padding;
        config.padding = model.history.padding;
    } else {
        config.target_size = smaller;
        config.padding = 0;
    }
    const std::vector<float> values = make_target(target, config);
    // The start cell is at half of each side here as in training: line up these.
    const int side = config.grid();
    const int top = grid.height / 2 - side / 2;
    const int left = grid.width / 2 - side / 2;
    std::vector<float> state(static_cast<std::size_t>(grid.height) * grid.width * channels);
    for (int y = 0; y < side; ++y) {
        for (int x = 0; x < side; ++x) {
            const float* from = &values[(std::size_t(y) * side + x) * visible_channels];
            float* to = &state[(std::size_t(y + top) * grid.width + x + left) * channels];
            std::copy_n(from, visible_channels, to);
        }
    }
    return state;
}

// Black where two opaque pictures agree.
inline Image absolute_difference(const Image& a, const Image& b) {
    Image result = a;
    for (std::size_t i = 0; i < result.pixels.size(); ++i) {
        const int difference = std::abs(int{a.pixels[i]} - int{b.pixels[i]});
        result.pixels[i] = i % 4 == 3 ? 255 : static_cast<std::uint8_t>(difference);
    }
    return result;
}

// Between pictures side by side.
inline int comparison_gap(int width) { return std::max(1, width / 24); }

// In a row on white, with a little room between.
inline Image side_by_side(std::span<const Image> pictures) {
    const Image& first = pictures.front();
    const int gap = comparison_gap(first.width);
    Image row;
    row.height = first.height;
    row.width = static_cast<int>(pictures.size()) * (first.width + gap) - gap;
    row.pixels.assign(static_cast<std::size_t>(row.height) * row.width * 4, 255);
    int left = 0;
    for (const Image& picture : pictures) {
        for (int y = 0; y < picture.height; ++y) {
            std::copy_n(picture.pixel(y, 0), picture.width * 4, row.pixel(y, left));
        }
        left += picture.width + gap;
    }
    return row;
}

inline double mean_squared_error(const std::vector<float>& state,
                                 const std::vector<float>& target) {
    double sum = 0;
    for (std::size_t i = 0; i < state.size(); ++i) {
        const double difference = i % channels < visible_channels ? state[i] - target[i] : 0.0;
        sum += difference * difference;
    }
    return sum / (static_cast<double>(state.size()) / channels * visible_channels);
}

}  // namespace nca::tool
