// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nca/trainer.hpp>

#include "host/core/throw_error.hpp"
#include "host/pictures/image_check.hpp"
#include "host/training/config_fields.hpp"

namespace nca {

TrainingConfig preset(std::string_view name) {
    TrainingConfig config;
    config.preset = name;
    if (name == "growing") return config;
    if (name == "notebook") {
        config.rule = notebook_rule();
        config.output_bias = false;
        config.initialisation = Initialisation::pytorch;
        config.schedule = Schedule::exponential;
        config.normalise_gradients = false;
        config.padding = 0;
        return config;
    }
    if (name == "persistent" || name == "regenerating") {
        config.pool = 1024;
        config.damaged = name == "regenerating" ? 3 : 0;
        return config;
    }
    throw_error<InvalidArgument>("there is no preset \"{}\": use one of {}", name,
                                 fmt::join(all_presets, ", "));
}

void TrainingConfig::validate() const {
    rule.validate();
    for (const ConfigField& field : config_fields) check_field(field, *this);
    require_field(most_steps > fewest_steps, "the end of the range of steps", most_steps,
                  "more than its begin");
    require_field(pool == 0 || pool >= batch, "pool", pool,
                  fmt::format("0, or at least the batch, which is {}, and at most 65536", batch));
    require_field(
        damaged == 0 || damaged < batch, "damage", damaged,
        fmt::format("less than the batch, which is {}: one of it becomes the start cell", batch));
    require_field(damaged == 0 || pool > 0, "damage", damaged,
                  "0, as there is no pool: only states of a pool are damaged");
    require_field(smallest_damage <= largest_damage, "the smallest radius of damage",
                  smallest_damage, "0 or more, at most the largest");
    // Checkpoints store the places of a pool's cells in float32.
    require_field(pool == 0 || grid() <= 4096, "the grid's side", grid(),
                  "at most 4096 with a pool");
}

std::vector<float> make_target(const Image& image, const TrainingConfig& config) {
    config.validate();
    const int longer = std::max(image.height, image.width);
    const auto scaled = [&](int side) {
        return std::max(1, int(std::lround(double(side) * config.target_size / longer)));
    };
    const Image small = resize(image, scaled(image.height), scaled(image.width));
    const int grid = config.grid();
    const int top = (grid - small.height) / 2;
    const int left = (grid - small.width) / 2;
    std::vector<float> target(std::size_t(grid) * grid * visible_channels);
    for (int y = 0; y < small.height; ++y) {
        for (int x = 0; x < small.width; ++x) {
            const std::uint8_t* pixel = small.pixel(y, x);
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
    if (!any_alpha(target, [](float alpha) { return alpha > living_threshold; })) {
        throw_error<FormatError>(
            "the target has no pixel with alpha above {} once it is scaled to {} cells: use an "
            "image with more to see, or a larger size",
            living_threshold, config.target_size);
    }
    return target;
}

}  // namespace nca
