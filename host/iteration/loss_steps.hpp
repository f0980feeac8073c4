// SPDX-License-Identifier: MIT
#pragma once

#include <nca/training_config.hpp>

#include <cstdint>
#include <vector>

namespace nca {

// After how many steps of a rollout of so many steps each sample of an iteration has its loss,
// [batch]; empty: all after the last. As TrainingConfig::earliest_loss_step says. Decides for every
// engine.
std::vector<int> draw_loss_steps(const TrainingConfig& config, std::uint32_t seed,
                                 std::int64_t iteration, int steps);

}  // namespace nca
