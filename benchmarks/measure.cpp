// SPDX-License-Identifier: MIT
#include "benchmarks/measure.hpp"

#include "benchmarks/engine_rollout.hpp"
#include "host/core/median.hpp"
#include "host/cpu/kernels.hpp"
#include "host/reference/rollout.hpp"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace nca::bench {

Timing timing_of(const std::vector<double>& times) {
    const auto [fastest, slowest] = std::ranges::minmax(times);
    return {nca::median(times), fastest, slowest, static_cast<int>(times.size())};
}

Timing measure(int count, const std::function<void()>& work) {
    return measure_queues(count, [&]() -> std::size_t { return work(), 1; });
}

Timing measure_queues(int count, const std::function<std::size_t()>& run) {
    return measure_queues(count, run, [] {
        const auto since = std::chrono::steady_clock::now().time_since_epoch();
        return std::chrono::duration<double, std::milli>(since).count();
    });
}

double peak_arithmetic(int threads) {
    double total = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : total)
    for (int thread = 0; thread < threads; ++thread) total += cpu::measure_peak(200);
    return total;
}

double peak_bandwidth(int threads) {
    constexpr std::size_t size = std::size_t{256} << 20;  // bytes, more than any cache
    std::vector<char> from(size, 1), to(size);
    const std::size_t part = size / threads;
    const auto copy = [&] {
#pragma omp parallel for num_threads(threads)
        for (int thread = 0; thread < threads; ++thread) {
            std::memcpy(to.data() + thread * part, from.data() + thread * part, part);
        }
    };
    const double seconds = measure(5, copy).fastest * 1e-3;
    return 2.0 * static_cast<double>(part) * threads / seconds;
}

double Work::forward_operations() const {
    return forward_rows * 2 * (perception * hidden + hidden * channels);
}

double Work::backward_operations() const {
    // The hidden layer again, and two products each for the two layers.
    return backward_rows * 2 * (3 * perception * hidden + 2 * hidden * channels);
}

namespace {

// Calls visit with each cell of the 3x3 around a cell that lies in the grid.
template <class Visit>
void visit_around(int cell, int height, int width, Edges edges, Visit visit) {
    for (int dy = -1; dy <= 1; ++dy) {
        for (int dx = -1; dx <= 1; ++dx) {
            const int other =
                reference::cell_at(cell / width + dy, cell % width + dx, height, width, edges);
            if (other >= 0) visit(other);
        }
    }
}

}  // namespace

Work count_work(Engine& engine, const Rule& rule, const Tape& tape, const FireKey& key) {
    Work work;
    const ConstStateView shape = tape.last();
    std::vector<float> now_values(shape.size()), next_values(shape.size());
    const auto on_host = [&](const std::vector<float>& values) -> ConstStateView {
        return {values.data(), shape.batch, shape.height, shape.width, MemorySpace::host};
    };
    engine.copy_to_host(next_values, tape.state(0).data);
    const auto nonzero = [](ConstStateView state, int sample, int cell) {
        const float* values = state.cell(sample, 0, 0) + std::ptrdiff_t(cell) * channels;
        return std::any_of(values, values + channels, [](float v) { return v != 0; });
    };
    for (int step = 0; step < tape.steps(); ++step) {
        std::swap(now_values, next_values);
        engine.copy_to_host(next_values, tape.state(step + 1).data);
        const ConstStateView now = on_host(now_values), next = on_host(next_values);
        for (int sample = 0; sample < shape.batch; ++sample) {
            for (int cell = 0; cell < shape.height * shape.width; ++cell) {
                work.living_cells += nonzero(next, sample, cell);
                if (!fires(key, rule.fire_rate, step, sample, cell)) continue;
                bool near = false;
                visit_around(cell, shape.height, shape.width, rule.edges,
                             [&](int other) { near = near || nonzero(now, sample, other); });
                work.forward_rows += near;
                work.backward_rows += near && nonzero(next, sample, cell);
            }
        }
    }
    return work;
}

namespace {

// Relative to the largest value of their kind. In exact and precise: the rounding of sums of up to
// 128 float32 terms through a few steps; operands of 22 bits add little to it. In fast: operands of
// 11 bits are off by at most 2.4e-4 in each of six steps.
double tolerance_of(Precision precision) { return precision == Precision::fast ? 3e-3 : 1e-4; }

// How far the largest alpha around a cell is from the threshold, in the cell where it is closest.
double closest_to_threshold(const Rule& rule, const reference::SampleState<double>& state) {
    double closest = 1;
    for (int cell = 0; cell < state.cells(); ++cell) {
        double largest = 0;
        visit_around(cell, state.height, state.width, rule.edges, [&](int other) {
            largest = std::max(largest, state.cell(other)[alpha_channel]);
        });
        closest = std::min(closest, std::abs(largest - double(living_threshold)));
    }
    return closest;
}

double closest_to_threshold(const Rule& rule, const reference::WeightValues<double>& parameters,
                            const reference::SampleTape<double>& rollout) {
    double closest = 1;
    for (int step = 0; step < rollout.steps(); ++step) {
        const auto& state = rollout.states[step];
        const auto z = reference::step_forward(rule, parameters, state, rollout.fire[step]).z;
        closest = std::min({closest, closest_to_threshold(rule, z),
                            step > 0 ? closest_to_threshold(rule, state) : 1.0});
    }
    return closest;
}

}  // namespace

