// SPDX-License-Identifier: MIT
#pragma once

// What a rollout is expected to take on an H200, from what it took there: straight lines through
// measured times, in the cells and in the rows of the MLP. And what a step of large grids takes at
// least, by its bytes and its instructions. docs/performance.md says which times, and what has not
// been measured.

#include <nca/device.hpp>

namespace nca::bench {

// What scales the times: they were measured on 132 multiprocessors at 1.98 GHz, which hold 15
// clusters of 8 blocks. An H100 has as many of the same.
struct Gpu {
    int multiprocessors = 132;
    double clock = 1.98e9;  // cycles a second
    int clusters = 15;
};

// A rollout: its sizes, which in bands are those of a grid that can run so, its form, and the rows
// of the MLP that a step of the batch has forward and back.
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
// A training iteration. Of several side by side, what one of them costs.
double predicted_training(const Gpu& gpu, const RolloutCase& rollout);

// Bytes of memory that a step moves, each state read once and written once.
double step_bytes(double cells);

// Warp instructions of a step's kernel for 128 cells that are all alive, at this fire rate.
constexpr double counted_fire_rate = 0.5;
double step_instructions(Precision precision);

// A step of grids that fill the device and are alive all over, without a tape: the longer of moving
// its bytes at `copy_rate`, in bytes a second, and of issuing its instructions; and a launch. At
// counted_fire_rate.
double predicted_step(const Gpu& gpu, double cells, Precision precision, double copy_rate);

}  // namespace nca::bench
