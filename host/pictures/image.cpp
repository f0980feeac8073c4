// SPDX-License-Identifier: MIT
#include "host/core/throw_error.hpp"
#include "host/pictures/image_check.hpp"
#include "host/pictures/resample.hpp"

#include <nca/image.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace nca {
namespace {

// NaN becomes 0.
std::uint8_t to_byte(float value) {
    if (!(value > 0)) return 0;
    return std::uint8_t(std::lround(std::min(value, 1.0F) * 255));
}

Image empty_image(int height, int width) {
    Image image{.height = height, .width = width, .pixels = {}};
    image.pixels.resize(std::size_t(height) * width * 4);
    return image;
}

// Refuses a size for the result of resize or enlarge, before memory is allocated for it.
void check_new_size(std::int64_t height, std::int64_t width) {
    constexpr int largest = 2 * largest_image_side;
    if (height < 1 || width < 1 || height > largest || width > largest) {
        throw_error<InvalidArgument>(
            "a picture of {} x {} pixels was asked for, expected 1 to {} on each side", width,
            height, largest);
    }
}

}  // namespace

Image resize(const Image& image, int height, int width) {
    check_image(image);
    check_new_size(height, width);
    return resample(image, height, width);
}

Image enlarge(const Image& image, int scale) {
    check_image(image);
    if (scale < 1) throw_error<InvalidArgument>("scale is {}, expected at least 1", scale);
    check_new_size(std::int64_t{image.height} * scale, std::int64_t{image.width} * scale);
    Image result = empty_image(image.height * scale, image.width * scale);
    result.had_alpha = image.had_alpha;
    for (int y = 0; y < result.height; ++y) {
        for (int x = 0; x < result.width; ++x) {
            std::memcpy(result.pixel(y, x), image.pixel(y / scale, x / scale), 4);
        }
    }
    return result;
}

Image on_colour(const Image& image, const std::array<std::uint8_t, 3>& colour) {
    check_image(image);
    Image result = image;
    for (std::size_t i = 0; i < result.pixels.size(); i += 4) {
        const int alpha = result.pixels[i + alpha_channel];
        for (std::size_t c = 0; c < 3; ++c) {
            const int blended = result.pixels[i + c] * alpha + colour[c] * (255 - alpha);
            result.pixels[i + c] = std::uint8_t((blended + 127) / 255);
        }
        result.pixels[i + alpha_channel] = 255;
    }
    return result;
}

Image on_white(const Image& image) { return on_colour(image, {255, 255, 255}); }

Image picture(const Rule& rule, ConstStateView grid) {
    check_grid(grid);
    Image image = empty_image(grid.height, grid.width);
    for (int y = 0; y < grid.height; ++y) {
        for (int x = 0; x < grid.width; ++x) {
            const float* cell = grid.cell(0, y, x);
            std::uint8_t* pixel = image.pixel(y, x);
            const float alpha = cell[alpha_channel];
            // An alpha above 1 is shown as 1, so colours are not divided by more than 1.
            const float divisor = rule.premultiplied && alpha > 0 ? std::min(alpha, 1.0F) : 1.0F;
            for (int c = 0; c < 3; ++c) pixel[c] = to_byte(cell[c] / divisor);
            pixel[alpha_channel] = to_byte(alpha);
        }
    }
    return image;
}

}  // namespace nca
