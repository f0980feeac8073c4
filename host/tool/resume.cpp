// SPDX-License-Identifier: MIT
#include "host/tool/resume.hpp"

#include "host/core/start_cells.hpp"
#include "host/core/throw_error.hpp"
#include "host/files/model_file.hpp"
#include "host/tool/rule_text.hpp"
#include "host/training/config_fields.hpp"

#include <nca/error.hpp>
#include <nca/model.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

namespace nca::tool {
namespace {

// An option of `nca train`, and the value that it gives to a configuration.
struct OptionValue {
    const char* option;
    std::string value;
};

std::string number_text(const ConfigField& field, const TrainingConfig& config) {
    const auto text = [](const auto& value) {
        if constexpr (std::is_arithmetic_v<std::decay_t<decltype(value)>>) {
            return fmt::format("{}", value);
        } else {
            return std::string();
        }
    };
    return std::visit([&](auto member) { return text(config.*member); }, field.member);
}

// All options that make the configuration, always in the same order.
std::vector<OptionValue> option_values(const TrainingConfig& config) {
    std::vector<OptionValue> values = {{"--preset", config.preset}};
    for (const ConfigField& field : config_fields) {
        if (field.option.name == nullptr) continue;
        std::string value = number_text(field, config);
        if (field.option.none != nullptr && value == "0") {
            value = field.option.none;
        } else if (const ConfigField* second = second_field(field)) {
            value = fmt::format("{}:{}", value, number_text(*second, config));
        }
        values.push_back({field.option.name, value});
    }
    for (const auto text : {rule_text, filters_text}) {
        for (const RuleValue& value : text(config.rule)) {
            if (value.option == nullptr) continue;
            values.push_back(
                {value.option, value.option_value.empty() ? value.text : value.option_value});
        }
    }
    const std::vector<Place> middle = {middle_of({config.grid(), config.grid()})};
    values.push_back(
        {"--seed-at", start_cells_text(config.start_cells.empty() ? middle : config.start_cells)});
    const Filter& first = config.rule.filters[0];
    values.push_back({"--identity-filter", first == Filter{}            ? "0"
                                           : first == Rule().filters[0] ? "1"
                                                                        : filter_text(first)});
    return values;
}

struct OptionDifference {
    std::string option;
    std::string value;
    std::string other;
};

std::optional<OptionDifference> first_differing_option(const TrainingConfig& config,
                                                       const TrainingConfig& other) {
    const std::vector<OptionValue> values = option_values(config), others = option_values(other);
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (values[i].value == others[i].value) continue;
        return OptionDifference{values[i].option, values[i].value, others[i].value};
    }
    return {};
}

// A checkpoint can be read as a model, too.
bool is_model_alone(const std::filesystem::path& path) {
    try {
        if (SafetensorsReader(path).metadata().contains(progress_key)) return false;
    } catch (const FormatError&) {  // perhaps a model of another format
    }
    try {
        Model::load(path);
        return true;
    } catch (const Error&) {
        return false;
    }
}

}  // namespace

CheckpointInfo resumed_info(const std::filesystem::path& checkpoint) {
    try {
        return checkpoint_info(checkpoint);
    } catch (const FormatError&) {
        if (!is_model_alone(checkpoint)) throw;
        throw_error<UsageError>(
            "--resume {0}: it is a model; a checkpoint also has the optimiser's moments, the pool "
            "and the progress of its run. --init {0} starts a new run from the model's weights",
            checkpoint.string());
    }
}

void require_same_options(const TrainArguments& arguments, const std::filesystem::path& checkpoint,
                          const CheckpointInfo& info) {
    const auto difference = first_differing_option(arguments.configure(&info.config), info.config);
    if (!difference) return;
    throw_error<UsageError>("{} {}: {} was made with {}; leave the option out, or give the same",
                            difference->option, difference->value, checkpoint.string(),
                            difference->other);
}

void require_same_options(const std::filesystem::path& checkpoint, const CheckpointInfo& info,
                          const std::filesystem::path& other, const CheckpointInfo& other_info) {
    TrainingConfig config = info.config;
    config.target_size = other_info.config.target_size;
    std::optional<OptionDifference> difference = first_differing_option(config, other_info.config);
    if (!difference && info.init != other_info.init) {
        const auto text = [](const std::string& init) {
            return init.empty() ? std::string("no model") : init;
        };
        difference = {"--init", text(info.init), text(other_info.init)};
    }
    if (!difference) return;
    throw_error<UsageError>(
        "{} was made with {} {}, and {} with {}: several targets have the same options, so resume "
        "each by itself",
        checkpoint.string(), difference->option, difference->value, other.string(),
        difference->other);
}

std::int64_t wanted_iterations(const TrainArguments& arguments, const CheckpointInfo& info) {
    if (arguments.iterations_given) return arguments.iterations;
    const std::int64_t wanted =
        info.wanted_iterations > 0 ? info.wanted_iterations : arguments.iterations;
    return std::max(wanted, info.iterations);
}

void require_single_checkpoint(const TrainArguments& arguments) {
    std::error_code ignored;
    if (arguments.target.empty() && std::filesystem::is_directory(arguments.resume, ignored)) {
        throw_error<UsageError>(
            "--resume {}: to go on with a folder of checkpoints give the targets, too; a single "
            "checkpoint needs none",
            arguments.resume.string());
    }
}

void take_checkpoint_options(TrainArguments& arguments) {
    const CheckpointInfo info = resumed_info(arguments.resume);
    require_same_options(arguments, arguments.resume, info);
    arguments.config = info.config;
    arguments.iterations = wanted_iterations(arguments, info);
}

}  // namespace nca::tool
