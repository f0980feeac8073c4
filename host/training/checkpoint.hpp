// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <filesystem>
#include <nca/trainer.hpp>
#include <string>
#include <vector>

#include "host/files/safetensors.hpp"
#include "host/iteration/pool.hpp"
#include "host/iteration/training_loop.hpp"
#include "host/training/recovery.hpp"

namespace nca {

// All that a training run needs to continue bit for bit.
struct Checkpoint {
    TrainingConfig config;
    std::string target_name = {};
    std::uint64_t target_hash = 0;  // hash_target of the target on the grid
    TrainingProgress progress = {};
    Parameters current;
    Parameters anchor;  // what a recovery goes back to
    Weights good;       // the model's, if the run ended here
    StatePool pool = {};
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
