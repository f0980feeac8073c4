// SPDX-License-Identifier: MIT
#include "benchmarks/unfused_rows.hpp"

#include "benchmarks/baseline.hpp"
#include "benchmarks/dense_work.hpp"
#include "benchmarks/preset_training.hpp"

#include <nca/engine.hpp>
#include <nca/error.hpp>
#include <nca/model.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace nca::bench {
namespace {

Row unfused_row(int batch, int height, int width, int steps, bool tf32 = false) {
    return row_of({.name = tf32 ? "  cuBLAS, TF32" : "  cuBLAS",
                   .engine = "cuBLAS and cuRAND",
                   .precision = tf32 ? "tf32" : "float32",
                   .batch = batch,
                   .height = height,
                   .width = width,
                   .steps = steps});
}

// Throws Error where the steps without fusing are not those of the engine. Every cell fires, since
// cuRAND draws other masks than we do.
void check_unfused(Engine& engine, const Rule& preset_rule, bool tf32) {
    constexpr int side = 40, steps = 4;
    Model model = dense_model(preset_rule);
    model.rule.fire_rate = 1;
    State state = engine.make_state(1, side, side);
    engine.copy_from_host(state.view().data, dense_state(1, side, side));
    const auto unfused = make_unfused(model, 1, side, side, steps, tf32);
    unfused->forward(state.view().data, steps);
    engine.advance(model, state.view(), {steps, {}});
    std::vector<float> ours(state.view().size()), theirs(ours.size());
    engine.copy_to_host(ours, state.view().data);
    unfused->result(theirs);
    const double tolerance = tf32 ? 1e-2 : 1e-4;
    for (std::size_t i = 0; i < ours.size(); ++i) {
        if (!(std::abs(ours[i] - theirs[i]) <= tolerance * (1 + std::abs(ours[i])))) {
            throw Error(
                fmt::format("the steps by cuBLAS give {} where ours give {}: their times "
                            "mean nothing",
                            theirs[i], ours[i]));
        }
    }
}

void bench_training(const Setting& setting, const TrainingConfig& config) {
    const int grid = config.grid(), count = setting.options.count;
    const Model model{config.rule, Weights(config.output_bias), {}, {}};
    const auto engine = make_engine(setting.options.plain_device());
    const State state = engine->make_state(config.batch, grid, grid);
    const float* first = state.view().data;
    for (const bool tf32 : {false, true}) {
        check_unfused(*engine, config.rule, tf32);
        const auto unfused = make_unfused(model, config.batch, grid, grid, timed_steps, tf32);
        const Timing forward = measure(count, [&] { unfused->forward(first, timed_steps); });
        const Timing both = measure(count, [&] { unfused->forward_backward(first, timed_steps); });
        const double cell_steps = double(config.batch) * grid * grid * timed_steps;
        Row row = unfused_row(config.batch, grid, grid, timed_steps, tf32);
        row.update({{"forward_ms", to_json(forward)},
                    {"forward_backward_ms", to_json(both)},
                    {"cell_steps_per_second", cell_steps / (both.median * 1e-3)}});
        setting.report.add(row);
    }
}

void bench_step(const Setting& setting, const Inference& work) {
    constexpr int largest = 2048;
    const int height = std::min(work.height, largest), width = std::min(work.width, largest);
    const int batch = std::clamp(largest * largest / (height * width), 1, work.batch);
    const auto engine = make_engine(setting.options.plain_device());
    const Model model = dense_model(work.rule);
    State state = engine->make_state(batch, height, width);
    engine->copy_from_host(state.view().data, dense_state(batch, height, width));
    for (const bool tf32 : {false, true}) {
        const auto unfused = make_unfused(model, batch, height, width, 0, tf32);
        const Timing step =
            measure(setting.options.count, [&] { unfused->step(state.view().data); });
        Row row = unfused_row(batch, height, width, 1, tf32);
        row.update(
            {{"forward_ms", to_json(step)},
             {"cell_steps_per_second", double(batch) * height * width / (step.median * 1e-3)}});
        setting.report.add(row);
    }
}

}  // namespace

void add_unfused_rows(const Setting& setting, const TrainingConfig& config) {
    if (!has_unfused()) return;
    setting.report.run(unfused_row(config.batch, config.grid(), config.grid(), timed_steps),
                       [&] { bench_training(setting, config); });
}

void add_unfused_rows(const Setting& setting, const Inference& work) {
    if (!has_unfused()) return;
    setting.report.run(unfused_row(work.batch, work.height, work.width, 1),
                       [&] { bench_step(setting, work); });
}

}  // namespace nca::bench
