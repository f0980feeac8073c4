// SPDX-License-Identifier: MIT
// Times one step forward, forward and backward, and a training iteration of each preset, on weights
// that have been trained for a while, because how much can be skipped depends on what has grown;
// and steps without a tape of grids that are alive all over, beside the rate of a copy. On a GPU
// every precision and form of the rollout that it can have is a row, with what an H200 is predicted
// to take for it; the same steps without fusing stand beside them, and trainings side by side where
// that is wanted.
#include "benchmarks/baseline.hpp"
#include "benchmarks/dense_work.hpp"
#include "benchmarks/gpu.hpp"
#include "benchmarks/measure.hpp"
#include "benchmarks/prediction.hpp"
#include "benchmarks/side_by_side.hpp"
#include "benchmarks/table.hpp"
#include "host/cpu/kernels.hpp"
#include "host/files/atomic_file.hpp"

#include <nca/nca.hpp>

#include <fmt/format.h>
#include <omp.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace nca::bench {
namespace {

constexpr int timed_steps = 80;   // the middle of 64 .. 95
constexpr int steps_of_call = 4;  // without a tape
constexpr int least_side = 8, most_side = 16384;
constexpr std::int64_t most_cells = std::int64_t{most_side} * most_side;
constexpr int plenty = 1000;  // of iterations: an engine takes as many as it likes at once

struct GridSize {
    int height = 0;
    int width = 0;
};

struct Options {
    std::string preset = "all";
    std::string target = "data/lizard.png";
    std::string device = "auto";
    std::string precision = "all";
    std::string rollout = "all";
    int threads = 0;
    int train = 500;
    std::string resume;
    int count = 20;
    int automata = 1;
    std::optional<GridSize> size;
    bool dense = false;
    bool inference = false;
    bool no_inference = false;
    int batch = 1;           // of inference
    float fire_rate = 0.5F;  // the same
    std::string json;

    Device on() const {
        Device parsed = Device::parse(device);
        parsed.threads = threads;
        return parsed;
    }
    std::vector<std::string> presets() const {
        if (inference) return {};
        if (preset == "all") return {"notebook", "growing"};
        return {preset};
    }
    // Those that are asked for, the most exact first.
    std::vector<Precision> precisions() const {
        if (precision != "all") return {parse_precision(precision)};
        return {Precision::exact, Precision::precise, Precision::fast};
    }
};

constexpr std::array<std::pair<const char*, RolloutForm>, 2> forms = {
    {{"steps", RolloutForm::steps}, {"bands", RolloutForm::bands}}};

std::string name_of(RolloutForm wanted) {
    for (const auto& [text, form] : forms) {
        if (form == wanted) return text;
    }
    return "automatic";
}

bool on_gpu(const Engine& engine) { return engine.memory_space() == MemorySpace::device; }

// What a run is measured against, and how its rows are printed.
struct Setting {
    bool gpu = false;
    Machine machine;
    Gpu card;
    std::function<void(const Row&)> keep;  // in the results, which are written at once
    void (*print)(const Row&, bool gpu) = print_training_row;

