// SPDX-License-Identifier: MIT
#include "benchmarks/options.hpp"

#include <nca/error.hpp>
#include <nca/training_config.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <array>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace nca::bench {
namespace {

constexpr int least_side = 8, most_side = 16384;
constexpr std::int64_t most_cells = std::int64_t{most_side} * most_side;

constexpr std::array<std::pair<const char*, RolloutForm>, 2> forms = {
    {{"steps", RolloutForm::steps}, {"bands", RolloutForm::bands}}};

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

// What is wrong with the name of a precision; empty where nothing is.
std::string precision_problem(const std::string& text) {
    try {
        if (text != "all") parse_precision(text);
        return "";
    } catch (const InvalidArgument& error) {
        return error.what();
    }
}

void add_options(CLI::App& app, Options& options, std::string& size) {
    std::vector<std::string> presets(all_presets.begin(), all_presets.end());
    const std::string preset_help = fmt::format("{}; all: the first two", fmt::join(presets, ", "));
    presets.push_back("all");
    app.add_option("--preset", options.preset, preset_help)->check(CLI::IsMember(presets));
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
                   "also time so many trainings side by side on a GPU")
        ->check(CLI::Range(1, 64));
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

}  // namespace

std::optional<int> Options::parse(int argc, char** argv) {
    CLI::App app("Times the engine's steps and training iterations; checks it first.");
    std::string size_text;
    add_options(app, *this, size_text);
    try {
        app.parse(argc, argv);
        if (!size_text.empty()) size = parse_size(size_text);
        check_together(app, *this);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    return std::nullopt;
}

Device Options::plain_device() const {
    Device plain = Device::parse(device);
    plain.threads = threads;
    return plain;
}

std::vector<Device> Options::devices(bool gpu) const {
    if (!gpu) return {plain_device()};
    std::vector<Device> result;
    for (const Precision one : all_precisions) {
        if (precision != "all" && precision != name(one)) continue;
        for (const auto& [text, form] : forms) {
            // Exact has kernels for single steps only, so that all its forms are this one.
            const bool is_wanted = rollout == "all"
                                       ? one != Precision::exact || form == RolloutForm::steps
                                       : rollout == text;
            if (!is_wanted) continue;
            result.push_back(plain_device());
            result.back().precision = one;
            result.back().rollout = form;
        }
    }
    return result;
}

std::vector<std::string> Options::presets() const {
    if (inference) return {};
    if (preset == "all") return {"notebook", "growing"};
    return {preset};
}

std::string name_of(RolloutForm form) {
    for (const auto& [text, known] : forms) {
        if (known == form) return text;
    }
    return "automatic";
}

}  // namespace nca::bench
