// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nca/error.hpp>
#include <nca/trainer.hpp>

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
    throw InvalidArgument(fmt::format(
        "there is no preset \"{}\": use growing, persistent, regenerating or notebook", name));
}

void TrainingConfig::validate() const {
    const auto require = [](bool good, const char* what, auto got, const char* expected) {
        if (!good) throw InvalidArgument(fmt::format("{} is {}: expected {}", what, got, expected));
    };
    rule.validate();
    const auto known = [](auto value) { return int(value) == 0 || int(value) == 1; };
    require(known(initialisation), "initialisation", int(initialisation), "pytorch or glorot");
    require(known(schedule), "schedule", int(schedule), "exponential or drop");
    require(batch >= 1 && batch <= 4096, "batch", batch, "1 to 4096");
    require(fewest_steps >= 1, "the smallest number of steps", fewest_steps, "1 or more");
    require(most_steps > fewest_steps && most_steps <= 100000, "the end of the range of steps",
            most_steps, "more than its begin and at most 100000");
    require(warmup >= 0 && warmup <= 1000000, "warmup", warmup, "0 to 1000000 iterations");
    require(pool == 0 || (pool >= batch && pool <= 65536), "pool", pool,
            fmt::format("0, or at least the batch, which is {}, and at most 65536", batch).c_str());
    require(damaged >= 0 && (damaged == 0 || damaged < batch), "damage", damaged,
            fmt::format("less than the batch, which is {}: one of it becomes the start cell", batch)
                .c_str());
    require(damaged == 0 || pool > 0, "damage", damaged,
            "0, as there is no pool: only states of a pool are damaged");
    require(damage_centre >= 0 && damage_centre <= 1, "the damage's centre", damage_centre,
            "0 to 1, of half the grid");
    require(smallest_damage >= 0 && smallest_damage <= largest_damage,
            "the smallest radius of damage", smallest_damage, "0 or more, at most the largest");
    require(largest_damage <= 4, "the largest radius of damage", largest_damage,
            "at most 4, of half the grid");
    require(target_size >= 8 && target_size <= 4096, "size", target_size, "8 to 4096 cells");
    require(padding >= 0 && padding <= 4096, "padding", padding, "0 to 4096 cells");
    // Checkpoints number the cells of the pool's states in float32.
    require(pool == 0 || grid() <= 4096, "the grid's side", grid(), "at most 4096 with a pool");
    require(std::isfinite(learning_rate) && learning_rate > 0, "learning rate", learning_rate,
            "a finite number above 0");
    require(beta1 >= 0 && beta1 < 1, "beta1", beta1, "0 or more and less than 1");
    require(beta2 >= 0 && beta2 < 1, "beta2", beta2, "0 or more and less than 1");
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
            // Image files have colours under transparent pixels too; a dead cell has none.
            if (pixel[alpha_channel] == 0) continue;
            const float alpha = float(pixel[alpha_channel]) / 255;
            for (int c = 0; c < alpha_channel; ++c) {
                const float colour = float(pixel[c]) / 255;
                cell[c] = config.rule.premultiplied ? colour * alpha : colour;
            }
            cell[alpha_channel] = alpha;
        }
    }
    bool visible = false;
    for (std::size_t i = alpha_channel; i < target.size(); i += visible_channels) {
        visible = visible || target[i] > living_threshold;
    }
    if (!visible) {
        throw FormatError(
            fmt::format("the target has no pixel with alpha above {} once it is scaled to {} "
                        "cells: use an image "
                        "with more to see, or a larger size",
                        living_threshold, config.target_size));
    }
    return target;
}

}  // namespace nca
