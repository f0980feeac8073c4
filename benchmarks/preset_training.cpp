// SPDX-License-Identifier: MIT
#include "benchmarks/preset_training.hpp"

#include "benchmarks/dense_work.hpp"

#include <nca/error.hpp>

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <system_error>

namespace nca::bench {
namespace {

// A line that changes, where somebody looks at it. A log has the rows alone.
void show(const std::string& line) {
    if (isatty(STDERR_FILENO) != 0) fmt::print(stderr, "\r{:40}\r{}", "", line);
}

}  // namespace

TrainingConfig timed_config(const std::string& preset_name, const Options& options) {
    TrainingConfig config = preset(preset_name);
    config.fewest_steps = timed_steps;
    config.most_steps = timed_steps + 1;
    if (options.dense) {
        return dense_config(config, options.size ? options.size->height : config.grid());
    }
    if (options.size) {
        config.target_size = options.size->height - 2 * config.padding;
        if (config.target_size < 8) {
            throw InvalidArgument(fmt::format(
                "--size {}x{} leaves no room for a target of 8 cells inside the padding of {} that "
                "preset {} has: give a larger size, or --dense",
                options.size->height, options.size->width, config.padding, preset_name));
        }
    }
    return config;
}

Trainer make_trainer(const TrainingConfig& config, const Device& device, const Options& options) {
    return Trainer(options.dense ? dense_target(config.grid()) : load_target(options.target),
                   config, device);
}

SharedCheckpoint::SharedCheckpoint(const std::string& preset_name, const Options& options)
    : path_(options.resume), is_mine_(options.resume.empty()) {
    if (!is_mine_) return;
    path_ = std::filesystem::temp_directory_path() /
            fmt::format("bench_step_{}_{}.checkpoint", preset_name, getpid());
    if (!options.dense) return;
    save_dense_checkpoint(path_, timed_config(preset_name, options));
    is_saved_ = true;
}

SharedCheckpoint::~SharedCheckpoint() {
    std::error_code ignored;
    if (is_mine_) std::filesystem::remove(path_, ignored);
}

void SharedCheckpoint::resume(Trainer& trainer) const {
    if (!is_mine_ || is_saved_) trainer.resume(path_);
}

void SharedCheckpoint::save(const Trainer& trainer) {
    if (is_mine_ && !is_saved_) trainer.save_checkpoint(path_);
    is_saved_ = true;
}

Trainer train(const std::string& preset_name, const Device& device,
              const SharedCheckpoint& checkpoint, const Options& options) {
    Trainer trainer = make_trainer(timed_config(preset_name, options), device, options);
    checkpoint.resume(trainer);
    const int wanted = options.dense ? 0 : options.train;
    while (trainer.iteration() < wanted) {
        trainer.iterate(int(wanted - trainer.iteration()));
        show(fmt::format("{}: training {}/{}", preset_name, trainer.iteration(), wanted));
    }
    show("");
    return trainer;
}

}  // namespace nca::bench