    void add(const Row& row) const {
        print(row, gpu);
        std::fflush(stdout);
        keep(row);
    }
    // A row that is there for its problem alone: the engine was wrong, or a device failed.
    void add_failure(Row row, const std::string& problem) const {
        row["problem"] = problem;
        row["failed"] = true;
        add(row);
    }
};

// The devices to measure: on a GPU the same one in each precision and form.
std::vector<Device> variants(const Options& options, bool gpu) {
    Device device = options.on();
    if (!gpu) return {device};
    std::vector<Device> result;
    for (const Precision precision : options.precisions()) {
        for (const auto& [text, form] : forms) {
            // All that there can be: exact has kernels for single steps only.
            if (options.rollout == "all" && precision == Precision::exact &&
                form != RolloutForm::steps) {
                continue;
            }
            if (options.rollout != "all" && options.rollout != text) continue;
            device.precision = precision;
            device.rollout = form;
            result.push_back(device);
        }
    }
    return result;
}

std::string precision_of(const Device& device, bool gpu) {
    return gpu ? std::string(name(device.precision.value())) : "float32";
}

// Why a grid cannot be had on a device in its precision and form; empty where it can.
std::string obstacle(const Device& device, int batch, int height, int width) {
    try {
        const auto engine = make_engine(device);
        const ChosenForm chosen = engine->rollout_form(batch, height, width);
        return device.rollout == RolloutForm::bands && chosen.form != RolloutForm::bands
                   ? fmt::format("the engine has another form: {}", chosen.text)
                   : "";
    } catch (const CudaError& error) {
        return error.what();
    }
}

// What a preset's rows train, on the grid that is asked for.
TrainingConfig timed_config(const std::string& preset_name, const Options& options) {
    TrainingConfig config = preset(preset_name);
    config.fewest_steps = timed_steps;
    config.most_steps = timed_steps + 1;
    if (options.dense) {
        return dense_config(config, options.size ? options.size->height : config.grid());
    }
    if (options.size) {
        config.target_size = options.size->height - 2 * config.padding;
        if (config.target_size < 8) {
            throw InvalidArgument(fmt::format(
                "--size {}x{} leaves no room for a target of 8 cells inside the padding of {} that "
                "preset {} has: give a larger size, or --dense",
                options.size->height, options.size->width, config.padding, preset_name));
        }
    }
    return config;
}

Trainer make_trainer(const TrainingConfig& config, const Device& device, const Options& options) {
    return Trainer(options.dense ? dense_target(config.grid()) : load_target(options.target),
                   config, device);
}

// A checkpoint that all variants of a preset go on from, so that they have the same work.
class SharedCheckpoint {
public:
    SharedCheckpoint(const std::string& preset_name, const Options& options)
        : path_(options.resume), is_mine_(options.resume.empty()) {
        if (!is_mine_) return;
        path_ = std::filesystem::temp_directory_path() /
                fmt::format("bench_step_{}_{}.checkpoint", preset_name, getpid());
        if (!options.dense) return;
        save_dense_checkpoint(path_, timed_config(preset_name, options));
        is_saved_ = true;
    }
    ~SharedCheckpoint() {
        std::error_code ignored;
        if (is_mine_) std::filesystem::remove(path_, ignored);
    }
    SharedCheckpoint(const SharedCheckpoint&) = delete;
    SharedCheckpoint& operator=(const SharedCheckpoint&) = delete;

