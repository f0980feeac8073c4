// SPDX-License-Identifier: MIT
#include "benchmarks/measure.hpp"

#include "host/cpu/kernels.hpp"
#include "host/reference/rollout.hpp"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

namespace nca::bench {

Timing measure(int count, const std::function<void()>& work) {
    work();
    std::vector<double> times;
    for (int i = 0; i < count; ++i) {
        const auto start = std::chrono::steady_clock::now();
        work();
        const std::chrono::duration<double, std::milli> time =
            std::chrono::steady_clock::now() - start;
        times.push_back(time.count());
    }
    std::sort(times.begin(), times.end());
    const std::size_t middle = times.size() / 2;
    const double median =
        times.size() % 2 != 0 ? times[middle] : (times[middle - 1] + times[middle]) / 2;
    return {median, times.front(), times.back(), count};
}

double peak_arithmetic(int threads) {
    double total = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : total)
    for (int thread = 0; thread < threads; ++thread) total += cpu::measure_peak(200);
    return total;
}

double peak_bandwidth(int threads) {
    constexpr std::size_t size = std::size_t{16} << 20;  // 64 MB, more than the cache
    std::vector<float> from(size, 1.0F);
    std::vector<float> to(size);
    const auto copy = [&] {
#pragma omp parallel for num_threads(threads)
        for (std::size_t i = 0; i < size; ++i) to[i] = from[i];
    };
    const double seconds = measure(5, copy).fastest * 1e-3;
    return 2.0 * size * sizeof(float) / seconds;
}

double Work::forward_operations() const {
    return forward_rows * 2 * (perception * hidden + hidden * channels);
}

double Work::backward_operations() const {
    // The hidden layer again, and two products each for the two layers.
    return backward_rows * 2 * (3 * perception * hidden + 2 * hidden * channels);
}

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
                for (int dy = -1; dy <= 1; ++dy) {
                    for (int dx = -1; dx <= 1; ++dx) {
                        const int other =
                            reference::cell_at(cell / shape.width + dy, cell % shape.width + dx,
                                               shape.height, shape.width, rule.edges);
                        near = near || (other >= 0 && nonzero(now, sample, other));
                    }
                }
                work.forward_rows += near;
                work.backward_rows += near && nonzero(next, sample, cell);
            }
        }
    }
    return work;
}

double error_against_reference(Engine& engine, const Trainer& trainer) {
    const Model model = trainer.model();
    const int grid = trainer.config().grid();
    const RolloutOptions options{8, {trainer.config().seed, 1}};
    State start = engine.make_state(1, grid, grid);
    engine.copy_from_host(start.view().cell(0, grid / 2, grid / 2), model.rule.start_values());

    const Tape tape = engine.forward(model, start.view(), options);
    State grad_state = engine.make_state(1, grid, grid);
    Buffer target = engine.allocate(trainer.target().size());
    engine.copy_from_host(target.data(), trainer.target());
    Buffer report = engine.allocate(2);
    engine.loss(grad_state.view(), report.data(), report.data() + 1, tape.last(),
                {target.data(), grid, grid});
    Buffer grad = engine.allocate(model.weights.all().size());
    engine.backward(tape, grad_state.view(),
                    view_parameters(grad.data(), model.weights.has_output_bias()), Accumulate::no);

    std::vector<float> first(start.view().size());
    engine.copy_to_host(first, start.view().data);
    const reference::GradientCheck check(
        model.rule, reference::Parameters<double>(model.weights),
        reference::split_batch<double>({first.data(), 1, grid, grid, MemorySpace::host}),
        trainer.target(), options);

    double worst = 0;
    const auto compare = [&](const float* got, const std::vector<double>& expected) {
        if (std::isinf(worst)) return;
        std::vector<float> values(expected.size());
        engine.copy_to_host(values, got);
        double largest = 0;
        for (const double e : expected) largest = std::max(largest, std::abs(e));
        for (std::size_t i = 0; i < values.size(); ++i) {
            // Sums of up to 128 terms through eight steps, relative to the largest of their kind.
            const double allowed = 1e-4 * (largest + std::abs(expected[i])) + 1e-30;
            const double error = std::abs(values[i] - expected[i]) / allowed;
            // NaN counts as infinitely wrong, and stays.
            worst = std::isfinite(error) ? std::max(worst, error)
                                         : std::numeric_limits<double>::infinity();
            if (std::isinf(worst)) return;
        }
    };
    compare(tape.last().data, check.rollouts().front().last().values);
    const auto gradients = check.gradients();
    compare(grad.data(), gradients.parameters.all);
    compare(grad_state.view().data, gradients.states.front().values);
    return worst;
}

double step_error(const Model& model, ConstStateView before, ConstStateView after,
                  const FireKey& key) {
    // A cell after a step depends on the 5x5 around it: a crop of 7x7 has its own edges beyond.
    constexpr int reach = 3, side = 2 * reach + 1;
    const reference::Parameters<double> parameters(model.weights);
    double worst = 0;
    for (int i = 0; i < 400; ++i) {
        const auto words = philox(i, Purpose::damage, {});
        const int y = reach + int(words[0] % std::uint32_t(before.height - 2 * reach));
        const int x = reach + int(words[1] % std::uint32_t(before.width - 2 * reach));
        reference::Grid<double> crop(side, side);
        reference::Mask fire(crop.cells());
        for (int cell = 0; cell < crop.cells(); ++cell) {
            const int cy = y - reach + cell / side, cx = x - reach + cell % side;
            std::copy_n(before.cell(0, cy, cx), channels, crop.cell(cell));
            fire[cell] = fires(key, model.rule.fire_rate, 0, 0,
                               std::uint32_t(cy) * std::uint32_t(before.width) + cx);
        }
        const auto step = reference::step_forward(model.rule, parameters, crop, fire);
        const double* expected = step.next.cell(crop.cells() / 2);
        for (int c = 0; c < channels; ++c) {
            const double got = after.cell(0, y, x)[c];
            const double error = std::abs(got - expected[c]) / (1e-5 * (1 + std::abs(expected[c])));
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
