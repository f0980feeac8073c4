// SPDX-License-Identifier: MIT
#pragma once

#include "host/core/start_cells.hpp"
#include "host/tool/arguments/arguments.hpp"
#include "host/tool/console.hpp"
#include "host/tool/rule_text.hpp"
#include "host/training/init_weights.hpp"

#include <nca/model.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>

// The model of --init, whose weights are the first of a training.
namespace nca::tool {

// Reads the model, if there is to be one, and says what its file does not. Throws IoError,
// FormatError and UsageError.
inline std::optional<Model> load_init(const TrainArguments& arguments) {
    if (arguments.init.empty()) return {};
    const std::string path = arguments.init.string();
    std::optional<Model> model;
    try {
        model = load_model(arguments.init);
    } catch (const InvalidArgument&) {  // its message names options that a training has not
        throw_error<UsageError>(
            "--init {0}: the file has no rule, and its automaton lives under none that is tried; "
            "make a model of it first: nca convert {0} OUT --rule NAME --input-order ORDER",
            path);
    }
    return model;
}

// Throws InvalidArgument where the weights do not fit the training.
inline void check_init(const Model& model, const TrainArguments& arguments) {
    init_weights(model.weights, arguments.config.output_bias, "--init " + arguments.init.string());
}

inline std::string init_name(const TrainArguments& arguments) {
    return arguments.init.filename().string();
}

// Says from what a training starts, and where its rule and start cells are not those of the model.
inline void describe_init(const Model& model, const TrainArguments& arguments) {
    const std::string name = init_name(arguments);
    say("starts from {}{}", init_text(model.history, name),
        model.history.loss > 0 ? fmt::format(", loss {:.3e}", model.history.loss) : "");
    std::string what, options;
    bool all_have_options = true;
    for (const auto& [value, other] : differences(model.rule, arguments.config.rule)) {
        what += fmt::format("{}{} {} and not {}", what.empty() ? "" : ", ", value.name, value.text,
                            other.text);
        all_have_options &= !value.option_value.empty();
        if (!value.option_value.empty()) {
            options += fmt::format(" {} {}", value.option, value.option_value);
        }
    }
    if (!all_have_options) {
        const auto same = std::ranges::find_if(all_presets, [&](std::string_view preset_name) {
            return preset(preset_name).rule == model.rule;
        });
        options = same == all_presets.end() ? "" : fmt::format(" --preset {}", *same);
    }
    if (!what.empty()) {
        say("the rule of {} is another: {}{}", name, what,
            options.empty() ? "" : "; the same with" + options);
    }
    if (model.history.start_cells != arguments.config.start_cells) {
        say("{} started from {}, and this training starts from {}: --seed-at names others", name,
            start_cells_text(model.history.start_cells),
            start_cells_text(arguments.config.start_cells));
    }
}

}  // namespace nca::tool
