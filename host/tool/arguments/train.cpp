// SPDX-License-Identifier: MIT
#include "host/core/throw_error.hpp"
#include "host/tool/arguments/options.hpp"
#include "host/tool/arguments/parse_duration.hpp"
#include "host/tool/places.hpp"
#include "host/tool/safe_text.hpp"

#include "host/files/rule_options.hpp"
#include "host/pictures/image_header.hpp"
#include "host/training/config_fields.hpp"

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>
#include <variant>

namespace nca::tool {
namespace {

// The options as parsed.
struct TrainOptions {
    TrainManyArguments arguments;
    DeviceOptions device;
    std::optional<std::string> preset;
    std::vector<std::pair<const ConfigField*, std::string>> changes;  // to the preset
    LoadOptions rule;                                                 // changes to its rule
    std::optional<int> identity_filter;
    std::vector<std::string> starts;
};

// Adds the option of each field that has one.
void add_config_options(CLI::App& command, TrainOptions& options) {
    for (const ConfigField& field : config_fields) {
        if (field.option.name == nullptr) continue;
        const auto remember = [&options, &field](const std::string& text) {
            options.changes.emplace_back(&field, text);
        };
        command.add_option_function<std::string>(field.option.name, remember, field.option.help)
            ->type_name(field.option.argument);
    }
}

// False where the text is not a number of the field's type.
bool set_number(TrainingConfig& config, const ConfigField& field, std::string_view text) {
    const auto set = [&]<class Value>(Value& value) {
        if constexpr (std::is_arithmetic_v<Value> && !std::is_same_v<Value, bool>) {
            const std::optional<Value> number = parse_number<Value>(text);
            value = number.value_or(value);
            return number.has_value();
        } else {
            return false;
        }
    };
    return std::visit([&](auto member) { return set(config.*member); }, field.member);
}

// Of two fields that are int.
bool is_less(const TrainingConfig& config, const ConfigField& a, const ConfigField& b) {
    const auto value = [&](const ConfigField& field) {
        return config.*std::get<int TrainingConfig::*>(field.member);
    };
    return value(a) < value(b);
}

// Throws UsageError that names the option and what it accepts.
void set_field(TrainingConfig& config, const ConfigField& field, const std::string& text) {
    const auto fail = [&](std::string_view why) {
        throw_error<UsageError>("{} {}: {}", field.option.name, text, why);
    };
    const auto check = [&](const ConfigField& each) {
        try {
            check_field(each, config);
        } catch (const InvalidArgument& error) {
            fail(error.what());
        }
    };
    if (second_field(field) == nullptr) {
        if (!set_number(config, field, text)) fail(fmt::format("expected {}", field.values.words));
        return check(field);
    }
    const ConfigField& second = *second_field(field);
    if (field.option.none != nullptr && text == field.option.none) {
        set_number(config, field, "0");
        set_number(config, second, "0");
        return;
    }
    const std::vector<std::string_view> parts = split(text, ':');
    if (parts.size() != 2 || !set_number(config, field, parts[0]) ||
        !set_number(config, second, parts[1])) {
        fail(fmt::format("expected {}, such as {}", field.option.argument, field.option.example));
    }
    check(field);
    check(second);
    if (field.option.none != nullptr && split(text, ':').front() == "0") {
        fail(fmt::format("expected 1 or more, or {}", field.option.none));
    }
    if (second.exclusive != 0 && !is_less(config, field, second)) {
        fail("steps are drawn from A..B-1, so A has to be less than B");
    }
}

void set_rule(Rule& rule, const TrainOptions& options) {
    if (options.rule.fire_rate == 0) {
        throw UsageError("--fire-rate 0: no cell would ever update; expected more, up to 1");
    }
    if (options.rule.step_size == 0) {
        throw UsageError("--step-size 0: no update would change anything; expected another number");
    }
    try {
        apply(options.rule, rule);
    } catch (const InvalidArgument& error) {
        throw_error<UsageError>("--sobel-scale {}: {}", options.rule.sobel_scale.value_or(0),
                                error.what());
    }
    if (options.identity_filter) {
        rule.filters[0] = *options.identity_filter == 0 ? Filter{} : notebook_rule().filters[0];
    }
}

// The options on top of a configuration. Each is checked by itself.
TrainingConfig changed(TrainingConfig config, const TrainOptions& options) {
    for (const auto& [field, text] : options.changes) set_field(config, *field, text);
    set_rule(config.rule, options);
    if (!options.starts.empty()) config.start_cells = parse_starts(options.starts);
    return config;
}

TrainingConfig preset_of(const TrainOptions& options) {
    return preset(options.preset.value_or("growing"));
}

TrainingConfig config_of(const TrainOptions& options) {
    if (options.identity_filter && options.preset != "notebook") {
        throw UsageError("--identity-filter: only the preset notebook has this choice");
    }
    TrainingConfig config = changed(preset_of(options), options);
    require_start_cells(config);
    try {
        config.validate();
    } catch (const InvalidArgument& error) {  // of two options that do not go together
        std::string given;
        for (const auto& [field, text] : options.changes) {
            given += fmt::format("{} {} ", field->option.name, text);
        }
        throw_error<UsageError>("{}: {}", given.substr(0, given.size() - 1), error.what());
    }
    return config;
}

// The same command line, with --resume set to this checkpoint or folder of checkpoints. A
// checkpoint holds what --init was; of several targets those that begin need it.
std::string resume_command(const std::vector<std::string>& command_line,
                           const std::filesystem::path& checkpoint, bool single) {
    std::vector<std::string_view> left_out = {"--resume"};
    if (single) left_out.emplace_back("--init");
    std::vector<std::string> words;
    const auto options_end = std::ranges::find(command_line, "--");
    for (auto word = command_line.begin(); word != options_end; ++word) {
        if (std::ranges::count(left_out, *word) > 0 && word + 1 != options_end) {
            ++word;
        } else if (*word != "--overwrite" &&
                   std::ranges::count(left_out, word->substr(0, word->find('='))) == 0 &&
                   !word->starts_with("--overwrite=")) {
            words.push_back(shell_quoted(*word));
        }
    }
    words.push_back("--resume " + shell_quoted(checkpoint.string()));
    for (auto word = options_end; word != command_line.end(); ++word) {
        words.push_back(shell_quoted(*word));
    }
    return fmt::format("{}", fmt::join(words, " "));
}

// Decides between one training and several. Sets where a stopped training is saved, and the command
// that continues it.
Arguments train_arguments(TrainManyArguments many, const std::vector<std::string>& command_line) {
    TrainArguments& common = many.common;
    const bool single = many.targets.size() <= 1;
    if (single && !common.init.empty() && !common.resume.empty()) {
        throw UsageError(
            "--init and --resume: a checkpoint goes on with weights of its own, so give one of the "
            "two");
    }
    common.stop_checkpoint = common.checkpoint;
    if (common.stop_checkpoint.empty() && single) {
        constexpr std::size_t longest_begin = 240;  // of a file name of 255 bytes
        common.stop_checkpoint = common.output;
        common.stop_checkpoint.replace_filename(
            common.output.filename().string().substr(0, longest_begin) + ".checkpoint");
    } else if (common.stop_checkpoint.empty()) {
        // The folder that was resumed also has the checkpoints of trainings not begun again.
        common.stop_checkpoint = common.resume.empty() ? common.output : common.resume;
    }
    // The run's own checkpoint stays that of the run, so that it can be trained on.
    if (!common.resume.empty() && common.checkpoint.empty() &&
        common.resume.lexically_normal() == common.stop_checkpoint.lexically_normal()) {
        common.checkpoint = common.stop_checkpoint;
    }
    common.resume_from = common.stop_checkpoint;
    common.resume_command = resume_command(command_line, common.resume_from, single);
    if (!single) return many;
    if (!many.targets.empty()) common.target = many.targets.front();
    return common;
}

// Options that end training early.
void add_limits(CLI::App& command, TrainArguments& a) {
    add(command, "--stop-at", a.stop_at, "LOSS",
        "end before --iterations are done where the median of the last 50 losses is below this")
        ->check(real_range(std::numeric_limits<double>::denorm_min(),
                           std::numeric_limits<double>::max(), "a finite number above 0"));
    const auto set_time = [&a](const std::string& text) {
        a.time = parse_duration(text);
        if (!a.time) {
            throw_error<UsageError>(
                "--time {}: expected a time with its units, such as 90s, 10m or 1h30m, from 1s to "
                "{}h",
                text, longest_duration.count());
        }
    };
    command
        .add_option_function<std::string>(
            "--time", set_time,
            "stop this long after the start as Ctrl-C does, such as 90s, 10m or 1h30m")
        ->type_name("TIME");
}

// Options for files, without the model's.
void add_file_options(CLI::App& command, TrainArguments& a, CLI::Option& target) {
    auto* checkpoint =
        add(command, "--checkpoint", a.checkpoint, "FILE", "save all that --resume needs here");
    add(command, "--every", a.every, "N", "iterations between checkpoints (500)")
        ->transform(int_range(1, largest_count))
        ->needs(checkpoint);
    add(command, "--resume", a.resume, "FILE",
        "go on from a checkpoint, which has the target and the options; only --iterations, "
        "--stop-at, --time, the device and the output files may be others")
        ->each([&target](const std::string&) { target.required(false); });
    add(command, "--init", a.init, "MODEL",
        "start from the weights of this model in place of new ones; any file that nca grow reads");
    command.add_flag("--overwrite", a.overwrite,
                     "where there is no --resume, begin anew over the files of an earlier run");
    add(command, "--log", a.log, "FILE",
        "one csv row per iteration; --resume goes on with the rows that are there");
    add(command, "--report", a.report, "FILE.html",
        "a page that shows how training goes: loss, batch, pool and what has grown; written anew "
        "every ten seconds or so, for any browser");
    add(command, "--pictures", a.pictures, "FOLDER",
        "the pictures of such a page as PNG files, written over as often");
}

}  // namespace

Command add_train(CLI::App& app, const std::vector<std::string>& command_line) {
    const auto options = std::make_shared<TrainOptions>();
    TrainArguments& a = options->arguments.common;
    CLI::App* command = app.add_subcommand("train", "Train an automaton to grow into a picture");
    CLI::Option* const target =
        add(*command, "TARGET", options->arguments.targets, "",
            fmt::format("the picture: {}; several are trained side by side; a checkpoint has its "
                        "own",
                        image_formats))
            ->required();
    add(*command, "-o,--output", a.output, "MODEL",
        "where the model goes, NAME.safetensors; of several targets a folder, for "
        "TARGET.safetensors")
        ->required();
    add(*command, "--preset", options->preset, "NAME",
        fmt::format("one of {} (growing)", fmt::join(all_presets, ", ")));
    const CLI::Option* const iterations =
        add(*command, "--iterations", a.iterations, "N",
            "updates of the weights (8000; with --resume as many as were wanted)")
            ->transform(int_range(1, largest_count));
    add_limits(*command, a);
    add_config_options(*command, *options);
    add(*command, "--identity-filter", options->identity_filter, "0|1",
        "preset notebook only; 0 takes the all-zero filter that the notebook prints in place of "
        "the identity (1)")
        ->transform(int_range(0, 1));
    add_starts(
        *command, options->starts,
        fmt::format("start from the cell in this column and row of the grid, counted from 0, "
                    "padding included; may be repeated, up to {} times (the cell in the "
                    "middle)",
                    most_start_cells));
    add_fire_rate(*command, options->rule.fire_rate, "0.5");
    add_rule_options(*command, options->rule,
                     "what is beyond the edge of the grid: circular, that is the opposite side, or "
                     "zero, that is dead cells (notebook circular, the others zero)");
    options->device.add_to(*command);
    add_file_options(*command, a, *target);
    command->add_flag("--quiet", a.quiet, "print nothing but warnings and errors");
    command->footer(
        "Ctrl-C saves the weights and a checkpoint and prints the command that goes on.\n"
        "The signal SIGUSR1 asks for a line with iteration, speed and loss, also with --quiet.\n\n"
        "Several targets have the same options and seed. Then -o, --checkpoint, --resume, --log,\n"
        "--report and --pictures name folders, made where missing, in which lizard.png has\n"
        "lizard.safetensors, lizard.checkpoint, lizard.csv, lizard.html and the folder lizard.\n"
        "--resume goes on with what was stopped, begins what has no checkpoint there, and leaves\n"
        "alone what is done. A GPU has up to 16 at once, the CPU as many as --threads.\n\n"
        "Example:\n  nca train data/lizard.png -o lizard.safetensors --log lizard.csv "
        "--report lizard.html\n  nca train --resume lizard.safetensors.checkpoint -o "
        "lizard.safetensors\n  nca train data/fish.png -o fish.safetensors --init "
        "lizard.safetensors\n  nca train data/*.png -o models --checkpoint models");
    return {command, [options, command_line, iterations] {
                TrainManyArguments many = options->arguments;
                TrainArguments& common = many.common;
                common.configure = [options](const TrainingConfig* checkpoint) {
                    if (checkpoint == nullptr) return config_of(*options);
                    TrainingConfig config = changed(*checkpoint, *options);
                    if (options->preset) config.preset = *options->preset;
                    return config;
                };
                if (common.resume.empty()) {
                    common.config = common.configure(nullptr);
                } else {  // finds mistakes that need no file
                    changed(preset_of(*options), *options);
                }
                common.iterations_given = iterations->count() > 0;
                common.size_given = std::ranges::any_of(options->changes, [](const auto& change) {
                    return std::string_view(change.first->name) == "target_size";
                });
                common.device = options->device.parse();
                return train_arguments(many, command_line);
            }};
}

}  // namespace nca::tool