    void resume(Trainer& trainer) const {
        if (!is_mine_ || is_saved_) trainer.resume(path_);
    }
    void save(const Trainer& trainer) {
        if (is_mine_ && !is_saved_) trainer.save_checkpoint(path_);
        is_saved_ = true;
    }

private:
    std::filesystem::path path_;
    bool is_mine_;
    bool is_saved_ = false;
};

// A line that changes, where somebody looks at it. A log has the rows.
void show(const std::string& line) {
    if (isatty(STDERR_FILENO) != 0) fmt::print(stderr, "\r{:40}\r{}", "", line);
}

// Trains one preset, from the checkpoint if there is one, and waits until it is there.
Trainer train(const std::string& name, const Device& device, const SharedCheckpoint& checkpoint,
              const Options& options) {
    Trainer trainer = make_trainer(timed_config(name, options), device, options);
    checkpoint.resume(trainer);
    const int wanted = options.dense ? 0 : options.train;
    while (trainer.iteration() < wanted) {
        trainer.iterate(int(wanted - trainer.iteration()));
        show(fmt::format("{}: training {}/{}", name, trainer.iteration(), wanted));
    }
    show("");
    return trainer;
}

// Throws Error where a cell of a dense grid is empty: something could be skipped.
void check_dense(const std::vector<float>& states) {
    for (std::size_t i = alpha_channel; i < states.size(); i += channels) {
        if (!(states[i] > living_threshold)) {
            throw Error("a cell of the dense grid died; its times mean nothing");
        }
    }
}

// What is known of a preset after its first variant, and holds for all.
struct PresetWork {
    std::optional<ReferenceCheck> check;
    std::optional<Work> work;
};

RolloutCase rollout_case(const Device& device, const TrainingConfig& config, const Work& work) {
    return {.batch = config.batch,
            .height = config.grid(),
            .width = config.grid(),
            .steps = timed_steps,
            .precision = device.precision.value(),
            .form = device.rollout,
            .engines_on_device = device.engines_on_device,
            .forward_rows = work.forward_rows / timed_steps,
            .backward_rows = work.backward_rows / timed_steps};
}

Row variant_row(const std::string& name, const Device& device, const TrainingConfig& config,
                const Setting& setting) {
    Row row = row_of(name, "", precision_of(device, setting.gpu), config.batch, config.grid(),
                     config.grid(), timed_steps);
    if (setting.gpu) row["rollout"] = name_of(device.rollout);
    return row;
}

// One preset on one device. Throws Error where the engine is wrong.
void bench_variant(const std::string& name, const Device& device, SharedCheckpoint& checkpoint,
                   PresetWork& known, const Options& options, const Setting& setting) {
    reset_peak_memory();
    const double memory_before = setting.gpu ? gpu_memory_in_use() : 0;
    Trainer trainer = train(name, device, checkpoint, options);
    checkpoint.save(trainer);
    Engine& engine = trainer.engine();
    const TrainingConfig& config = trainer.config();
    const std::int64_t trained = trainer.iteration();

    if (!known.check) known.check.emplace(trainer);
    const double error = known.check->error(engine, engine.precision());
    if (!(error <= 1)) {
        throw Error(
            fmt::format("the engine is {:.3g} tolerances away from the double reference; its times "
                        "mean nothing",
                        error));
    }

    const Timing training =
        measure_queues(options.count, [&] { return trainer.iterate(plenty).size(); });
    if (options.dense) check_dense(trainer.states_after());
    const double memory = setting.gpu ? gpu_memory_in_use() - memory_before : peak_memory();

    const Model model = trainer.model();
    const int grid = config.grid();
    State state = engine.make_state(config.batch, grid, grid);
    State grad_state = engine.make_state(config.batch, grid, grid);
    if (options.dense) {
        engine.copy_from_host(state.view().data, dense_state(config.batch, grid, grid));
    } else {
        const auto start = config.rule.start_values();
        for (int sample = 0; sample < config.batch; ++sample) {
            engine.copy_from_host(state.view().cell(sample, grid / 2, grid / 2), start);
        }
    }
    Buffer target = engine.allocate(trainer.target().size());
    engine.copy_from_host(target.data(), trainer.target());
    Buffer grad_weights = engine.allocate(model.weights.all().size());
    Buffer losses = engine.allocate(std::size_t(config.batch) * 2);
    Buffer weights = engine.allocate(model.weights.all().size());
    engine.copy_from_host(weights.data(), model.weights.all());
    const bool bias = model.weights.has_output_bias();
    const auto weights_view = view_parameters<const float>(weights.data(), bias);
    const WeightsView grad_view = view_parameters(grad_weights.data(), bias);
    const RolloutOptions rollout{timed_steps, {}};
    Waiter wait(engine);
    const Timing forward = measure(options.count, [&] {
        engine.forward(model.rule, weights_view, state.view(), rollout);
        wait();
    });
    const Timing both = measure(options.count, [&] {
        const Tape tape = engine.forward(model.rule, weights_view, state.view(), rollout);
        engine.loss(grad_state.view(), losses.data(), losses.data() + config.batch, tape.last(),
                    {target.data(), grid, grid});
        engine.backward(tape, grad_state.view(), grad_view, Accumulate::no);
        wait();
    });

    if (!known.work) {
        known.work =
            count_work(engine, model.rule,
                       engine.forward(model.rule, weights_view, state.view(), rollout), {});
    }
    const Work& work = *known.work;
    const double cell_steps = double(config.batch) * grid * grid * timed_steps;
    const double seconds = training.median * 1e-3;
    const double operations = work.forward_operations() + work.backward_operations();
    // Each living state is written once and read twice, its gradient read and written once.
    const double bytes = work.living_cells * channels * sizeof(float) * 5;
    Row row = variant_row(name, device, config, setting);
    row["engine"] = engine.description();
    if (options.dense) row["dense"] = true;
    if (setting.gpu) {
        row["rollout_form"] = engine.rollout_form(config.batch, grid, grid, config.rule).text;
    }
    row.update({{"trained_iterations", trained},
                {"forward_ms", to_json(forward)},
                {"forward_backward_ms", to_json(both)},
                {"training_ms", to_json(training)},
                {"cell_steps_per_second", cell_steps / seconds},
                {"operations", operations},
                {"peak_arithmetic_fraction", operations / seconds / setting.machine.arithmetic},
                {"peak_bandwidth_fraction", bytes / seconds / setting.machine.bandwidth},
                {"peak_memory_bytes", memory},
                {"error_in_tolerances", error}});
    if (setting.gpu) {
        const RolloutCase timed = rollout_case(device, config, work);
        row["prediction"] = {
            {"forward", to_json(predicted_forward(setting.card, timed), forward.median)},
            {"forward_backward",
             to_json(predicted_forward_backward(setting.card, timed), both.median)},
            {"training", to_json(predicted_training(setting.card, timed), training.median)}};
    }
    setting.add(row);
}

// Trainings side by side, beside one alone on the same device.
void bench_side_by_side(const std::string& name, const Device& device,
                        const SharedCheckpoint& checkpoint, const PresetWork& known,
                        const Options& options, const Setting& setting) {
    constexpr int rounds = 5;
    const TrainingConfig config = timed_config(name, options);
    double alone = 0;
    for (const int automata : {1, options.automata}) {
        Device shared = device;
        shared.engines_on_device = automata;
        const std::string row_name =
            automata == 1 ? "  one training" : fmt::format("  {} side by side", automata);
        const int grid = config.grid();
        Row row = variant_row(row_name, device, config, setting);
        row.update({{"preset", name}, {"automata", automata}});
        const Timing each = time_side_by_side(automata, rounds, [&] {
            Trainer trainer = make_trainer(config, shared, options);
            checkpoint.resume(trainer);
            return trainer;
        });
        if (automata == 1) alone = each.median;
        row.update({{"training_ms", to_json(each)},
                    {"to_alone", each.median / alone},
                    {"cell_steps_per_second",
                     double(config.batch) * grid * grid * timed_steps / (each.median * 1e-3)}});
        row["prediction"] = {
            {"training",
             to_json(predicted_training(setting.card, rollout_case(shared, config, *known.work)),
                     each.median)}};
        setting.add(row);
        if (automata > 1) {
            fmt::print("    each takes {:.3f} of the time of one alone\n", each.median / alone);
        }
    }
}

// Runs work, and makes a row of what it throws: one variant that is wrong, or a device that fails,
// does not take the others along. False where it has thrown.
template <class Work>
bool row_or_failure(const Setting& setting, const Row& row, Work work) {
    try {
        work();
        return true;
    } catch (const Error& error) {
        setting.add_failure(row, error.what());
        return false;
    }
}

// False where a variant has failed.
bool bench_preset(const std::string& name, const Options& options, const Setting& setting) {
    const TrainingConfig config = timed_config(name, options);
    SharedCheckpoint checkpoint(name, options);
    PresetWork known;
    std::vector<Device> had;
    bool all = true;
    for (const Device& device : variants(options, setting.gpu)) {
        Row row = variant_row(name, device, config, setting);
        const std::string problem =
            setting.gpu ? obstacle(device, config.batch, config.grid(), config.grid()) : "";
        if (!problem.empty()) {
            row["problem"] = problem;
            setting.add(row);
        } else if (row_or_failure(setting, row, [&] {
                       bench_variant(name, device, checkpoint, known, options, setting);
                   })) {
            had.push_back(device);
        } else {
            all = false;
        }
    }
    if (options.automata == 1) return all;
    for (const Device& device : had) {
        Row row = variant_row(fmt::format("  {} side by side", options.automata), device, config,
                              setting);
        row["preset"] = name;
        all = row_or_failure(
                  setting, row,
                  [&] { bench_side_by_side(name, device, checkpoint, known, options, setting); }) &&
              all;
    }
    return all;
}

Model dense_model(const Rule& rule) { return {rule, dense_weights(true), {}, true}; }

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

// The same steps without fusing. Nothing is skipped there, so that it does not matter what has
// grown.
void bench_unfused(const std::string& name, const Options& options, const Setting& setting) {
    const TrainingConfig config = timed_config(name, options);
    const int grid = config.grid();
    const Model model{config.rule, Weights(config.output_bias), {}, true};
    const auto engine = make_engine(options.on());
    const State state = engine->make_state(config.batch, grid, grid);
    for (const bool tf32 : {false, true}) {
        check_unfused(*engine, config.rule, tf32);
        const auto unfused = make_unfused(model, config.batch, grid, grid, timed_steps, tf32);
        const Timing forward =
            measure(options.count, [&] { unfused->forward(state.view().data, timed_steps); });
        const Timing both = measure(
            options.count, [&] { unfused->forward_backward(state.view().data, timed_steps); });
        Row row = row_of(tf32 ? "  cuBLAS, TF32" : "  cuBLAS", "cuBLAS and cuRAND",
                         tf32 ? "tf32" : "float32", config.batch, grid, grid, timed_steps);
        const double cell_steps = double(config.batch) * grid * grid * timed_steps;
        row.update({{"forward_ms", to_json(forward)},
                    {"forward_backward_ms", to_json(both)},
                    {"cell_steps_per_second", cell_steps / (both.median * 1e-3)}});
        setting.add(row);
    }
}

// Steps without a tape of grids that are alive all over, or a preset's rollouts of them.
struct Inference {
    int batch = 1;
    int height = 0;
    int width = 0;
    Rule rule = {};
    int steps = steps_of_call;
    bool is_rollout = false;

