// SPDX-License-Identifier: MIT
// Writes small checkpoints, from which make-seeds makes seeds.
//   save_checkpoints FOLDER
#include "host/training/checkpoint.hpp"

#include <cstdio>

using namespace nca;

namespace {

Checkpoint small_checkpoint(std::string_view preset_name) {
    TrainingConfig config = preset(preset_name);
    config.target_size = 8;
    config.padding = 0;
    config.batch = 4;
    Checkpoint checkpoint{.config = config,
                          .target_name = "lizard.png",
                          .progress = {.iteration = 2, .recent_losses = {0.5, 0.25}},
                          .current = Parameters(Weights(config.output_bias)),
                          .anchor = Parameters(Weights(config.output_bias)),
                          .good = Weights(config.output_bias)};
    checkpoint.target.assign(std::size_t(config.grid()) * config.grid() * visible_channels, 0.5F);
    checkpoint.target_hash = hash_target(checkpoint.target);
    checkpoint.wanted_iterations = 3;
    checkpoint.init = Weights(config.output_bias);
    if (config.pool > 0) {
        checkpoint.config.pool = 5;
        checkpoint.pool = StatePool(5, config.grid() * config.grid());
        checkpoint.pool.set_entry(
            1, {.cells = {3, 36}, .values = std::vector<float>(2 * channels, 0.5F), .loss = 0.25F});
    }
    return checkpoint;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fputs("usage: save_checkpoints FOLDER\n", stderr);
        return 2;
    }
    for (const char* name : {"growing", "notebook", "regenerating"}) {
        save_checkpoint(std::filesystem::path(argv[1]) / (std::string(name) + ".checkpoint"),
                        small_checkpoint(name), {.preset = name, .target = "lizard.png"});
    }
    return 0;
}
