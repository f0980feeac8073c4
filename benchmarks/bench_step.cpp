// SPDX-License-Identifier: MIT
// Times one step forward, forward and backward, and a training iteration of each preset, on weights
// that have been trained for a while, because how much can be skipped depends on what has grown;
// and one step of a large grid that is alive all over. On a GPU the same steps without fusing stand
// beside them.
#include "benchmarks/gpu.hpp"
#include "benchmarks/measure.hpp"
#include "host/cpu/kernels.hpp"

#include <nca/nca.hpp>

#include <fmt/format.h>
#include <omp.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace nca::bench {
namespace {

constexpr int timed_steps = 80;  // the middle of 64 .. 95

struct Options {
    std::string preset = "all";
    std::string target = NCA_DATA_DIR "/lizard.png";
    std::string device = "auto";
    int threads = 0;
    int train = 500;
    std::string resume;
    int count = 20;
    std::optional<int> inference;
    std::string json;

    Device on() const {
        Device parsed = Device::parse(device);
        parsed.threads = threads;
        return parsed;
    }
};

bool on_gpu(const Engine& engine) { return engine.memory_space() == MemorySpace::device; }

nlohmann::ordered_json to_json(const Timing& timing) {
    return {{"median", timing.median},
            {"fastest", timing.fastest},
            {"slowest", timing.slowest},
            {"count", timing.count}};
}

void print_header() {
    fmt::print("{:<17} {:>12} {:>9} {:>9} {:>22} {:>13} {:>7} {:>7} {:>9}\n", "work", "cells",
               "forward", "fwd+bwd", "training iteration", "cell-steps/s", "of peak", "of peak",
               "memory");
    fmt::print("{:<17} {:>12} {:>9} {:>9} {:>22} {:>13} {:>7} {:>7} {:>9}\n", "", "", "ms/step",
               "ms/step", "ms, fastest..slowest", "", "arith.", "bandw.", "peak, MB");
}

std::string share(double part) { return part > 0 ? fmt::format("{:.1f}%", part * 100) : "-"; }

// A row of the table, from its json. What a row does not have is a dash.
void print_row(const nlohmann::ordered_json& row) {
    const auto number = [&](const char* name) { return row.value(name, 0.0); };
    const auto per_step = [&](const char* name) {
        if (!row.contains(name)) return std::string("-");
        return fmt::format("{:.4f}", row[name]["median"].get<double>() / number("steps"));
    };
    std::string training = "-";
    if (row.contains("training_ms")) {
        const auto& ms = row["training_ms"];
        training = fmt::format("{:.3f} {:>7.3f}..{:<7.3f}", ms["median"].get<double>(),
                               ms["fastest"].get<double>(), ms["slowest"].get<double>());
    }
    const double memory = number("peak_memory_bytes");
    fmt::print("{:<17} {:>12} {:>9} {:>9} {:>22} {:>13.3e} {:>7} {:>7} {:>9}\n",
               row["name"].get<std::string>(),
               fmt::format("{}x{}x{}", row["batch"].get<int>(), row["height"].get<int>(),
                           row["width"].get<int>()),
               per_step("forward_ms"), per_step("forward_backward_ms"), training,
               number("cell_steps_per_second"), share(number("peak_arithmetic_fraction")),
               share(number("peak_bandwidth_fraction")),
               memory > 0 ? fmt::format("{:.0f}", memory * 1e-6) : "-");
}

nlohmann::ordered_json row_of(const std::string& name, const std::string& engine, int batch,
                              int side, int steps) {
    return {{"name", name},   {"engine", engine}, {"precision", "float32"}, {"batch", batch},
            {"height", side}, {"width", side},    {"steps", steps}};
}

// Trains one preset and waits until it is there.
Trainer train(const std::string& name, const Options& options) {
    TrainingConfig config = preset(name);
    config.fewest_steps = timed_steps;
    config.most_steps = timed_steps + 1;
    Trainer trainer(load_target(options.target), config, options.on());
    if (!options.resume.empty()) trainer.resume(options.resume);
    while (trainer.iteration() < options.train) {
        trainer.iterate(int(options.train - trainer.iteration()));
        fmt::print(stderr, "\r{}: training {}/{} ", name, trainer.iteration(), options.train);
    }
    fmt::print(stderr, "\r{:40}\r", "");
    return trainer;
}

// Milliseconds of a training iteration. An engine that queues several is timed on a whole queue.
Timing time_training(Trainer& trainer, int count) {
    constexpr int plenty = 1000;  // an engine takes as many as it likes at once
    std::size_t iterations = 0;
    Timing timing = measure(count, [&] { iterations = trainer.iterate(plenty).size(); });
    for (double* value : {&timing.median, &timing.fastest, &timing.slowest}) {
        *value /= double(iterations);
    }
    return timing;
}

// One preset. Throws Error where the engine is wrong.
nlohmann::ordered_json bench_preset(const std::string& name, const Options& options,
                                    const Machine& machine) {
    reset_peak_memory();
    const bool gpu = on_gpu(*make_engine(options.on()));
    const double memory_before = gpu ? gpu_memory_in_use() : 0;
    Trainer trainer = train(name, options);
    Engine& engine = trainer.engine();
    const TrainingConfig& config = trainer.config();
    const std::int64_t trained = trainer.iteration();

    const double error = error_against_reference(engine, trainer);
    if (!(error <= 1)) {
        throw Error(
            fmt::format("preset {}: the engine is {:.3g} tolerances away from the double "
                        "reference; its times mean nothing",
                        name, error));
    }

    const Timing training = time_training(trainer, options.count);
    const double memory = gpu ? gpu_memory_in_use() - memory_before : peak_memory();

    const Model model = trainer.model();
    const int grid = config.grid();
    State state = engine.make_state(config.batch, grid, grid);
    State grad_state = engine.make_state(config.batch, grid, grid);
    const auto start = config.rule.start_values();
    for (int sample = 0; sample < config.batch; ++sample) {
        engine.copy_from_host(state.view().cell(sample, grid / 2, grid / 2), start);
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

    const Work work = count_work(
        engine, model.rule, engine.forward(model.rule, weights_view, state.view(), rollout), {});
    const double cell_steps = double(config.batch) * grid * grid * timed_steps;
    const double seconds = training.median * 1e-3;
    const double operations = work.forward_operations() + work.backward_operations();
    // Each living state is written once and read twice, its gradient read and written once.
    const double bytes = work.living_cells * channels * sizeof(float) * 5;
    nlohmann::ordered_json row =
        row_of(name, engine.description(), config.batch, grid, timed_steps);
    row.update({{"trained_iterations", trained},
                {"forward_ms", to_json(forward)},
                {"forward_backward_ms", to_json(both)},
                {"training_ms", to_json(training)},
                {"cell_steps_per_second", cell_steps / seconds},
                {"operations", operations},
                {"peak_arithmetic_fraction", operations / seconds / machine.arithmetic},
                {"peak_bandwidth_fraction", bytes / seconds / machine.bandwidth},
                {"peak_memory_bytes", memory},
                {"error_in_tolerances", error}});
    print_row(row);
    return row;
}

// A large grid, alive all over, and weights so small that it stays so.
struct Inference {
    static constexpr int steps = 4;
    Model model;
    std::vector<float> state;

    explicit Inference(int side) : state(std::size_t(side) * side * channels) {
        float value = 0;
        for (float& weight : model.weights.all()) weight = 1e-2F * std::sin(value += 1);
        std::uint32_t bits = 1;
        for (std::size_t i = 0; i < state.size(); ++i) {
            bits = bits * 1664525U + 1013904223U;
            const float unit = float(bits >> 8) * 0x1p-24F;
            state[i] = i % channels == std::size_t(alpha_channel) ? 0.5F + 0.5F * unit : unit;
        }
    }
};

// Throws Error where the steps without fusing are not those of the engine. Every cell fires, since
// cuRAND draws other masks than we do.
void check_unfused(Engine& engine, const Rule& preset_rule, bool tf32) {
    constexpr int side = 40;
    const Inference work(side);
    Model model = work.model;
    model.rule = preset_rule;
    model.rule.fire_rate = 1;
    State state = engine.make_state(1, side, side);
    engine.copy_from_host(state.view().data, work.state);
    const auto unfused = make_unfused(model, 1, side, side, Inference::steps, tf32);
    unfused->forward(state.view().data, Inference::steps);
    engine.advance(model, state.view(), {Inference::steps, {}});
    std::vector<float> ours(work.state.size()), theirs(work.state.size());
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
void bench_unfused(nlohmann::ordered_json& rows, const std::string& name, const Options& options) {
    const TrainingConfig config = preset(name);
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
        nlohmann::ordered_json row = row_of(tf32 ? "  cuBLAS, TF32" : "  cuBLAS",
                                            "cuBLAS and cuRAND", config.batch, grid, timed_steps);
        row["precision"] = tf32 ? "tf32" : "float32";
        const double cell_steps = double(config.batch) * grid * grid * timed_steps;
        row.update({{"forward_ms", to_json(forward)},
                    {"forward_backward_ms", to_json(both)},
                    {"cell_steps_per_second", cell_steps / (both.median * 1e-3)}});
        print_row(row);
        rows.push_back(row);
    }
}

nlohmann::ordered_json bench_inference(int side, const Options& options, const Machine& machine) {
    const auto engine = make_engine(options.on());
    const Inference work(side);
    State state = engine->make_state(1, side, side);
    engine->copy_from_host(state.view().data, work.state);
    Buffer weights = engine->allocate(work.model.weights.all().size());
    engine->copy_from_host(weights.data(), work.model.weights.all());
    const auto view = view_parameters<const float>(weights.data(), true);

    engine->advance(work.model.rule, view, state.view(), {1, {}});
    std::vector<float> after(work.state.size());
    engine->copy_to_host(after, state.view().data);
    const double error =
        step_error(work.model, {work.state.data(), 1, side, side, MemorySpace::host},
                   {after.data(), 1, side, side, MemorySpace::host}, {});
    if (!(error <= 1)) {
        throw Error(
            fmt::format("a step of {0}x{0} cells is {1:.3g} tolerances away from the double "
                        "reference; its time means nothing",
                        side, error));
    }

    Waiter wait(*engine);
    const Timing forward = measure(options.count, [&] {
        engine->advance(work.model.rule, view, state.view(), {Inference::steps, {}});
        wait();
    });
    const double cells = double(side) * side;
    const double seconds = forward.median * 1e-3 / Inference::steps;
    Work per_step;
    per_step.forward_rows = cells * work.model.rule.fire_rate;
    nlohmann::ordered_json row =
        row_of("inference", engine->description(), 1, side, Inference::steps);
    row.update(
        {{"forward_ms", to_json(forward)},
         {"cell_steps_per_second", cells / seconds},
         {"peak_arithmetic_fraction", per_step.forward_operations() / seconds / machine.arithmetic},
         // Every state is read and written once.
         {"peak_bandwidth_fraction",
          cells * channels * sizeof(float) * 2 / seconds / machine.bandwidth},
         {"error_in_tolerances", error}});
    print_row(row);
    return row;
}

// Keeps every cell's hidden units, 512 bytes, so that a smaller grid has to do.
void bench_unfused_inference(nlohmann::ordered_json& rows, int side, const Options& options) {
    constexpr int largest = 2048;
    side = std::min(side, largest);
    const auto engine = make_engine(options.on());
    const Inference work(side);
    State state = engine->make_state(1, side, side);
    engine->copy_from_host(state.view().data, work.state);
    for (const bool tf32 : {false, true}) {
        const auto unfused = make_unfused(work.model, 1, side, side, 0, tf32);
        const Timing forward = measure(options.count, [&] { unfused->step(state.view().data); });
        nlohmann::ordered_json row =
            row_of(tf32 ? "  cuBLAS, TF32" : "  cuBLAS", "cuBLAS and cuRAND", 1, side, 1);
        row["precision"] = tf32 ? "tf32" : "float32";
        row.update({{"forward_ms", to_json(forward)},
                    {"cell_steps_per_second", double(side) * side / (forward.median * 1e-3)}});
        print_row(row);
        rows.push_back(row);
    }
}

// The multilayer perceptron alone, dense, on one core, against that core's peak.
nlohmann::ordered_json bench_mlp(int count) {
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

void run(const Options& options) {
    const auto engine = make_engine(options.on());
    const bool gpu = on_gpu(*engine);
    const int threads = options.threads > 0 ? options.threads : omp_get_num_procs();
    const Machine machine = gpu ? measure_gpu(options.on().index)
                                : Machine{peak_arithmetic(threads), peak_bandwidth(threads)};
    fmt::print(
        "{}; peak {:.1f} GFLOP/s, {:.1f} GB/s; {} runs each, {} steps, after {} iterations "
        "of training\n",
        engine->description(), machine.arithmetic * 1e-9, machine.bandwidth * 1e-9, options.count,
        timed_steps, options.train);
    nlohmann::ordered_json report = {{"engine", engine->description()},
                                     {"peak_gflops", machine.arithmetic * 1e-9},
                                     {"peak_gbytes_per_second", machine.bandwidth * 1e-9}};
    if (!gpu) {
        report["threads"] = threads;
        report["mlp"] = bench_mlp(options.count);
    }
    report["rows"] = nlohmann::ordered_json::array();
    auto& rows = report["rows"];
    print_header();
    const std::vector<std::string> names = options.preset == "all"
                                               ? std::vector<std::string>{"notebook", "growing"}
                                               : std::vector{options.preset};
    for (const std::string& name : names) {
        rows.push_back(bench_preset(name, options, machine));
        if (gpu) bench_unfused(rows, name, options);
    }
    constexpr int large_side = 4096, small_side = 512;
    const int side = options.inference.value_or(gpu ? large_side : small_side);
    if (side > 0) {
        rows.push_back(bench_inference(side, options, machine));
        if (gpu) bench_unfused_inference(rows, side, options);
    }
    if (!options.json.empty()) {
        std::ofstream file(options.json);
        file << report.dump(2) << '\n';
        if (!file.flush()) throw IoError("cannot write " + options.json);
    }
}

}  // namespace
}  // namespace nca::bench

int main(int argc, char** argv) {
    nca::bench::Options options;
    CLI::App app("Times the engine's steps and training iterations; checks it first.");
    app.add_option("--preset", options.preset,
                   "notebook, growing, persistent or regenerating; all: the first two")
        ->check(CLI::IsMember({"all", "notebook", "growing", "persistent", "regenerating"}));
    app.add_option("--target", options.target, "the image that is trained on");
    app.add_option("--device", options.device, "auto, cpu, cuda or cuda:1");
    app.add_option("--threads", options.threads, "of the CPU engine; 0: one for each processor")
        ->check(CLI::Range(0, 1024));
    app.add_option("--train", options.train, "training iterations before the timed ones")
        ->check(CLI::Range(0, 100000));
    app.add_option("--resume", options.resume,
                   "start from this checkpoint, made by nca train --steps 80:81");
    app.add_option("--count", options.count, "timed runs of each kind")->check(CLI::Range(1, 1000));
    app.add_option("--inference", options.inference,
                   "side of the large grid; 0: none; 4096 on a GPU, 512 elsewhere")
        ->check(CLI::IsMember({0}) | CLI::Range(8, 16384));
    app.add_option("--json", options.json, "write the results to this file as well");
    try {
        app.parse(argc, argv);
        if (!options.resume.empty() && options.preset == "all") {
            throw CLI::ValidationError("--resume", "needs --preset with one name");
        }
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    try {
        nca::bench::run(options);
    } catch (const std::exception& error) {
        fmt::print(stderr, "bench_step: {}\n", error.what());
        return 1;
    }
    return 0;
}