    double cells() const { return double(batch) * height * width; }
    Row row(const Device& device, const Setting& setting) const {
        Row row =
            row_of("inference", "", precision_of(device, setting.gpu), batch, height, width, steps);
        if (setting.gpu) row["rollout"] = name_of(device.rollout);
        row["fire_rate"] = rule.fire_rate;
        return row;
    }
};

// In seconds, of a call; nothing where it is not known.
std::optional<double> predicted_call(const Inference& work, const Device& device, double copy_rate,
                                     const Setting& setting) {
    const Precision precision = device.precision.value();
    if (work.is_rollout || device.rollout == RolloutForm::bands) {
        return predicted_forward(setting.card,
                                 {.batch = work.batch,
                                  .height = work.height,
                                  .width = work.width,
                                  .steps = work.steps,
                                  .precision = precision,
                                  .form = device.rollout,
                                  .forward_rows = work.cells() * work.rule.fire_rate});
    }
    if (work.rule.fire_rate != counted_fire_rate) return {};
    return work.steps * predicted_step(setting.card, work.cells(), precision, copy_rate);
}

// Throws Error where the engine is wrong.
void bench_inference(const Inference& work, const Device& device, const Options& options,
                     const Setting& setting) {
    const Machine& machine = setting.machine;
    const double bytes = step_bytes(work.cells());
    const double copy_rate =
        setting.gpu ? gpu_copy_rate(device.index, std::size_t(bytes / 2)) : machine.bandwidth;
    const auto engine = make_engine(device);
    const int batch = work.batch, height = work.height, width = work.width;
    const Model model = dense_model(work.rule);
    const std::vector<float> first = dense_state(batch, height, width);
    State state = engine->make_state(batch, height, width);
    engine->copy_from_host(state.view().data, first);
    Buffer weights = engine->allocate(model.weights.all().size());
    engine->copy_from_host(weights.data(), model.weights.all());
    const auto view = view_parameters<const float>(weights.data(), true);

    engine->advance(model.rule, view, state.view(), {1, {}});
    std::vector<float> after(first.size());
    engine->copy_to_host(after, state.view().data);
    const double error = step_error(model, {first.data(), batch, height, width, MemorySpace::host},
                                    {after.data(), batch, height, width, MemorySpace::host}, {},
                                    engine->precision());
    if (!(error <= 1)) {
        throw Error(fmt::format(
            "a step is {:.3g} tolerances away from the double reference; its time means nothing",
            error));
    }

    Waiter wait(*engine);
    // On a GPU several calls are queued before one waits, so that waiting is hardly counted.
    const std::size_t calls = setting.gpu && !work.is_rollout ? 8 : 1;
    const auto time_calls = [&](int steps) {
        return measure_queues(options.count, [&] {
            for (std::size_t i = 0; i < calls; ++i) {
                engine->advance(model.rule, view, state.view(), {steps, {}});
            }
            wait();
            return calls;
        });
    };
    const Timing call = time_calls(work.steps);
    const std::optional<Timing> single =
        work.is_rollout ? std::nullopt : std::optional(time_calls(1));
    engine->copy_to_host(after, state.view().data);
    check_dense(after);

    const double seconds = call.median * 1e-3 / work.steps;
    Work per_step;
    per_step.forward_rows = work.cells() * model.rule.fire_rate;
    Row row = work.row(device, setting);
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
        row["rollout_form"] = engine->rollout_form(batch, height, width).text;
        if (device.rollout == RolloutForm::steps && work.rule.fire_rate == counted_fire_rate) {
            row["instructions_per_128_cells"] = step_instructions(engine->precision());
        }
        if (const auto predicted = predicted_call(work, device, copy_rate, setting)) {
            row["prediction"] = {{"forward", to_json(*predicted, call.median)}};
        }
    }
    setting.add(row);
    if (work.is_rollout) fmt::print("    {:.4g} rollouts a second\n", 1e3 / call.median);
}

