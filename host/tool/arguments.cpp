// SPDX-License-Identifier: MIT
#include "host/tool/arguments.hpp"

#include "host/tool/resume_command.hpp"

#include <nca/error.hpp>
#include <nca/version.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <charconv>
#include <cmath>
#include <limits>
#include <sstream>
#include <string_view>
#include <tuple>

namespace nca::tool {
namespace {

// The whole text as a number, or nothing.
template <class Number>
std::optional<Number> parse_number(std::string_view text) {
    Number value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) {
        return std::nullopt;
    }
    return value;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
    std::vector<std::string_view> parts;
    for (;;) {
        const std::size_t end = text.find(separator);
        parts.push_back(text.substr(0, end));
        if (end == std::string_view::npos) {
            return parts;
        }
        text.remove_prefix(end + 1);
    }
}

// Like CLI::Range, but refuses NaN.
CLI::Validator real_range(double low, double high) {
    return CLI::Validator(
        [low, high](std::string& text) -> std::string {
            const std::optional<double> value = parse_number<double>(text);
            return value && *value >= low && *value <= high
                       ? ""
                       : fmt::format("got {}, expected a number in {}..{}", text, low, high);
        },
        "");
}

// Also writes the number anew: CLI11 would read 010 as eight.
CLI::Validator int_range(std::int64_t low, std::int64_t high) {
    return CLI::Validator(
        [low, high](std::string& text) -> std::string {
            const std::optional<std::int64_t> value = parse_number<std::int64_t>(text);
            if (!value || *value < low || *value > high) {
                return fmt::format("got {}, expected a whole number in {}..{}", text, low, high);
            }
            text = std::to_string(*value);
            return "";
        },
        "");
}

constexpr int largest_count = std::numeric_limits<int>::max();
constexpr std::int64_t largest_seed = std::numeric_limits<std::uint32_t>::max();

// "64:96"
void parse_step_range(const std::string& text, TrainArguments& arguments) {
    const std::vector<std::string_view> parts = split(text, ':');
    const auto number = [&](std::size_t i) {
        return i < parts.size() ? parse_number<int>(parts[i]) : std::nullopt;
    };
    if (parts.size() != 2 || !number(0) || !number(1)) {
        throw UsageError(fmt::format("--steps {}: expected A:B, such as 64:96", text));
    }
    if (*number(0) < 1 || *number(0) >= *number(1)) {
        throw UsageError(fmt::format(
            "--steps {}: steps are drawn from A..B-1, so A has to be at least 1 and less than B",
            text));
    }
    arguments.fewest_steps = number(0);
    arguments.most_steps = number(1);
}

// "0.1:0.4"
std::pair<float, float> parse_pair(const std::string& option, const std::string& text,
                                   const char* expected) {
    const std::vector<std::string_view> parts = split(text, ':');
    const auto number = [&](std::size_t i) {
        return i < parts.size() ? parse_number<float>(parts[i]) : std::nullopt;
    };
    if (parts.size() != 2 || !number(0) || !number(1)) {
        throw UsageError(fmt::format("{} {}: expected {}", option, text, expected));
    }
    return {*number(0), *number(1)};
}

// "72x96", or "72" for a square
void parse_grid_size(const std::string& text, GrowArguments& arguments) {
    const std::vector<std::string_view> parts = split(text, 'x');
    const std::optional<int> height = parse_number<int>(parts.front());
    const std::optional<int> width = parse_number<int>(parts.back());
    if (parts.size() > 2 || !height || !width) {
        throw UsageError(
            fmt::format("--size {}: expected HEIGHTxWIDTH in cells, such as 72x96", text));
    }
    arguments.height = height;
    arguments.width = width;
}

// "36,20"
Cell parse_start(const std::string& text) {
    const std::vector<std::string_view> parts = split(text, ',');
    const std::optional<int> x = parse_number<int>(parts.front());
    const std::optional<int> y = parse_number<int>(parts.back());
    if (parts.size() != 2 || !x || !y) {
        throw UsageError(fmt::format(
            "--seed-at {}: expected X,Y, a cell's column and row, such as 36,20", text));
    }
    return {*x, *y};
}

// "100:circle,36,36,10" or "100:half,left"
Damage parse_damage(const std::string& text) {
    const std::string expected = fmt::format(
        "--damage {}: expected STEP:circle,X,Y,RADIUS or STEP:half,left|right|top|bottom", text);
    const std::size_t colon = text.find(':');
    if (colon == std::string::npos) {
        throw UsageError(expected);
    }
    const std::optional<int> step = parse_number<int>(std::string_view(text).substr(0, colon));
    const std::vector<std::string_view> words =
        split(std::string_view(text).substr(colon + 1), ',');
    if (!step || *step < 0) {
        throw UsageError(expected);
    }
    if (words[0] == "circle" && words.size() == 4) {
        const std::optional<double> x = parse_number<double>(words[1]);
        const std::optional<double> y = parse_number<double>(words[2]);
        const std::optional<double> radius = parse_number<double>(words[3]);
        if (x && y && radius && std::isfinite(*x) && std::isfinite(*y) && std::isfinite(*radius) &&
            *radius >= 0) {
            return {*step, Damage::Shape::circle, *x, *y, *radius};
        }
    }
    if (words[0] == "half" && words.size() == 2) {
        constexpr std::pair<std::string_view, Damage::Shape> sides[] = {
            {"left", Damage::Shape::left},
            {"right", Damage::Shape::right},
            {"top", Damage::Shape::top},
            {"bottom", Damage::Shape::bottom},
        };
        for (const auto& [name, shape] : sides) {
            if (words[1] == name) {
                return {.step = *step, .shape = shape};
            }
        }
    }
    throw UsageError(expected);
}

// What an option's text means to the library, which says what it expects of a wrong one.
template <class Parse>
auto option_value(const char* option, const std::string& text, Parse parse) {
    try {
        return parse(text);
    } catch (const InvalidArgument& error) {
        throw UsageError(fmt::format("{} {}: {}", option, text, error.what()));
    }
}

struct DeviceOptions {
    std::string name = "auto";
    std::string precision = "auto";
    int threads = 0;

