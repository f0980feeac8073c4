// SPDX-License-Identifier: MIT
#pragma once

// Which form a rollout takes on a device.

#include <nca/device.hpp>

#include <array>
#include <string>

#include "cuda/rollout_kernels.hpp"

namespace nca::cuda {

// What a device offers the forms.
struct DeviceLimits {
    std::string name;
    int compute_capability = 0;  // 90 for 9.0
    // What this build's code there was compiled for: that, or less where it has nothing newer.
    // Older code lacks what came later: tensor cores before 8.0, clusters before 9.0.
    int code = 0;
    int multiprocessors = 0;
    // Blocks of the persistent rollout that it holds at once; 0 where it holds none, because one
    // needs more shared memory than it has or it cannot launch them together.
    int persistent_blocks = 0;
    // Clusters of the cluster rollout that it holds at once, by their size; 0 where it has none.
    std::array<int, largest_cluster + 1> active_clusters = {};
};

struct RolloutPlan {
    RolloutForm form = RolloutForm::steps;
    int blocks = 0;    // of all, where they are launched once
    int cluster = 0;   // of them in a cluster
    std::string text;  // for people: what it is, and why not another

    bool is_single_launch() const { return form != RolloutForm::steps; }
};

// Whether tiles of the grid are such that a block finds all its halo in the eight tiles around its
// own.
bool has_close_neighbours(const Grid& grid);

// The form for such a rollout; a cluster only where it is asked for. Where several engines share
// the device, each takes its part of it as long as its tiles fit there. Throws CudaError where a
// form is asked for that cannot be had.
RolloutPlan plan_rollout(const DeviceLimits& limits, const Device& asked_for, const Grid& grid);

// Throws CudaError where the device, or this build's code for it, cannot compute in that precision.
void check_precision(const DeviceLimits& limits, Precision precision);

}  // namespace nca::cuda