// Keeps every cell's hidden units, 512 bytes, so that fewer cells have to do.
void bench_unfused_inference(const Inference& work, const Options& options,
                             const Setting& setting) {
    constexpr int largest = 2048;
    const int height = std::min(work.height, largest), width = std::min(work.width, largest);
    const int batch = std::clamp(largest * largest / (height * width), 1, work.batch);
    const auto engine = make_engine(options.on());
    const Model model = dense_model(work.rule);
    State state = engine->make_state(batch, height, width);
    engine->copy_from_host(state.view().data, dense_state(batch, height, width));
    for (const bool tf32 : {false, true}) {
        const auto unfused = make_unfused(model, batch, height, width, 0, tf32);
        const Timing forward = measure(options.count, [&] { unfused->step(state.view().data); });
        Row row = row_of(tf32 ? "  cuBLAS, TF32" : "  cuBLAS", "cuBLAS and cuRAND",
                         tf32 ? "tf32" : "float32", batch, height, width, 1);
        row.update(
            {{"forward_ms", to_json(forward)},
             {"cell_steps_per_second", double(batch) * height * width / (forward.median * 1e-3)}});
        setting.add(row);
    }
}

// Rollouts of a preset's batch on the grid that is asked for with a preset, steps of the grids that
// are asked for without; otherwise of a large grid, and of many that are too large for a cluster of
// blocks.
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
                .rule = {.fire_rate = options.fire_rate}};
    };
    if (options.size) return {steps_of(options.batch, options.size->height, options.size->width)};
    if (gpu) return {steps_of(1, 4096, 4096), steps_of(64, 256, 256)};
    return {steps_of(1, 512, 512), steps_of(8, 128, 128)};
}