    CLI::Option* add_precision(CLI::App& command) {
        return command
            .add_option(
                "--precision", precision,
                "of the matrix products on CUDA: exact, precise or fast (precise where the device "
                "runs rollouts in bands, exact elsewhere); the CPU computes in float32 always")
            ->type_name("NAME");
    }
    void add_to(CLI::App& command) {
        command.add_option("--device", name, "auto (default), cpu, cuda or cuda:1")
            ->type_name("DEVICE");
        command.add_option("--threads", threads, "of the CPU engine (0: one for each processor)")
            ->type_name("N")
            ->transform(int_range(0, 1024));
        add_precision(command);
    }
    Device parse() const {
        Device device = option_value("--device", name, Device::parse);
        device.threads = threads;
        if (precision != "auto") {
            device.precision = option_value("--precision", precision, parse_precision);
        }
        return device;
    }
};

void add_seed(CLI::App& command, std::uint32_t& seed) {
    command.add_option("--seed", seed, "of every random draw (0)")
        ->type_name("N")
        ->transform(int_range(0, largest_seed));
}

void add_fire_rate(CLI::App& command, std::optional<float>& fire_rate) {
    command
        .add_option("--fire-rate", fire_rate,
                    "chance that a cell updates in a step (the model's own)")
        ->type_name("F")
        ->check(real_range(0, 1));
}

// Options of `nca train` whose text has an inner form.
struct TrainTexts {
    std::optional<std::string> steps;
    std::optional<std::string> betas;
    std::optional<std::string> damage_radius;

