// SPDX-License-Identifier: MIT
#include "host/training/target.hpp"

#include "host/core/throw_error.hpp"
#include "host/pictures/image_check.hpp"

#include <nca/error.hpp>
#include <nca/trainer.hpp>

#include <cmath>

namespace nca {
namespace {

Image filtered(const Image& image, int target_size) {
    const auto scaled = [&](int side) {
        return std::max(1, int(std::lround(double(side) * target_size / longer_side(image))));
    };
    return resize(image, scaled(image.height), scaled(image.width));
}

// The target with this picture in its middle, one cell for each pixel.
std::vector<float> on_grid(const Image& picture, const TrainingConfig& config) {
    const int grid = config.grid();
    const int top = (grid - picture.height) / 2;
    const int left = (grid - picture.width) / 2;
    std::vector<float> target(std::size_t(grid) * grid * visible_channels);
    for (int y = 0; y < picture.height; ++y) {
        for (int x = 0; x < picture.width; ++x) {
            const std::uint8_t* pixel = picture.pixel(y, x);
            float* cell =
                target.data() + (std::size_t(top + y) * grid + left + x) * visible_channels;
            // Transparent pixels of an image file may have colours; a dead cell has none.
            if (pixel[alpha_channel] == 0) continue;
            const float alpha = float(pixel[alpha_channel]) / 255;
            for (int c = 0; c < alpha_channel; ++c) {
                const float colour = float(pixel[c]) / 255;
                cell[c] = config.rule.premultiplied ? colour * alpha : colour;
            }
            cell[alpha_channel] = alpha;
        }
    }
    return target;
}

}  // namespace

std::vector<float> make_target(const Image& image, const TrainingConfig& config) {
    config.validate();
    check_image(image);
    const int factor = whole_factor(image, config.target_size);
    std::vector<float> target =
        on_grid(factor > 0 ? enlarge(image, factor) : filtered(image, config.target_size), config);
    if (!any_alpha(target, [](float alpha) { return alpha > living_threshold; })) {
        throw_error<FormatError>(
            "the target has no pixel with alpha above {} once it is scaled to {} cells: use an "
            "image with more to see, or a larger size",
            living_threshold, config.target_size);
    }
    return target;
}

std::vector<float> make_filtered_target(const Image& image, const TrainingConfig& config) {
    return on_grid(filtered(image, config.target_size), config);
}

}  // namespace nca