// False where a row has failed.
bool bench_inference_variants(const Inference& work, const Options& options,
                              const Setting& setting) {
    bool all = true;
    for (const Device& device : variants(options, setting.gpu)) {
        // Steps are one kernel each unless bands are asked for.
        if (setting.gpu && !work.is_rollout && options.rollout == "all" &&
            device.rollout != RolloutForm::steps) {
            continue;
        }
        Row row = work.row(device, setting);
        const std::string problem =
            setting.gpu ? obstacle(device, work.batch, work.height, work.width) : "";
        if (!problem.empty()) {
            row["problem"] = problem;
            setting.add(row);
            continue;
        }
        all = row_or_failure(setting, row,
                             [&] { bench_inference(work, device, options, setting); }) &&
              all;
    }
    if (!setting.gpu || !has_unfused()) return all;
    return row_or_failure(setting,
                          row_of("  cuBLAS", "cuBLAS and cuRAND", "float32", work.batch,
                                 work.height, work.width, 1),
                          [&] { bench_unfused_inference(work, options, setting); }) &&
           all;
}

// The same.
bool bench_inferences(const Options& options, Setting setting) {
    setting.print = print_inference_row;
    print_inference_header(setting.gpu);
    bool all = true;
    for (const Inference& work : inferences_of(options, setting.gpu)) {
        all = bench_inference_variants(work, options, setting) && all;
    }
    return all;
}

// The same, of all presets.
bool bench_presets(const Options& options, const Setting& setting) {
    print_training_header(setting.gpu);
    bool all = true;
    for (const std::string& name : options.presets()) {
        all = bench_preset(name, options, setting) && all;
        if (!setting.gpu || !has_unfused()) continue;
        const TrainingConfig config = timed_config(name, options);
        all = row_or_failure(setting,
                             row_of("  cuBLAS", "cuBLAS and cuRAND", "float32", config.batch,
                                    config.grid(), config.grid(), timed_steps),
                             [&] { bench_unfused(name, options, setting); }) &&
              all;
    }
    return all;
}