    void parse(TrainArguments& a) const {
        if (steps) {
            parse_step_range(*steps, a);
        }
        if (betas) {
            std::tie(a.beta1, a.beta2) = parse_pair("--betas", *betas, "B1:B2, such as 0.9:0.999");
        }
        if (damage_radius) {
            std::tie(a.smallest_damage, a.largest_damage) =
                parse_pair("--damage-radius", *damage_radius, "A:B, such as 0.1:0.4");
        }
    }
};

// What is left to say when all options are read: whether it is one training or several, and how to
// go on with what is stopped.
Arguments train_arguments(TrainManyArguments many, const std::vector<std::string>& command_line) {
    TrainArguments& common = many.common;
    const bool alone = many.targets.size() == 1;
    common.stop_checkpoint = common.checkpoint;
    if (common.stop_checkpoint.empty() && alone) {
        common.stop_checkpoint = common.output;
        common.stop_checkpoint += ".checkpoint";
    } else if (common.stop_checkpoint.empty()) {
        // Where they came from, so that those that had not begun again are found there as well.
        common.stop_checkpoint = common.resume.empty() ? common.output : common.resume;
    }
    common.resume_command = resume_command(command_line, common.stop_checkpoint);
    if (!alone) {
        return many;
    }
    common.target = many.targets.front();
    return common;
}

CLI::App* add_train(CLI::App& app, TrainManyArguments& all, DeviceOptions& device,
                    TrainTexts& texts) {
    TrainArguments& a = all.common;
    CLI::App* command = app.add_subcommand("train", "Train an automaton to grow into a picture");
    command
        ->add_option("TARGET", all.targets,
                     "the picture: PNG, JPEG, BMP, TGA or GIF; several are trained side by side")
        ->type_name("")
        ->required();
    command
        ->add_option("-o,--output", a.output,
                     "where the model goes; of several targets a folder, for TARGET.safetensors")
        ->type_name("MODEL")
        ->required();
    command
        ->add_option("--preset", a.preset,
                     "growing (default), persistent, regenerating or notebook")
        ->type_name("NAME");
    command->add_option("--iterations", a.iterations, "updates of the weights (8000)")
        ->type_name("N")
        ->transform(int_range(1, largest_count));
    command->add_option("--batch", a.batch, "grids per iteration (8)")
        ->type_name("N")
        ->transform(int_range(1, 4096));
    command->add_option("--steps", texts.steps, "steps per iteration, drawn from A..B-1 (64:96)")
        ->type_name("A:B");
    command
        ->add_option("--warmup", a.warmup,
                     "iterations over which the steps rise from an eighth to their full number, "
                     "for training that dies or explodes early (0)")
        ->type_name("N")
        ->transform(int_range(0, 1'000'000));
    command
        ->add_option("--pool", a.pool,
                     "states that training goes on with; 0: always from the start cell "
                     "(persistent, regenerating: 1024)")
        ->type_name("N")
        ->transform(int_range(0, 65536));
    command
        ->add_option("--damage", a.damaged,
                     "the best N of each batch lose a random circle (regenerating: 3)")
        ->type_name("N")
        ->transform(int_range(0, 4095));
    command
        ->add_option("--damage-radius", texts.damage_radius,
                     "range of the circle's radius, in halves of the grid (0.1:0.4)")
        ->type_name("A:B");
    command
        ->add_option("--damage-centre", a.damage_centre,
                     "how far from the middle the circle's centre may be, in halves of the grid "
                     "(0.5)")
        ->type_name("F")
        ->check(real_range(0, 1));
    command->add_option("--size", a.size, "cells along the target's longer side (40)")
        ->type_name("N")
        ->transform(int_range(8, 4096));
    command->add_option("--padding", a.padding, "empty cells around the target (16; notebook: 0)")
        ->type_name("N")
        ->transform(int_range(0, 4096));
    command->add_option("--lr", a.learning_rate, "Adam's learning rate at the start (0.002)")
        ->type_name("F")
        ->check(real_range(0, std::numeric_limits<float>::max()));
    command->add_option("--betas", texts.betas, "Adam's decay rates (0.9:0.999)")
        ->type_name("B1:B2");
    add_seed(*command, a.seed);
    command
        ->add_option("--identity-filter", a.identity_filter,
                     "preset notebook only; 0 takes the all-zero filter that the notebook prints "
                     "in place of the identity (1)")
        ->type_name("0|1")
        ->transform(int_range(0, 1));
    device.add_to(*command);
    auto* checkpoint =
        command->add_option("--checkpoint", a.checkpoint, "save all that --resume needs here")
            ->type_name("FILE");
    command->add_option("--every", a.every, "iterations between checkpoints (500)")
        ->type_name("N")
        ->transform(int_range(1, largest_count))
        ->needs(checkpoint);
    command
        ->add_option("--resume", a.resume,
                     "go on from a checkpoint; give the same options and target as before, only "
                     "--iterations, the device and the output files may differ")
        ->type_name("FILE");
    command
        ->add_option("--log", a.log,
                     "one csv row per iteration; --resume goes on with the rows that are there")
        ->type_name("FILE");
    command
        ->add_option("--report", a.report,
                     "a page that shows how training goes: loss, batch, pool and what has grown; "
                     "written anew every ten seconds or so, for any browser")
        ->type_name("FILE.html");
    command
        ->add_option("--pictures", a.pictures,
                     "the pictures of such a page as PNG files, written over as often")
        ->type_name("FOLDER");
    command->add_flag("--quiet", a.quiet, "print nothing but warnings and errors");
    command->footer(
        "Ctrl-C saves the weights and a checkpoint and prints the command that goes on.\n\n"
        "Several targets have the same options and seed. Then -o, --checkpoint, --resume, --log,\n"
        "--report and --pictures name folders, made where missing, in which lizard.png has\n"
        "lizard.safetensors, lizard.checkpoint, lizard.csv, lizard.html and the folder lizard.\n"
        "--resume goes on with what was stopped, begins what has no checkpoint there, and leaves\n"
        "alone what is done. A GPU has up to 16 at once, the CPU as many as --threads.\n\n"
        "Example:\n  nca train data/lizard.png -o lizard.safetensors --log lizard.csv "
        "--report lizard.html\n  nca train data/*.png -o models --checkpoint models");
    return command;
}

CLI::App* add_grow(CLI::App& app, GrowArguments& a, DeviceOptions& device, std::string& size,
                   std::vector<std::string>& starts, std::vector<std::string>& damages) {
    CLI::App* command = app.add_subcommand("grow", "Grow a picture from one cell");
    command
        ->add_option("MODEL", a.models,
                     "made by nca train, or by PyTorch; several grow side by side, in one mosaic")
        ->type_name("")
        ->required();
    command
        ->add_option("-o,--output", a.output,
                     "out.gif or out.webp: the growth; out.png: the last state")
        ->type_name("FILE")
        ->required();
    command->add_option("--steps", a.steps, "how long (200)")
        ->type_name("N")
        ->transform(int_range(0, 10'000'000));
    command
        ->add_option("--size", size,
                     "the grid in cells, rows first (as trained, the largest of several; or 72x72)")
        ->type_name("HxW");
    command->add_option("--every", a.every, "steps between frames (for about 100 frames)")
        ->type_name("K")
        ->transform(int_range(1, largest_count));
    command->add_option("--scale", a.scale, "pixels along each side of a cell (8)")
        ->type_name("N")
        ->transform(int_range(1, 64));
    add_fire_rate(*command, a.fire_rate);
    command
        ->add_option("--angle", a.angle,
                     "turns perception and so the picture, counterclockwise (0)")
        ->type_name("DEGREES")
        ->check(real_range(-36000, 36000));
    add_seed(*command, a.seed);
    device.add_to(*command);
    command
        ->add_option("--seed-at", starts,
                     "start from the cell in this column and row, counted from 0, and not from the "
                     "one in the middle; may be repeated")
        ->type_name("X,Y")
        ->expected(1)
        ->take_all();
    command
        ->add_option("--damage", damages,
                     "kill cells after so many steps: STEP:circle,X,Y,RADIUS or "
                     "STEP:half,left|right|top|bottom; may be repeated")
        ->type_name("STEP:SHAPE")
        ->expected(1)
        ->take_all();
    command
        ->add_option("--state-out", a.state_out,
                     "the last state as .npy, float32 [height, width, 16]")
        ->type_name("FILE");
    command
        ->add_option(
            "--compare", a.compare,
            "PNG only: the target, turned by --angle, the grown picture and their difference "
            "side by side")
        ->type_name("TARGET");
    command->add_flag("--transparent", a.transparent, "no white background");
    command->footer(
        "Example:\n  nca grow lizard.safetensors -o lizard.gif --damage 100:circle,36,20,8\n"
        "  nca grow lizard.safetensors -o two.gif --size 72x144 --seed-at 36,36 --seed-at 108,36\n"
        "  nca grow lizard.safetensors fish.safetensors -o mosaic.webp");
    return command;
}

CLI::App* add_gradcheck(CLI::App& app, GradcheckArguments& a, DeviceOptions& device) {
    CLI::App* command = app.add_subcommand(
        "gradcheck", "Compare an engine's gradients with a reference in double precision");
    command->add_option("MODEL", a.model, "made by nca train, or by PyTorch")->required();
    command->add_option("TARGET", a.target, "a picture; its own size is the grid's")->required();
    command->add_option("--steps", a.steps, "of the rollout (8)")
        ->type_name("N")
        ->transform(int_range(1, 1000));
    command->add_option("--batch", a.batch, "grids (1)")
        ->type_name("N")
        ->transform(int_range(1, 64));
    add_fire_rate(*command, a.fire_rate);
    add_seed(*command, a.seed);
    device.add_to(*command);
    command->add_option("--out", a.out, "the engine's gradients as safetensors")
        ->type_name("GRADS");
    command->footer("Example:\n  nca gradcheck lizard.safetensors small.png --steps 8");
    return command;
}

CLI::App* add_info(CLI::App& app, InfoArguments& a, DeviceOptions& device) {
    CLI::App* command = app.add_subcommand(
        "info", "Print a model's rule, weights and history, or what an engine is");
    command->add_option("MODEL", a.model,
                        "made by nca train, or by PyTorch; not needed for --device");
    auto* name =
        command
            ->add_option("--device", device.name,
                         "what this engine is and in which form it runs the iterations of each "
                         "preset: auto (default), cpu, cuda or cuda:1")
            ->type_name("[DEVICE]")
            ->expected(0, 1);
    device.add_precision(*command)->needs(name);
    command->footer("Example:\n  nca info lizard.safetensors\n  nca info --device cuda");
    return command;
}

CLI::App* add_convert(CLI::App& app, ConvertArguments& a) {
    CLI::App* command = app.add_subcommand(
        "convert", "Turn a model into one of the Distill article's web demo, or back");
    command->add_option("IN", a.input, "a model.safetensors, or a model.json of the demo")
        ->required();
    command->add_option("OUT", a.output, "the other of the two")->required();
    command->footer(
        "The demo keeps weights in 8 bits and runs them all by one rule: where the model's is\n"
        "another, a line says what will differ.\n\n"
        "Example:\n  nca convert lizard.safetensors lizard.json\n"
        "  nca convert lizard.json lizard.safetensors");
    return command;
}

}  // namespace

