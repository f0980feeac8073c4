// SPDX-License-Identifier: MIT
#pragma once

#include <nca/engine.hpp>

#include <memory>
#include <span>

#include "host/iteration/training_loop.hpp"

namespace nca {

// The engine's own loop where it has one. Otherwise one that composes an iteration of four calls of
// the engine: forward, loss, backward and adam. target is [grid, grid, 4] in host memory.
std::unique_ptr<TrainingLoop> make_training_loop(Engine& engine, const TrainingConfig& config,
                                                 std::span<const float> target);

// The composed one, whatever the engine has.
std::unique_ptr<TrainingLoop> make_composed_training_loop(Engine& engine,
                                                          const TrainingConfig& config,
                                                          std::span<const float> target);

}  // namespace nca
