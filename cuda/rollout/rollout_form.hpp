// SPDX-License-Identifier: MIT
#pragma once

// Which form a rollout takes on a device.

#include <nca/device.hpp>
#include <nca/rule.hpp>

#include <span>
#include <string>

#include "cuda/bands/band_rollout.hpp"

namespace nca::cuda {

// What a device offers the forms.
struct DeviceLimits {
    std::string name;
    int compute_capability = 0;  // 90 for 9.0
    // The one that this build's code for the device was compiled for: the same, or less where the
    // build has nothing newer. Older code lacks what came later: tensor cores before 8.0, clusters
    // before 9.0.
    int code = 0;
    int multiprocessors = 0;
    // Clusters of most_bands blocks, with all of a block's shared memory each, that it holds at
    // once.
    int band_clusters = 0;
};

struct RolloutPlan {
    RolloutForm form = RolloutForm::steps;
    BandCut cut;       // where it runs in bands
    std::string text;  // for people: what it is, and why not another

    bool in_bands() const { return form == RolloutForm::bands; }
};

// The form for such a rollout. asked_for has its precision. row_load is as in cut_bands, empty
// where it is not known. Throws CudaError where the form that is asked for is not possible.
RolloutPlan plan_rollout(const DeviceLimits& limits, const Device& asked_for,
                         const BatchShape& grid, const Rule& rule,
                         std::span<const double> row_load);

// The precision where none is asked for: precise on a device that runs rollouts in bands,
// unless it is asked for steps; exact elsewhere.
Precision default_precision(const DeviceLimits& limits, RolloutForm asked_for);

// Throws CudaError where the device, or this build's code for it, cannot compute in that precision.
void check_precision(const DeviceLimits& limits, Precision precision);

}  // namespace nca::cuda
