// SPDX-License-Identifier: MIT
// Times training iterations of the presets and steps without a tape.
//
// A preset's rows have a step forward, forward and back, and a training iteration, on weights that
// have been trained for a while: how much an engine can skip depends on what has grown. The
// inference rows have grids in which every cell lives, beside the rate of a copy. On a GPU each
// precision and each form of the rollout is a row of its own, with what an H200 is predicted to
// take; rows of the same steps without fusing follow, and, where asked for, of trainings side by
// side.
#include "benchmarks/gpu.hpp"
#include "benchmarks/inference_rows.hpp"
#include "benchmarks/mlp_row.hpp"
#include "benchmarks/preset_rows.hpp"
#include "benchmarks/preset_training.hpp"
#include "benchmarks/setting.hpp"

#include <nca/engine.hpp>
#include <nca/error.hpp>

#include <fmt/format.h>
#include <omp.h>

#include <cstdio>
#include <exception>
#include <optional>
#include <string>

namespace nca::bench {
namespace {

// For people: what is timed, and how often.
std::string work_of(const Options& options) {
    if (options.inference) return inference_text(options);
    return fmt::format("{} runs each, {} steps, {}", options.count, timed_steps,
                       options.dense
                           ? "nothing skipped, every cell alive"
                           : fmt::format("after {} iterations of training", options.train));
}

// False where a row has failed.
bool run(const Options& options) {
    // Exact needs the least of a device.
    Device plain = options.plain_device();
    plain.precision = Precision::exact;
    const auto engine = make_engine(plain);
    const bool gpu = engine->memory_space() == MemorySpace::device;
    if (!gpu && options.automata > 1) {
        throw InvalidArgument("--automata needs a CUDA device: the CPU engine uses all processors");
    }
    for (const std::string& name : options.presets()) timed_config(name, options);  // or it throws
    const int threads = options.threads > 0 ? options.threads : omp_get_num_procs();
    const Machine machine =
        gpu ? measure_gpu(plain.index) : Machine{peak_arithmetic(threads), peak_bandwidth(threads)};
    fmt::print("{}; peak {:.1f} GFLOP/s, {:.1f} GB/s; {}\n", engine->description(),
               machine.arithmetic * 1e-9, machine.bandwidth * 1e-9, work_of(options));
    Row head = {{"engine", engine->description()},
                {"peak_gflops", machine.arithmetic * 1e-9},
                {"peak_gbytes_per_second", machine.bandwidth * 1e-9}};
    if (!gpu) {
        head["threads"] = threads;
        if (!options.inference) head["mlp"] = bench_mlp(options.count);
    }
    Report report(head, options.json, gpu);
    const Setting setting = {options, gpu, machine, report};
    if (!options.inference) bench_presets(setting);
    if (!options.no_inference) bench_inferences(setting);
    return report.end();
}

}  // namespace
}  // namespace nca::bench

int main(int argc, char** argv) {
    nca::bench::Options options;
    if (const std::optional<int> code = options.parse(argc, argv)) return *code;
    try {
        if (!nca::bench::run(options)) {
            fmt::print(stderr, "bench_step: a row has failed; the others are right\n");
            return 1;
        }
    } catch (const std::exception& error) {
        fmt::print(stderr, "bench_step: {}\n", error.what());
        return 1;
    }
    return 0;
}