ReferenceCheck::ReferenceCheck(const Trainer& trainer)
    : model_(trainer.model()), target_(trainer.target()), grid_(trainer.config().grid()) {
    constexpr int steps = 6, most_tries = 30;
    constexpr double wide = 5e-3;
    reference::SampleState<double> start(grid_, grid_);
    const auto values = model_.rule.start_values();
    std::copy(values.begin(), values.end(), start.cell(grid_ / 2 * grid_ + grid_ / 2));
    const reference::WeightValues<double> parameters(model_.weights);
    double widest = -1;
    for (int i = 1; i <= most_tries && widest < wide; ++i) {
        const RolloutOptions options = {steps,
                                        {trainer.config().seed, static_cast<std::uint32_t>(i)}};
        const auto rollout = reference::rollout_forward(model_.rule, parameters, start, options, 0);
        const double closest = closest_to_threshold(model_.rule, parameters, rollout);
        if (closest <= widest) continue;
        widest = closest;
        options_ = options;
    }
    const reference::GradientCheck check(model_.rule, parameters, {start}, target_, options_);
    const auto gradients = check.gradients();
    last_ = check.tapes().front().last().values;
    grad_weights_ = gradients.weights.all;
    grad_first_ = gradients.states.front().values;
}

double ReferenceCheck::error(Engine& engine, Precision precision) const {
    EngineRollout rollout(engine, model_, target_, 1, grid_, options_);
    const Tape tape = rollout.forward_backward();

    double worst = 0;
    const auto compare = [&](const float* got, const std::vector<double>& expected) {
        if (std::isinf(worst)) return;
        std::vector<float> values(expected.size());
        engine.copy_to_host(values, got);
        double largest = 0;
        for (const double e : expected) largest = std::max(largest, std::abs(e));
        for (std::size_t i = 0; i < values.size(); ++i) {
            const double allowed =
                tolerance_of(precision) * (largest + std::abs(expected[i])) + 1e-30;
            const double error = std::abs(values[i] - expected[i]) / allowed;
            // NaN counts as infinitely wrong, and stays.
            worst = std::isfinite(error) ? std::max(worst, error)
                                         : std::numeric_limits<double>::infinity();
            if (std::isinf(worst)) return;
        }
    };
    compare(tape.last().data, last_);
    compare(rollout.grad_weights(), grad_weights_);
    compare(rollout.grad_first(), grad_first_);
    return worst;
}

double step_error(const Model& model, ConstStateView before, ConstStateView after,
                  const FireKey& key, Precision precision) {
    // An update is a tenth of the state at most.
    const double tolerance = tolerance_of(precision) / 10;
    // A cell after a step depends on the 5x5 around it: a crop of 7x7 has its own edges beyond.
    constexpr int reach = 3, side = 2 * reach + 1;
    const reference::WeightValues<double> parameters(model.weights);
    double worst = 0;
    for (int i = 0; i < 400; ++i) {
        const auto words = philox(i, Purpose::damage, {});
        const int y = reach + int(words[0] % std::uint32_t(before.height - 2 * reach));
        const int x = reach + int(words[1] % std::uint32_t(before.width - 2 * reach));
        const int sample = int(words[2] % std::uint32_t(before.batch));
        reference::SampleState<double> crop(side, side);
        reference::Mask fire(crop.cells());
        for (int cell = 0; cell < crop.cells(); ++cell) {
            const int cy = y - reach + cell / side, cx = x - reach + cell % side;
            std::copy_n(before.cell(sample, cy, cx), channels, crop.cell(cell));
            fire[cell] = fires(key, model.rule.fire_rate, 0, std::uint32_t(sample),
                               std::uint32_t(cy) * std::uint32_t(before.width) + cx);
        }
        const auto step = reference::step_forward(model.rule, parameters, crop, fire);
        const double* expected = step.next.cell(crop.cells() / 2);
        for (int c = 0; c < channels; ++c) {
            const double got = after.cell(sample, y, x)[c];
            const double error =
                std::abs(got - expected[c]) / (tolerance * (1 + std::abs(expected[c])));
            if (!(error <= worst)) worst = error;
            if (std::isnan(worst)) return std::numeric_limits<double>::infinity();
        }
    }
    return worst;
}

namespace {

// A line of /proc/self/status that counts kilobytes, in bytes; 0 where there is none.
double process_memory(const std::string& name) {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.starts_with(name)) return std::stod(line.substr(name.size())) * 1024;
    }
    return 0;
}

double memory_at_reset = 0;

}  // namespace

void reset_peak_memory() {
    std::ofstream("/proc/self/clear_refs") << 5;
    memory_at_reset = process_memory("VmRSS:");
}

double peak_memory() { return process_memory("VmHWM:") - memory_at_reset; }

}  // namespace nca::bench
