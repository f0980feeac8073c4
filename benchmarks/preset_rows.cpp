// SPDX-License-Identifier: MIT
#include "benchmarks/preset_rows.hpp"

#include "benchmarks/dense_work.hpp"
#include "benchmarks/engine_rollout.hpp"
#include "benchmarks/gpu.hpp"
#include "benchmarks/preset_training.hpp"
#include "benchmarks/side_by_side.hpp"
#include "benchmarks/unfused_rows.hpp"

#include <nca/error.hpp>

#include <fmt/format.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace nca::bench {
namespace {

// The rows of one preset by our engine.
class PresetRows {
public:
    PresetRows(const Setting& setting, std::string name)
        : setting_(setting),
          options_(setting.options),
          name_(std::move(name)),
          config_(timed_config(name_, options_)),
          checkpoint_(name_, options_) {}

    void run() {
        std::vector<Device> measured;
        for (const Device& device : options_.devices(setting_.gpu)) {
            const Row row = row_of(name_, device);
            if (setting_.add_obstacle(row, device)) continue;
            if (setting_.report.run(row, [&] { bench(device); })) measured.push_back(device);
        }
        if (options_.automata == 1) return;
        for (const Device& device : measured) {
            Row row = row_of(side_by_side_name(options_.automata), device);
            row["preset"] = name_;
            setting_.report.run(row, [&] { bench_side_by_side(device); });
        }
    }

private:
    Row row_of(const std::string& name, const Device& device) const {
        return setting_.row_of({.name = name,
                                .batch = config_.batch,
                                .height = config_.grid(),
                                .width = config_.grid(),
                                .steps = timed_steps},
                               device);
    }

    static std::string side_by_side_name(int automata) {
        return automata == 1 ? "  one training" : fmt::format("  {} side by side", automata);
    }

    double cell_steps() const {
        return double(config_.batch) * config_.grid() * config_.grid() * timed_steps;
    }

    // Throws Error where the engine is wrong.
    void bench(const Device& device) {
        reset_peak_memory();
        const double memory_before = setting_.gpu ? gpu_memory_in_use() : 0;
        Trainer trainer = train(name_, device, checkpoint_, options_);
        checkpoint_.save(trainer);
        Engine& engine = trainer.engine();
        const std::int64_t trained = trainer.iteration();
        const double error = checked_error(trainer);
        const Timing training =
            measure_queues(options_.count, [&] { return trainer.iterate(plenty).size(); });
        if (options_.dense) check_dense(trainer.states_after());
        const double memory = setting_.gpu ? gpu_memory_in_use() - memory_before : peak_memory();

        const int grid = config_.grid();
        EngineRollout rollout(engine, trainer.model(), trainer.target(), config_.batch, grid,
                              {timed_steps, {}});
        if (options_.dense) rollout.set_state(dense_state(config_.batch, grid, grid));
        Waiter wait(engine);
        const Timing forward = measure(options_.count, [&] {
            rollout.forward();
            wait();
        });
        const Timing both = measure(options_.count, [&] {
            const Tape tape = rollout.forward_backward();
            wait();
        });
        if (!work_) work_ = count_work(engine, config_.rule, rollout.forward(), {});

        Row row = row_of(name_, device);
        row["engine"] = engine.description();
        if (options_.dense) row["dense"] = true;
        if (setting_.gpu) {
            row["rollout_form"] = engine.rollout_form(config_.batch, grid, grid, config_.rule).text;
        }
        row.update({{"trained_iterations", trained},
                    {"forward_ms", to_json(forward)},
                    {"forward_backward_ms", to_json(both)},
                    {"training_ms", to_json(training)}});
        add_rates(row, training);
        row.update({{"peak_memory_bytes", memory}, {"error_in_tolerances", error}});
        if (setting_.gpu) {
            const Gpu card = setting_.card();
            const RolloutCase timed = rollout_case(device);
            row["prediction"] = {
                {"forward", to_json(predicted_forward(card, timed), forward.median)},
                {"forward_backward", to_json(predicted_forward_backward(card, timed), both.median)},
                {"training", to_json(predicted_training(card, timed), training.median)}};
        }
        setting_.report.add(row);
    }

    // How far the engine is from the reference, in tolerances. Throws Error where that is too far.
    double checked_error(Trainer& trainer) {
        if (!check_) check_.emplace(trainer);
        Engine& engine = trainer.engine();
        const double error = check_->error(engine, engine.precision());
        if (!(error <= 1)) {
            throw Error(fmt::format(
                "the engine is {:.3g} tolerances away from the double reference; its times "
                "mean nothing",
                error));
        }
        return error;
    }

    void add_rates(Row& row, const Timing& training) const {
        const double seconds = training.median * 1e-3;
        const double operations = work_->forward_operations() + work_->backward_operations();
        // Each living state is written once and read twice, its gradient read and written once.
        const double bytes = work_->living_cells * channels * sizeof(float) * 5;
        const Machine& machine = setting_.machine;
        row.update({{"cell_steps_per_second", cell_steps() / seconds},
                    {"operations", operations},
                    {"peak_arithmetic_fraction", operations / seconds / machine.arithmetic},
                    {"peak_bandwidth_fraction", bytes / seconds / machine.bandwidth}});
    }

    RolloutCase rollout_case(const Device& device) const {
        return {.batch = config_.batch,
                .height = config_.grid(),
                .width = config_.grid(),
                .steps = timed_steps,
                .precision = device.precision.value(),
                .form = device.rollout,
                .engines_on_device = device.engines_on_device,
                .forward_rows = work_->forward_rows / timed_steps,
                .backward_rows = work_->backward_rows / timed_steps};
    }

    // Trainings side by side, and before them one alone on the same device.
    void bench_side_by_side(const Device& device) {
        constexpr int rounds = 5;
        double alone = 0;
        for (const int automata : {1, options_.automata}) {
            Device shared = device;
            shared.engines_on_device = automata;
            const Timing each = time_side_by_side(automata, rounds, [&] {
                Trainer trainer = make_trainer(config_, shared, options_);
                checkpoint_.resume(trainer);
                return trainer;
            });
            if (automata == 1) alone = each.median;
            const double to_alone = each.median / alone;
            const double predicted = predicted_training(setting_.card(), rollout_case(shared));
            Row row = row_of(side_by_side_name(automata), device);
            row.update({{"preset", name_},
                        {"automata", automata},
                        {"training_ms", to_json(each)},
                        {"to_alone", to_alone},
                        {"cell_steps_per_second", cell_steps() / (each.median * 1e-3)}});
            row["prediction"] = {{"training", to_json(predicted, each.median)}};
            setting_.report.add(row);
            if (automata > 1) {
                fmt::print("    each takes {:.3f} of the time of one alone\n", to_alone);
            }
        }
    }

    const Setting& setting_;
    const Options& options_;
    std::string name_;
    TrainingConfig config_;
    SharedCheckpoint checkpoint_;
    // Known after the first row; the others have the same.
    std::optional<ReferenceCheck> check_;
    std::optional<Work> work_;
};

}  // namespace

void bench_presets(const Setting& setting) {
    setting.report.begin(Table::training);
    for (const std::string& name : setting.options.presets()) {
        PresetRows(setting, name).run();
        if (setting.gpu) add_unfused_rows(setting, timed_config(name, setting.options));
    }
}

}  // namespace nca::bench
