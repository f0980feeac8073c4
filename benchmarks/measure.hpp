// SPDX-License-Identifier: MIT
#pragma once

#include <nca/engine.hpp>
#include <nca/trainer.hpp>

#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

namespace nca::bench {

// Times in milliseconds.
struct Timing {
    double median = 0;
    double fastest = 0;
    double slowest = 0;
    int count = 0;
};

// What a machine can do, measured in the same run.
struct Machine {
    double arithmetic = 0;  // operations a second, float32
    double bandwidth = 0;   // bytes a second of a copy, those read and those written
    // Of a GPU only.
    int multiprocessors = 0;
    double clock = 0;  // cycles a second, the highest
};

// Of single times.
Timing timing_of(const std::vector<double>& milliseconds);

// Runs work once to warm up, then `count` times, each timed on its own.
Timing measure(int count, const std::function<void()>& work);

// The same for an iteration, where each run does several: run returns how many it did, and its time
// is divided by that. Their number may differ from run to run, as it does in a trainer's queues.
template <class Run, class Now>
Timing measure_queues(int count, Run run, Now now) {
    run();
    std::vector<double> times;
    for (int i = 0; i < count; ++i) {
        const double start = now();
        const std::size_t iterations = run();
        times.push_back((now() - start) / static_cast<double>(iterations));
    }
    return timing_of(times);
}
// By the steady clock.
Timing measure_queues(int count, const std::function<std::size_t()>& run);

// The highest rate of independent multiply-adds that so many threads reach together, and of copying
// a large array by std::memcpy.
double peak_arithmetic(int threads);
double peak_bandwidth(int threads);

// Waits until an engine has done all that was queued before, by a copy of one float.
class Waiter {
public:
    explicit Waiter(Engine& engine) : engine_(engine), one_(engine.allocate(1)) {}
    void operator()() {
        float value = 0;
        engine_.copy_to_host({&value, 1}, one_.data());
    }

private:
    Engine& engine_;
    Buffer one_;
};

// What a rollout has to do, counted from its states: rows of the MLP forward (a fired cell with
// something other than zero in its 3x3) and backward (a fired cell that lives after the step), and
// cells that are not zero.
struct Work {
    double forward_rows = 0;
    double backward_rows = 0;
    double living_cells = 0;

    double forward_operations() const;
    double backward_operations() const;
};
Work count_work(Engine& engine, const Rule& rule, const Tape& tape, const FireKey& key);

// A short rollout of a trained model in double precision, one sample from the start cell, and the
// gradients of the loss at its end. Engines are compared with it before they are timed. It is
// chosen so that no alpha comes so close to the threshold that a coarse precision could decide
// otherwise.
class ReferenceCheck {
public:
    explicit ReferenceCheck(const Trainer& trainer);

    // The largest |engine - reference| / (atol + rtol * max) over the last state and the gradients;
    // at most 1 where the engine is right, for the precision it computes in.
    double error(Engine& engine, Precision precision) const;

private:
    Model model_;
    std::vector<float> target_;
    int grid_;
    RolloutOptions options_;
    std::vector<double> last_, grad_weights_, grad_first_;
};

// The same for one step of a batch of large grids, compared in some hundred cells in all parts of
// it. before and after are [batch, height, width, channels] in host memory, sides of 8 cells or
// more.
double step_error(const Model& model, ConstStateView before, ConstStateView after,
                  const FireKey& key, Precision precision);

// The most memory that the process has held since the last reset, less what it held at the reset
// (the program and its libraries; cuBLAS alone takes 100 MB). In bytes; Linux only, 0 elsewhere.
void reset_peak_memory();
double peak_memory();

}  // namespace nca::bench
