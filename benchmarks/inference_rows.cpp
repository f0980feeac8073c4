// SPDX-License-Identifier: MIT
#include "benchmarks/inference_rows.hpp"

#include "benchmarks/dense_work.hpp"
#include "benchmarks/gpu.hpp"
#include "benchmarks/preset_training.hpp"
#include "benchmarks/unfused_rows.hpp"

#include <nca/engine.hpp>
#include <nca/error.hpp>
#include <nca/model.hpp>

#include <fmt/format.h>

#include <cstddef>
#include <optional>
#include <vector>

namespace nca::bench {
namespace {

constexpr int steps_of_call = 4;  // without a tape

std::vector<Inference> inferences_of(const Options& options, bool gpu) {
    if (options.size && !options.inference) {
        const TrainingConfig config = timed_config(options.presets().front(), options);
        return {{.batch = config.batch,
                 .height = options.size->height,
                 .width = options.size->width,
                 .rule = config.rule,
                 .steps = timed_steps,
                 .is_rollout = true}};
    }
    const auto steps_of = [&](int batch, int height, int width) -> Inference {
        return {.batch = batch,
                .height = height,
                .width = width,
                .rule = {.fire_rate = options.fire_rate},
                .steps = steps_of_call};
    };
    if (options.size) return {steps_of(options.batch, options.size->height, options.size->width)};
    // The grids of the second are too large for a cluster of blocks.
    if (gpu) return {steps_of(1, 4096, 4096), steps_of(64, 256, 256)};
    return {steps_of(1, 512, 512), steps_of(8, 128, 128)};
}

// Seconds of a call; nothing where they are not known.
std::optional<double> predicted_call(const Inference& work, const Device& device, double copy_rate,
                                     const Gpu& card) {
    const Precision precision = device.precision.value();
    if (work.is_rollout || device.rollout == RolloutForm::bands) {
        return predicted_forward(card, {.batch = work.batch,
                                        .height = work.height,
                                        .width = work.width,
                                        .steps = work.steps,
                                        .precision = precision,
                                        .form = device.rollout,
                                        .forward_rows = work.cells() * work.rule.fire_rate});
    }
    if (work.rule.fire_rate != counted_fire_rate) return {};
    return work.steps * predicted_step(card, work.cells(), precision, copy_rate);
}

Row inference_row(const Setting& setting, const Inference& work, const Device& device) {
    Row row = setting.row_of({.name = "inference",
                              .batch = work.batch,
                              .height = work.height,
                              .width = work.width,
                              .steps = work.steps},
                             device);
    row["fire_rate"] = work.rule.fire_rate;
    return row;
}

// A batch in the engine's memory in which every cell lives.
class DenseGrids {
public:
    DenseGrids(Engine& engine, const Inference& work)
        : engine_(engine),
          model_(dense_model(work.rule)),
          host_(dense_state(work.batch, work.height, work.width)),
          state_(engine.make_state(work.batch, work.height, work.width)),
          weights_(engine.allocate(model_.weights.all().size())) {
        engine.copy_from_host(state_.view().data, host_);
        engine.copy_from_host(weights_.data(), model_.weights.all());
    }

    void advance(int steps) {
        engine_.advance(model_.rule, view_parameters<const float>(weights_.data(), true),
                        state_.view(), {steps, {}});
    }

    // Of the first step, in tolerances. Throws Error where that is too far from the reference.
    double checked_error() {
        const std::vector<float> before = host_;
        advance(1);
        const double error =
            step_error(model_, on_host(before), on_host(read()), {}, engine_.precision());
        if (!(error <= 1)) {
            throw Error(fmt::format(
                "a step is {:.3g} tolerances away from the double reference; its time means "
                "nothing",
                error));
        }
        return error;
    }

    const std::vector<float>& read() {
        engine_.copy_to_host(host_, state_.view().data);
        return host_;
    }

private:
    ConstStateView on_host(const std::vector<float>& values) {
        const StateView view = state_.view();
        return {values.data(), view.batch, view.height, view.width, MemorySpace::host};
    }

    Engine& engine_;
    Model model_;
    std::vector<float> host_;
    State state_;
    Buffer weights_;
};

// Throws Error where the engine is wrong.
void bench(const Setting& setting, const Inference& work, const Device& device) {
    const Machine& machine = setting.machine;
    const double bytes = step_bytes(work.cells());
    const double copy_rate =
        setting.gpu ? gpu_copy_rate(device.index, std::size_t(bytes / 2)) : machine.bandwidth;
    const auto engine = make_engine(device);
    DenseGrids grids(*engine, work);
    const double error = grids.checked_error();

    Waiter wait(*engine);
    // On a GPU several calls are queued before one waits, so that waiting is hardly counted.
    const std::size_t calls = setting.gpu && !work.is_rollout ? 8 : 1;
    const auto time_calls = [&](int steps) {
        return measure_queues(setting.options.count, [&] {
            for (std::size_t i = 0; i < calls; ++i) grids.advance(steps);
            wait();
            return calls;
        });
    };
    const Timing call = time_calls(work.steps);
    const std::optional<Timing> single =
        work.is_rollout ? std::nullopt : std::optional(time_calls(1));
    check_dense(grids.read());

    const double seconds = call.median * 1e-3 / work.steps;
    Work per_step;
    per_step.forward_rows = work.cells() * work.rule.fire_rate;
    Row row = inference_row(setting, work, device);
    row["engine"] = engine->description();
    row.update(
        {{"forward_ms", to_json(call)},
         {"step_ms", seconds * 1e3},
         {"cell_steps_per_second", work.cells() / seconds},
         {"bytes_per_step", bytes},
         {"bytes_per_second", bytes / seconds},
         {"copy_bytes_per_second", copy_rate},
         {"copy_fraction", bytes / seconds / copy_rate},
         {"peak_arithmetic_fraction", per_step.forward_operations() / seconds / machine.arithmetic},
         {"error_in_tolerances", error}});
    if (single) row["single_step_ms"] = to_json(*single);
    if (work.is_rollout) row["rollouts_per_second"] = 1e3 / call.median;
    if (setting.gpu) {
        row["rollout_form"] = engine->rollout_form(work.batch, work.height, work.width).text;
        if (device.rollout == RolloutForm::steps && work.rule.fire_rate == counted_fire_rate) {
            row["instructions_per_128_cells"] = step_instructions(engine->precision());
        }
        if (const auto predicted = predicted_call(work, device, copy_rate, setting.card())) {
            row["prediction"] = {{"forward", to_json(*predicted, call.median)}};
        }
    }
    setting.report.add(row);
    if (work.is_rollout) fmt::print("    {:.4g} rollouts a second\n", 1e3 / call.median);
}

}  // namespace

std::string inference_text(const Options& options) {
    return fmt::format("{} runs each, calls of {} steps, every cell alive, fire rate {:g}",
                       options.count, steps_of_call, options.fire_rate);
}

void bench_inferences(const Setting& setting) {
    setting.report.begin(Table::inference);
    for (const Inference& work : inferences_of(setting.options, setting.gpu)) {
        for (const Device& device : setting.options.devices(setting.gpu)) {
            // Steps are one kernel each unless bands are asked for.
            if (setting.gpu && !work.is_rollout && setting.options.rollout == "all" &&
                device.rollout != RolloutForm::steps) {
                continue;
            }
            const Row row = inference_row(setting, work, device);
            if (setting.add_obstacle(row, device)) continue;
            setting.report.run(row, [&] { bench(setting, work, device); });
        }
        if (setting.gpu) add_unfused_rows(setting, work);
    }
}

}  // namespace nca::bench
