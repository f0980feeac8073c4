// SPDX-License-Identifier: MIT
#pragma once

#include "benchmarks/inference_rows.hpp"
#include "benchmarks/setting.hpp"

#include <nca/training_config.hpp>

namespace nca::bench {

// The same steps by cuBLAS and cuRAND, without fusing, in float32 and TF32. Nothing is skipped
// there, so that it does not matter what has grown. No rows where this build has no cuBLAS.

// Of a preset: its rollout forward, and forward and back.
void add_unfused_rows(const Setting& setting, const TrainingConfig& config);
// A single step. This keeps every cell's hidden units, 512 bytes, so that the grids are smaller
// and fewer where they are large.
void add_unfused_rows(const Setting& setting, const Inference& work);

}  // namespace nca::bench