// The multilayer perceptron alone, dense, on one core, against that core's peak.
Row bench_mlp(int count) {
    constexpr int chunks = 500;
    auto weights = std::make_unique<cpu::PackedWeights>();
    Weights drawn(true);
    float value = 0;
    for (float& weight : drawn.all()) weight = 0.1F * std::sin(value += 1);
    cpu::pack(*weights, drawn.view());
    struct alignas(64) Rows {
        float p[cpu::chunk_rows * perception];
        float h[cpu::chunk_rows * hidden];
        float u[cpu::chunk_rows * channels];
    };
    auto rows = std::make_unique<Rows>();
    for (float& p : rows->p) p = std::sin(value += 1);
    const double peak = peak_arithmetic(1);
    const Timing timing = measure(count, [&] {
        for (int i = 0; i < chunks; ++i) {
            cpu::mlp_forward(rows->u, rows->h, *weights, rows->p, cpu::chunk_rows);
        }
    });
    const double operations =
        2.0 * chunks * cpu::chunk_rows * (perception * hidden + hidden * channels);
    const double rate = operations / (timing.median * 1e-3);
    fmt::print("dense forward MLP, one core, {}: {:.1f} of {:.1f} GFLOP/s, {:.1f} % of the peak\n",
               cpu::instruction_set(), rate * 1e-9, peak * 1e-9, 100 * rate / peak);
    return {{"gflops", rate * 1e-9}, {"peak_gflops", peak * 1e-9}, {"peak_fraction", rate / peak}};
}

// For people: what is timed, and how often.
std::string work_of(const Options& options) {
    if (options.inference) {
        return fmt::format("{} runs each, calls of {} steps, every cell alive, fire rate {:g}",
                           options.count, steps_of_call, options.fire_rate);
    }
    return fmt::format("{} runs each, {} steps, {}", options.count, timed_steps,
                       options.dense
                           ? "nothing skipped, every cell alive"
                           : fmt::format("after {} iterations of training", options.train));
}

// False where a row has failed.
bool run(const Options& options) {
    // Whether there is one in the least demanding precision.
    Device plain = options.on();
    plain.precision = Precision::exact;
    const auto engine = make_engine(plain);
    const bool gpu = on_gpu(*engine);
    if (!gpu && options.automata > 1) {
        throw InvalidArgument("--automata needs a CUDA device: the CPU engine uses all processors");
    }
    for (const std::string& name : options.presets()) timed_config(name, options);  // or it throws
    const int threads = options.threads > 0 ? options.threads : omp_get_num_procs();
    const Machine machine = gpu ? measure_gpu(options.on().index)
                                : Machine{peak_arithmetic(threads), peak_bandwidth(threads)};
    fmt::print("{}; peak {:.1f} GFLOP/s, {:.1f} GB/s; {}\n", engine->description(),
               machine.arithmetic * 1e-9, machine.bandwidth * 1e-9, work_of(options));
    Row report = {{"engine", engine->description()},
                  {"peak_gflops", machine.arithmetic * 1e-9},
                  {"peak_gbytes_per_second", machine.bandwidth * 1e-9}};
    if (!gpu) {
        report["threads"] = threads;
        if (!options.inference) report["mlp"] = bench_mlp(options.count);
    }
    report["rows"] = Row::array();
    // After every row: what comes later may be cut off.
    std::string unwritten;
    const auto write = [&] {
        if (options.json.empty()) return;
        const std::string text = report.dump(2) + "\n";
        try {
            write_file(options.json,
                       {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
            unwritten.clear();
        } catch (const IoError& error) {
            unwritten = error.what();
        }
    };
    const Setting setting = {gpu,
                             machine,
                             {.multiprocessors = machine.multiprocessors, .clock = machine.clock},
                             [&](const Row& row) {
                                 report["rows"].push_back(row);
                                 write();
                             }};
    write();
    if (!unwritten.empty()) throw IoError(unwritten);  // before anything is measured
    bool all = true;
    if (!options.inference) all = bench_presets(options, setting);
    if (!options.no_inference) all = bench_inferences(options, setting) && all;
    if (!unwritten.empty()) throw IoError(unwritten);
    return all;
}

GridSize parse_size(const std::string& text) {
    GridSize size;
    char end = 0;
    const auto fits = [](int side) { return side >= least_side && side <= most_side; };
    if (std::sscanf(text.c_str(), "%dx%d%c", &size.height, &size.width, &end) != 2 ||
        !fits(size.height) || !fits(size.width)) {
        throw CLI::ValidationError(
            "--size", fmt::format("takes HxW of {} to {} cells, such as 64x64, not {}", least_side,
                                  most_side, text));
    }
    return size;
}

// Throws ValidationError where options make no sense together.
void check_together(const CLI::App& app, const Options& options) {
    const auto given = [&](const char* name) { return app.count(name) > 0; };
    for (const char* training : {"--preset", "--target", "--train", "--resume", "--automata",
                                 "--dense", "--no-inference"}) {
        if (options.inference && given(training)) {
            throw CLI::ValidationError(
                training,
                "makes no sense with --inference, which trains nothing: leave one of them out");
        }
    }
    for (const char* inference : {"--batch", "--fire-rate"}) {
        if (!options.inference && given(inference)) {
            throw CLI::ValidationError(
                inference,
                "is for --inference: add that, or leave this out: presets have their own");
        }
    }
    if (given("--batch") && !options.size) {
        throw CLI::ValidationError("--batch", "needs to know of which grids: add --size HxW");
    }
    if (options.size &&
        std::int64_t{options.size->height} * options.size->width > most_cells / options.batch) {
        throw CLI::ValidationError(
            "--batch",
            fmt::format("{} grids of {}x{} are more than {} cells: take fewer or smaller",
                        options.batch, options.size->height, options.size->width, most_cells));
    }
    if (!(options.fire_rate > 0 && options.fire_rate <= 1)) {
        throw CLI::ValidationError(
            "--fire-rate",
            fmt::format("takes a number above 0, up to 1, not {:g}", options.fire_rate));
    }
    if (!options.resume.empty() && options.presets().size() != 1) {
        throw CLI::ValidationError("--resume", "needs --preset with one name");
    }
    if (options.dense && !options.resume.empty()) {
        throw CLI::ValidationError("--dense", "has a model of its own: leave out --resume");
    }
    if (options.size && !options.inference && options.size->height != options.size->width) {
        throw CLI::ValidationError("--size",
                                   "training needs a square grid: give one, or --inference");
    }
}

// What is wrong with the name of a precision; empty where nothing is.
std::string precision_problem(const std::string& text) {
    try {
        if (text != "all") parse_precision(text);
        return "";
    } catch (const InvalidArgument& error) {
        return error.what();
    }
}

}  // namespace
}  // namespace nca::bench

