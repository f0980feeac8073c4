// SPDX-License-Identifier: MIT
#pragma once

// Training runs that are small enough for a test, and access to their contents.

#include "host/training/checkpoint.hpp"
#include "tests/support/temporary_directory.hpp"

#include <nca/trainer.hpp>

#include <cstdint>
#include <string_view>
#include <vector>

namespace nca::test {

// A coloured leaf with a half-transparent rim; transparent around it.
inline Image small_picture(int height = 8, int width = 8) {
    Image image{height, width, std::vector<std::uint8_t>(std::size_t(height) * width * 4)};
    for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
            const bool inside = y > 0 && y < height - 1 && x > 0 && x < width - 1;
            const bool rim = y == 1 || x == 1 || y == height - 2 || x == width - 2;
            std::uint8_t* pixel = image.pixel(y, x);
            if (!inside) continue;
            pixel[0] = std::uint8_t(40 + 20 * (x % 8));
            pixel[1] = 200;
            pixel[2] = std::uint8_t(30 * (y % 8));
            pixel[3] = rim ? 128 : 255;
        }
    }
    return image;
}

// The preset on 12 x 12 cells with 4 or 5 steps, a batch of 2 (of 3 where a sample is damaged) and,
// where it has a pool, a pool of 7 states.
inline TrainingConfig small_config(std::string_view preset_name) {
    TrainingConfig config = preset(preset_name);
    config.target_size = 8;
    config.padding = 2;
    config.batch = 2;
    config.fewest_steps = 4;
    config.most_steps = 6;
    if (config.pool > 0) config.pool = 7;
    if (config.damaged > 0) config.batch = 3, config.damaged = 1;
    return config;
}

// The same with the losses of samples at steps of their own, from the first on.
inline TrainingConfig with_loss_steps(TrainingConfig config) {
    config.earliest_loss_step = 1;
    config.latest_loss_step = config.most_steps;
    return config;
}

// The trainer's whole contents, read from a checkpoint.
inline Checkpoint inside(const Trainer& trainer) {
    const TemporaryDirectory folder;
    trainer.save_checkpoint(folder / "inside");
    return load_checkpoint(folder / "inside");
}

inline std::vector<std::uint8_t> checkpoint_bytes(const Trainer& trainer) {
    const TemporaryDirectory folder;
    trainer.save_checkpoint(folder / "bytes");
    return read_bytes(folder / "bytes");
}

inline void resume_from(Trainer& trainer, const Checkpoint& checkpoint) {
    const TemporaryDirectory folder;
    save_checkpoint(folder / "checkpoint", checkpoint, {});
    trainer.resume(folder / "checkpoint");
}

}  // namespace nca::test
