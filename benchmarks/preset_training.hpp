// SPDX-License-Identifier: MIT
#pragma once

// The training of a preset that is timed, up to the point where timing begins.

#include "benchmarks/options.hpp"

#include <nca/trainer.hpp>

#include <filesystem>
#include <string>

namespace nca::bench {

constexpr int timed_steps = 80;  // of every iteration: the middle of 64 .. 95

// A trainer queues as many iterations in a call as it likes, at most so many.
constexpr int plenty = 1000;

// The preset on the grid that the options ask for. Throws InvalidArgument where it has no room.
TrainingConfig timed_config(const std::string& preset_name, const Options& options);

Trainer make_trainer(const TrainingConfig& config, const Device& device, const Options& options);

// The checkpoint that all rows of a preset start from, so that they have the same work. The one of
// --resume; otherwise a file of its own, which the first row's training writes and the destructor
// removes.
class SharedCheckpoint {
public:
    SharedCheckpoint(const std::string& preset_name, const Options& options);
    ~SharedCheckpoint();
    SharedCheckpoint(const SharedCheckpoint&) = delete;
    SharedCheckpoint& operator=(const SharedCheckpoint&) = delete;

    // Where it has been saved.
    void resume(Trainer& trainer) const;
    // Unless it has been saved.
    void save(const Trainer& trainer);

private:
    std::filesystem::path path_;
    bool is_mine_;
    bool is_saved_ = false;
};

// A trainer of the preset after the training that comes before timing.
Trainer train(const std::string& preset_name, const Device& device,
              const SharedCheckpoint& checkpoint, const Options& options);

}  // namespace nca::bench
