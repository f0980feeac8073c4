// SPDX-License-Identifier: MIT
#pragma once

// Predicted times of an H200. A rollout's are straight lines through times that were measured
// there: so much for each cell and each row of the MLP. A step's of large grids are the least that
// its bytes and its instructions allow. docs/gpu-design.md says which times were measured and
// which were not.

#include <nca/device.hpp>

namespace nca::bench {

// What the times depend on. They were measured on 132 multiprocessors at 1.98 GHz, which hold 15
// clusters of 8 blocks. An H100 has the same.
struct Gpu {
    int multiprocessors = 132;
    double clock = 1.98e9;  // cycles a second
    int clusters = 15;
};

// A rollout: its sizes, its form, and the rows of the MLP that a step of the batch has forward and
// back. Where the form is bands, it has to be a grid that can run in bands.
struct RolloutCase {
    int batch = 1;
    int height = 0;
    int width = 0;
    int steps = 1;
    Precision precision = Precision::exact;
    RolloutForm form = RolloutForm::steps;  // not automatic
    int engines_on_device = 1;              // Device::engines_on_device
    double forward_rows = 0;
    double backward_rows = 0;
};

// All in seconds. Engine::forward, from the call to the end.
double predicted_forward(const Gpu& gpu, const RolloutCase& rollout);
// forward, loss and backward by an Engine's calls.
double predicted_forward_backward(const Gpu& gpu, const RolloutCase& rollout);
// A training iteration. Of several trainings side by side: the time for all of them, divided by
// their iterations.
double predicted_training(const Gpu& gpu, const RolloutCase& rollout);

// Bytes of memory that a step moves, each state read once and written once.
double step_bytes(double cells);

// Warp instructions of a step's kernel for 128 cells that are all alive, at this fire rate.
constexpr double counted_fire_rate = 0.5;
double step_instructions(Precision precision);

// A step without a tape of grids that fill the device and in which every cell lives, at
// counted_fire_rate: a launch, and the longer of moving the step's bytes at `copy_rate` (bytes a
// second) and of issuing its instructions.
double predicted_step(const Gpu& gpu, double cells, Precision precision, double copy_rate);

}  // namespace nca::bench
