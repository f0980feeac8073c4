// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <nca/trainer.hpp>
#include <optional>
#include <string>
#include <vector>

#include "host/files/safetensors.hpp"
#include "host/iteration/pool.hpp"
#include "host/iteration/training_loop.hpp"
#include "host/training/recovery.hpp"

namespace nca {

// More than any training takes, and small enough to be multiplied by the number of trainings.
inline constexpr std::int64_t most_wanted_iterations = std::numeric_limits<int>::max();

// All that a training run needs to continue bit for bit.
struct Checkpoint {
    TrainingConfig config;
    std::string target_name = {};
    std::uint64_t target_hash = 0;  // hash_target of the target on the grid
    // [grid, grid, 4]; empty: an earlier version wrote the file, which has its hash only
    std::vector<float> target = {};
    std::int64_t wanted_iterations = 0;  // 0: not known
    TrainingProgress progress = {};
    Parameters current;
    Parameters anchor;  // what a recovery goes back to
    Weights good;       // the model's, if the run ended here
    StatePool pool = {};
    std::string init_text = {};        // TrainingHistory::init; stored in the history
    std::optional<Weights> init = {};  // what the run started from, where that was a model
};

// The first field in which two configurations differ, as "batch is 8, expected 4"; empty: none.
std::string first_difference(const TrainingConfig& got, const TrainingConfig& expected);

// FNV-1a hash of the bytes.
std::uint64_t hash_target(const std::vector<float>& target);

// Writes a safetensors file that Model::load reads as well (docs/file-formats.md). Throws as
// Model::save.
void save_checkpoint(const std::filesystem::path& path, const Checkpoint& checkpoint,
                     const TrainingHistory& history);
// Throws IoError and FormatError as Model::load.
Checkpoint load_checkpoint(const std::filesystem::path& path);
Checkpoint take_checkpoint(const SafetensorsReader& file);

}  // namespace nca
