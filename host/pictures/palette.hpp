// SPDX-License-Identifier: MIT
#pragma once

// Reduces an image to at most 255 colours and a transparent one, as GIF needs it. Included only by
// image_writers.cpp and its test.

#include <nca/image.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <unordered_map>
#include <vector>

namespace nca {

inline constexpr std::uint8_t transparent_index = 0;
inline constexpr int opaque_from = 128;  // alpha below this is transparent
inline constexpr std::size_t most_colours = 255;

struct PalettedImage {
    std::vector<std::uint8_t> palette;  // [colours, 3]; the first is that of transparent pixels
    std::vector<std::uint8_t> indices;  // [height, width]
};

namespace palette_detail {

struct Colour {
    std::array<std::uint8_t, 3> rgb;
    std::int64_t count = 0;
};
using Colours = std::vector<Colour>;

// Colours that become one colour of the palette: those from begin to end.
struct Box {
    Colours::iterator begin;
    Colours::iterator end;
    std::array<double, 3> mean = {};
    std::array<double, 3> error = {};  // sum of squared distances from the mean
    int widest = 0;                    // the axis with the largest error
};

inline Box make_box(Colours::iterator begin, Colours::iterator end) {
    Box box{begin, end};
    double count = 0;
    std::array<double, 3> sum = {};
    std::array<double, 3> squares = {};
    for (auto colour = begin; colour != end; ++colour) {
        const auto weight = double(colour->count);
        count += weight;
        for (std::size_t c = 0; c < 3; ++c) {
            sum[c] += weight * colour->rgb[c];
            squares[c] += weight * colour->rgb[c] * colour->rgb[c];
        }
    }
    for (std::size_t c = 0; c < 3; ++c) {
        box.mean[c] = sum[c] / count;
        box.error[c] = squares[c] - sum[c] * box.mean[c];
    }
    box.widest = int(std::ranges::max_element(box.error) - box.error.begin());
    return box;
}

// Puts the colours into at most most_colours boxes. Begins with one box for all; cuts the box with
// the largest error into two, at its mean along its widest axis, until there are enough boxes.
inline std::vector<Box> cut_into_boxes(Colours& colours) {
    std::vector<Box> boxes;
    if (colours.empty()) return boxes;
    boxes.push_back(make_box(colours.begin(), colours.end()));
    while (boxes.size() < std::min(most_colours, colours.size())) {
        Box* worst = nullptr;
        for (Box& box : boxes) {
            const bool divisible = box.end - box.begin > 1;
            if (divisible && (!worst || box.error[box.widest] > worst->error[worst->widest])) {
                worst = &box;
            }
        }
        const auto axis = std::size_t(worst->widest);
        auto middle = std::partition(worst->begin, worst->end, [&](const Colour& colour) {
            return colour.rgb[axis] < worst->mean[axis];
        });
        // Because of rounding the mean may be at the edge of the box, but no part may be empty.
        if (middle == worst->begin) ++middle;
        if (middle == worst->end) --middle;
        const Box upper = make_box(middle, worst->end);
        *worst = make_box(worst->begin, middle);
        boxes.push_back(upper);
    }
    return boxes;
}

}  // namespace palette_detail

// The image with each colour replaced by the mean of its box. Exact where there are at most
// most_colours different colours.
inline PalettedImage reduce_colours(const Image& image) {
    using palette_detail::Colours;
    const auto key_of = [](const std::uint8_t* pixel) {
        return std::uint32_t{pixel[0]} << 16 | std::uint32_t{pixel[1]} << 8 | pixel[2];
    };
    const std::size_t pixels = image.pixels.size() / 4;
    PalettedImage result;
    result.indices.assign(pixels, transparent_index);

    // First, find the different colours, in order of appearance, and the place of each pixel's
    // colour among them.
    constexpr std::uint32_t transparent = ~std::uint32_t{0};
    std::unordered_map<std::uint32_t, std::uint32_t> places;
    std::vector<std::uint32_t> place_of_pixel(pixels, transparent);
    Colours colours;
    for (std::size_t i = 0; i < pixels; ++i) {
        const std::uint8_t* pixel = image.pixels.data() + i * 4;
        if (pixel[alpha_channel] < opaque_from) continue;
        const bool repeats =
            i > 0 && place_of_pixel[i - 1] != transparent && key_of(pixel) == key_of(pixel - 4);
        if (repeats) {
            place_of_pixel[i] = place_of_pixel[i - 1];
        } else {
            const auto next = std::uint32_t(colours.size());
            const auto [found, is_new] = places.try_emplace(key_of(pixel), next);
            if (is_new) colours.push_back({.rgb = {pixel[0], pixel[1], pixel[2]}});
            place_of_pixel[i] = found->second;
        }
        ++colours[place_of_pixel[i]].count;
    }

    // Then find the palette index of each of these places. cut_into_boxes has reordered the
    // colours, so the places are looked up.
    std::vector<std::uint8_t> index_of_place(colours.size());
    result.palette.assign(3, 0);
    for (const auto& box : palette_detail::cut_into_boxes(colours)) {
        const std::size_t index = result.palette.size() / 3;
        for (const double mean : box.mean)
            result.palette.push_back(std::uint8_t(std::lround(mean)));
        for (auto colour = box.begin; colour != box.end; ++colour) {
            index_of_place[places.at(key_of(colour->rgb.data()))] = std::uint8_t(index);
        }
    }
    for (std::size_t i = 0; i < pixels; ++i) {
        if (place_of_pixel[i] != transparent) result.indices[i] = index_of_place[place_of_pixel[i]];
    }
    return result;
}

}  // namespace nca
