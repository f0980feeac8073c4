// SPDX-License-Identifier: MIT
#pragma once

#include "host/tool/mosaic.hpp"

#include <nca/image.hpp>
#include <nca/state.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

// Pictures of channels whose values are no colours.
namespace nca::tool {

// The magnitude that has the full colour, and all above it. It is the same for each channel, frame
// and model, so that pictures can be compared. At the end of the growth of the lizards in
// data/models one value in twenty of the living cells is beyond, when they grow fastest one in
// ten; the largest are 11.
inline constexpr float hidden_range = 2;
inline constexpr Layout hidden_layout = {.columns = 4, .rows = 3};

// The colour of a hidden channel's value: blue, 0 white, red. The ends are those of ColorBrewer's
// RdBu, which colour-blind readers can tell apart, and which can be printed.
inline std::array<std::uint8_t, 3> diverging_colour(float value) {
    constexpr std::array<float, 3> blue = {33, 102, 172};
    constexpr std::array<float, 3> red = {178, 24, 43};
    const std::array<float, 3>& end = value < 0 ? blue : red;
    const float part = std::min(std::abs(value) / hidden_range, 1.0F);
    std::array<std::uint8_t, 3> colour = {};
    for (std::size_t c = 0; c < colour.size(); ++c) {
        colour[c] = std::uint8_t(std::lround(255 + (end[c] - 255) * part));
    }
    return colour;
}

// The hidden channels of one grid in host memory, row by row, transparent between them.
inline Image hidden_picture(ConstStateView grid) {
    std::vector<Image> pictures;
    for (int channel = visible_channels; channel < channels; ++channel) {
        Image& picture = pictures.emplace_back();
        picture.height = grid.height;
        picture.width = grid.width;
        picture.pixels.reserve(std::size_t(grid.height) * grid.width * 4);
        for (int y = 0; y < grid.height; ++y) {
            for (int x = 0; x < grid.width; ++x) {
                const auto colour = diverging_colour(grid.cell(0, y, x)[channel]);
                picture.pixels.insert(picture.pixels.end(), colour.begin(), colour.end());
                picture.pixels.push_back(255);
            }
        }
    }
    return mosaic(pictures, hidden_layout, 0);
}

// The largest magnitude in a hidden channel.
inline float largest_hidden(ConstStateView grid) {
    float largest = 0;
    for (std::size_t i = 0; i < grid.size(); ++i) {
        if (i % channels >= visible_channels) largest = std::max(largest, std::abs(grid.data[i]));
    }
    return largest;
}

// The alpha of a picture: 0 black, 1 white.
inline Image alpha_picture(const Image& picture) {
    Image result = picture;
    for (std::size_t i = 0; i < result.pixels.size(); i += 4) {
        std::fill_n(&result.pixels[i], 3, result.pixels[i + alpha_channel]);
        result.pixels[i + alpha_channel] = 255;
    }
    return result;
}

}  // namespace nca::tool
