// SPDX-License-Identifier: MIT
#pragma once

#include <nca/engine.hpp>

#include <memory>
#include <span>

#include "host/iteration/training_loop.hpp"

namespace nca {

// The engine's own loop where it has one. Otherwise a loop in which each iteration makes four calls
// of the engine: forward, loss, backward and adam. target is [grid, grid, 4] in host memory.
std::unique_ptr<TrainingLoop> make_training_loop(Engine& engine, const TrainingConfig& config,
                                                 std::span<const float> target);

// The loop of these four calls, also for an engine that has its own.
std::unique_ptr<TrainingLoop> make_composed_training_loop(Engine& engine,
                                                          const TrainingConfig& config,
                                                          std::span<const float> target);

}  // namespace nca
