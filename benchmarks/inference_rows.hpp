// SPDX-License-Identifier: MIT
#pragma once

#include "benchmarks/setting.hpp"

#include <nca/rule.hpp>

namespace nca::bench {

// A call of an engine that takes grids in which every cell lives some steps further, without a
// tape.
struct Inference {
    int batch = 1;
    int height = 0;
    int width = 0;
    Rule rule = {};
    int steps = 1;
    bool is_rollout = false;  // a preset's rollout; otherwise a few steps of large grids

    double cells() const { return double(batch) * height * width; }
};

// For people: what bench_inferences times where the options ask for inference alone.
std::string inference_text(const Options& options);

// The inference rows: rollouts of a preset's batch where the options ask for a grid and presets,
// steps of one large grid and of many smaller ones otherwise. On a GPU the steps without fusing
// stand beside them.
void bench_inferences(const Setting& setting);

}  // namespace nca::bench
