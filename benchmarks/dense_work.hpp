// SPDX-License-Identifier: MIT
#pragma once

// Work in which nothing can be skipped: a grid in which every cell lives, and a model that keeps
// all of them alive. Trained automata leave most of their grid empty, and engines skip that.

#include <nca/model.hpp>
#include <nca/trainer.hpp>

#include <filesystem>
#include <vector>

namespace nca::bench {

// Small weights, and two hidden units that pull every cell's alpha to 1: u = (1 - alpha) / 5. Empty
// cells come alive too, where the rule lets them.
Weights dense_weights(bool output_bias);
// The same with an output bias, under this rule.
Model dense_model(const Rule& rule);

// [batch, height, width, channels]: alpha 0.5 to 1, the other channels 0 to 1.
std::vector<float> dense_state(int batch, int height, int width);

// Throws Error where a cell of such states has died, so that something could be skipped.
void check_dense(const std::vector<float>& states);

// A training in which every cell lives: the preset's rule with life masked after the step only, so
// that the empty cells around the start cell come alive in the first step, and a learning rate that
// moves no weight.
TrainingConfig dense_config(const TrainingConfig& preset, int side);
// What it trains on: opaque and black, which is what dense_weights grow.
Image dense_target(int side);
// A checkpoint to start it from.
void save_dense_checkpoint(const std::filesystem::path& path, const TrainingConfig& config);

}  // namespace nca::bench
