// SPDX-License-Identifier: MIT
#pragma once

#include "host/tool/arguments/arguments.hpp"

#include <nca/trainer.hpp>

#include <filesystem>

// What --resume takes from a checkpoint.
namespace nca::tool {

// What the checkpoint says. Throws IoError and FormatError, and UsageError where it is a model.
CheckpointInfo resumed_info(const std::filesystem::path& checkpoint);

// Throws UsageError where an option was given that differs from the checkpoint.
void require_same_options(const TrainArguments& arguments, const std::filesystem::path& checkpoint,
                          const CheckpointInfo& info);

// Throws UsageError where two checkpoints of one folder differ, but for the size of their targets.
void require_same_options(const std::filesystem::path& checkpoint, const CheckpointInfo& info,
                          const std::filesystem::path& other, const CheckpointInfo& other_info);

// The iterations that --resume wants: those given, or those that the checkpoint was to have.
std::int64_t wanted_iterations(const TrainArguments& arguments, const CheckpointInfo& info);

// Throws UsageError where there is no target and --resume names a folder, as for several targets.
void require_single_checkpoint(const TrainArguments& arguments);

// Takes configuration and iterations of a single training from its checkpoint. Throws as the
// functions above.
void take_checkpoint_options(TrainArguments& arguments);

}  // namespace nca::tool
