// SPDX-License-Identifier: MIT
#pragma once

// Which form a rollout takes on a device.

#include <nca/device.hpp>

#include <string>

#include "cuda/step.hpp"

namespace nca::cuda {

// What a device offers the forms.
struct DeviceLimits {
    std::string name;
    int compute_capability = 0;  // 90 for 9.0
    // What this build's code there was compiled for: that, or less where it has nothing newer.
    // Older code lacks what came later: tensor cores before 8.0, clusters before 9.0.
    int code = 0;
    int multiprocessors = 0;
};

struct RolloutPlan {
    RolloutForm form = RolloutForm::steps;
    std::string text;  // for people: what it is, and why not another
};

// The form for such a rollout. Throws CudaError where a form is asked for that cannot be had.
RolloutPlan plan_rollout(const DeviceLimits& limits, const Device& asked_for, const Grid& grid);

// Throws CudaError where the device, or this build's code for it, cannot compute in that precision.
void check_precision(const DeviceLimits& limits, Precision precision);

}  // namespace nca::cuda