int main(int argc, char** argv) {
    using namespace nca::bench;
    Options options;
    CLI::App app("Times the engine's steps and training iterations; checks it first.");
    app.add_option("--preset", options.preset,
                   "notebook, growing, persistent or regenerating; all: the first two")
        ->check(CLI::IsMember({"all", "notebook", "growing", "persistent", "regenerating"}));
    app.add_option("--target", options.target, "the image that is trained on");
    app.add_option("--device", options.device, "auto, cpu, cuda or cuda:1");
    app.add_option("--precision", options.precision,
                   "of the CUDA engine: exact, precise or fast; all")
        ->check(precision_problem);
    app.add_option("--rollout", options.rollout,
                   "form of the CUDA engine's rollouts: steps or bands; all, or for inference "
                   "steps")
        ->check(CLI::IsMember({"all", "steps", "bands"}));
    app.add_option("--threads", options.threads, "of the CPU engine; 0: one for each processor")
        ->check(CLI::Range(0, 1024));
    app.add_option("--train", options.train, "training iterations before the timed ones")
        ->check(CLI::Range(0, 100000));
    app.add_option("--resume", options.resume,
                   "start from this checkpoint, made by nca train --steps 80:81");
    app.add_option("--count", options.count, "timed runs of each kind")->check(CLI::Range(1, 1000));
    app.add_option("--automata", options.automata,
                   "time so many trainings side by side as well, on a GPU")
        ->check(CLI::Range(1, 64));
    std::string size;
    app.add_option("--size", size,
                   "HxW, the grid of all rows, such as 64x64; otherwise each preset's own, and for "
                   "inference one of 4096x4096 and 64 of 256x256, on a CPU one of 512x512 and 8 of "
                   "128x128");
    app.add_flag("--dense", options.dense,
                 "train on a grid in which every cell lives, so that nothing is skipped");
    app.add_flag("--inference", options.inference,
                 "time only steps without a tape, of grids in which every cell lives");
    app.add_option("--batch", options.batch, "with --inference and --size: so many grids (1)")
        ->check(CLI::Range(1, 1 << 20));
    app.add_option("--fire-rate", options.fire_rate,
                   "with --inference: the chance that a cell updates in a step (0.5)");
    app.add_flag("--no-inference", options.no_inference, "leave the inference rows out");
    app.add_option("--json", options.json, "write the results to this file as well");
    try {
        app.parse(argc, argv);
        if (!size.empty()) options.size = parse_size(size);
        check_together(app, options);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    try {
        if (!run(options)) {
            fmt::print(stderr, "bench_step: a row has failed; the others are right\n");
            return 1;
        }
    } catch (const std::exception& error) {
        fmt::print(stderr, "bench_step: {}\n", error.what());
        return 1;
    }
    return 0;
}