Arguments parse_arguments(int argc, const char* const* argv) {
    CLI::App app("Grows pictures from one cell: neural cellular automata, trained and run", "nca");
    app.set_version_flag("--version", "nca " NCA_VERSION);
    app.require_subcommand(1);
    app.footer(
        "Example:\n  nca train data/lizard.png -o lizard.safetensors\n"
        "  nca grow lizard.safetensors -o lizard.gif\n"
        "`nca COMMAND --help` says more.");

    TrainManyArguments train_many_arguments;
    GrowArguments grow_arguments;
    GradcheckArguments gradcheck_arguments;
    InfoArguments info_arguments;
    ConvertArguments convert_arguments;
    DeviceOptions device;  // of whichever command it is
    TrainTexts train_texts;
    std::string grid_size;
    std::vector<std::string> starts;
    std::vector<std::string> damages;
    CLI::App* train_command = add_train(app, train_many_arguments, device, train_texts);
    CLI::App* grow_command = add_grow(app, grow_arguments, device, grid_size, starts, damages);
    CLI::App* gradcheck_command = add_gradcheck(app, gradcheck_arguments, device);
    CLI::App* info_command = add_info(app, info_arguments, device);
    add_convert(app, convert_arguments);

    const auto chosen = [&]() -> std::string {
        const std::vector<CLI::App*> commands = app.get_subcommands();
        return commands.empty() ? "nca" : "nca " + commands.front()->get_name();
    };
    try {
        app.parse(argc, argv);
    } catch (const CLI::Success& request) {  // --help, --version
        std::ostringstream text;
        app.exit(request, text, text);
        return HelpArguments{text.str()};
    } catch (const CLI::ParseError& error) {
        if (argc > 1 && argv[1][0] != '-' && app.get_subcommands().empty()) {
            throw UsageError(fmt::format(
                "{}: no such command, expected train, grow, gradcheck, info or convert", argv[1]));
        }
        throw UsageError(fmt::format("{} (see {} --help)", error.what(), chosen()));
    }

    if (train_command->parsed()) {
        train_texts.parse(train_many_arguments.common);
        train_many_arguments.common.device = device.parse();
        return train_arguments(train_many_arguments, {argv, argv + argc});
    }
    if (grow_command->parsed()) {
        if (grow_command->count("--size") > 0) {
            parse_grid_size(grid_size, grow_arguments);
        }
        for (const std::string& text : starts) {
            grow_arguments.starts.push_back(parse_start(text));
        }
        for (const std::string& text : damages) {
            grow_arguments.damages.push_back(parse_damage(text));
        }
        grow_arguments.device = device.parse();
        return grow_arguments;
    }
    if (gradcheck_command->parsed()) {
        gradcheck_arguments.device = device.parse();
        return gradcheck_arguments;
    }
    if (info_command->parsed()) {
        if (info_command->count("--device") > 0) {
            if (device.name.empty()) {  // the option without a value
                device.name = "auto";
            }
            info_arguments.device = device.parse();
        } else if (info_arguments.model.empty()) {
            throw UsageError("MODEL or --device is required (see nca info --help)");
        }
        return info_arguments;
    }
    return convert_arguments;
}

}  // namespace nca::tool
