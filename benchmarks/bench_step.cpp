// SPDX-License-Identifier: MIT
// Times one step forward, forward and backward, and a training iteration of each preset, on weights
// that have been trained for a while, because how much can be skipped depends on what has grown.
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
    std::string json;
};

// What the machine can do, measured in the same run.
struct Machine {
    double arithmetic = 0;  // operations a second
    double bandwidth = 0;   // bytes a second
};

nlohmann::ordered_json to_json(const Timing& timing) {
    return {{"median", timing.median},
            {"fastest", timing.fastest},
            {"slowest", timing.slowest},
            {"count", timing.count}};
}

void print_header() {
    fmt::print("{:<10} {:>12} {:>9} {:>9} {:>22} {:>13} {:>7} {:>7} {:>9}\n", "work", "cells",
               "forward", "fwd+bwd", "training iteration", "cell-steps/s", "of peak", "of peak",
               "memory");
    fmt::print("{:<10} {:>12} {:>9} {:>9} {:>22} {:>13} {:>7} {:>7} {:>9}\n", "", "", "ms/step",
               "ms/step", "ms, fastest..slowest", "in training", "arith.", "bandw.", "peak, MB");
}

// One preset; a row of the table and its json. Throws Error where the engine is wrong.
nlohmann::ordered_json bench_preset(const std::string& name, const Options& options,
                                    const Machine& machine) {
    TrainingConfig config = preset(name);
    config.fewest_steps = timed_steps;
    config.most_steps = timed_steps + 1;
    Device device = Device::parse(options.device);
    device.threads = options.threads;
    reset_peak_memory();
    Trainer trainer(load_target(options.target), config, device);
    Engine& engine = trainer.engine();
    if (!options.resume.empty()) trainer.resume(options.resume);
    while (trainer.iteration() < options.train) {
        const IterationReport report = trainer.iterate();
        if (report.iteration % 10 == 9) {
            fmt::print(stderr, "\r{}: training {}/{} ", name, report.iteration + 1, options.train);
        }
    }
    fmt::print(stderr, "\r{:40}\r", "");
    const std::int64_t trained = trainer.iteration();

    const double error = error_against_reference(engine, trainer);
    if (!(error <= 1)) {
        throw Error(
            fmt::format("preset {}: the engine is {:.3g} tolerances away from the double "
                        "reference; its times mean nothing",
                        name, error));
    }

    const Timing training = measure(options.count, [&] { trainer.iterate(); });
    const double memory = peak_memory();

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
    const WeightsView grad_view =
        view_parameters(grad_weights.data(), model.weights.has_output_bias());
    const RolloutOptions rollout{timed_steps, {}};
    const Timing forward =
        measure(options.count, [&] { engine.forward(model, state.view(), rollout); });
    const Timing both = measure(options.count, [&] {
        const Tape tape = engine.forward(model, state.view(), rollout);
        engine.loss(grad_state.view(), losses.data(), losses.data() + config.batch, tape.last(),
                    {target.data(), grid, grid});
        engine.backward(tape, grad_state.view(), grad_view, Accumulate::no);
    });

    const Work work = count_work(model.rule, engine.forward(model, state.view(), rollout), {});
    const double cell_steps = double(config.batch) * grid * grid * timed_steps;
    const double seconds = training.median * 1e-3;
    const double operations = work.forward_operations() + work.backward_operations();
    // Each living state is written once and read twice, its gradient read and written once.
    const double bytes = work.living_cells * channels * sizeof(float) * 5;
    const double arithmetic = operations / seconds / machine.arithmetic;
    const double bandwidth = bytes / seconds / machine.bandwidth;
    fmt::print(
        "{:<10} {:>12} {:>9.4f} {:>9.4f} {:>8.2f} {:>6.2f}..{:<6.2f}{:>13.3e} {:>6.1f}% "
        "{:>6.1f}% {:>9.0f}\n",
        name, fmt::format("{}x{}x{}", config.batch, grid, grid), forward.median / timed_steps,
        both.median / timed_steps, training.median, training.fastest, training.slowest,
        cell_steps / seconds, arithmetic * 100, bandwidth * 100, memory * 1e-6);
    return {{"name", name},
            {"engine", engine.description()},
            {"precision", "float32"},
            {"batch", config.batch},
            {"height", grid},
            {"width", grid},
            {"steps", timed_steps},
            {"trained_iterations", trained},
            {"forward_ms", to_json(forward)},
            {"forward_backward_ms", to_json(both)},
            {"training_ms", to_json(training)},
            {"cell_steps_per_second", cell_steps / seconds},
            {"operations", operations},
            {"peak_arithmetic_fraction", arithmetic},
            {"peak_bandwidth_fraction", bandwidth},
            {"peak_memory_bytes", memory},
            {"error_in_tolerances", error}};
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
    Device device = Device::parse(options.device);
    device.threads = options.threads;
    const auto engine = make_engine(device);
    const int threads = options.threads > 0 ? options.threads : omp_get_num_procs();
    const Machine machine{peak_arithmetic(threads), peak_bandwidth(threads)};
    fmt::print(
        "{}; peak {:.1f} GFLOP/s, {:.1f} GB/s; {} runs each, {} steps, after {} iterations "
        "of training\n",
        engine->description(), machine.arithmetic * 1e-9, machine.bandwidth * 1e-9, options.count,
        timed_steps, options.train);
    nlohmann::ordered_json report = {{"engine", engine->description()},
                                     {"threads", threads},
                                     {"peak_gflops", machine.arithmetic * 1e-9},
                                     {"peak_gbytes_per_second", machine.bandwidth * 1e-9},
                                     {"mlp", bench_mlp(options.count)},
                                     {"rows", nlohmann::ordered_json::array()}};
    print_header();
    for (const std::string name : {"notebook", "growing"}) {
        if (options.preset != "all" && options.preset != name) continue;
        report["rows"].push_back(bench_preset(name, options, machine));
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
    app.add_option("--preset", options.preset, "notebook, growing or all")
        ->check(CLI::IsMember({"all", "notebook", "growing"}));
    app.add_option("--target", options.target, "the image that is trained on");
    app.add_option("--device", options.device, "auto, cpu, cuda or cuda:1");
    app.add_option("--threads", options.threads, "of the CPU engine; 0: one for each processor")
        ->check(CLI::Range(0, 1024));
    app.add_option("--train", options.train, "training iterations before the timed ones")
        ->check(CLI::Range(0, 100000));
    app.add_option("--resume", options.resume,
                   "start from this checkpoint, made by nca train --steps 80:81");
    app.add_option("--count", options.count, "timed runs of each kind")->check(CLI::Range(1, 1000));
    app.add_option("--json", options.json, "write the results to this file as well");
    try {
        app.parse(argc, argv);
        if (!options.resume.empty() && options.preset == "all") {
            throw CLI::ValidationError("--resume", "needs --preset notebook or growing");
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
