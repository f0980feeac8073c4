// SPDX-License-Identifier: MIT
#pragma once

// A training that starts from the weights of a model.

#include <nca/error.hpp>
#include <nca/model.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "host/core/throw_error.hpp"

namespace nca {

// The weights, which were not moved from, with an output bias or without one. A missing one becomes
// zeros. Throws InvalidArgument where one that is not zero would be left out. name: of the model.
inline Weights init_weights(const Weights& weights, bool output_bias, std::string_view name) {
    const auto bias = weights.all().subspan(parameter_count(false));
    if (!output_bias && std::ranges::any_of(bias, [](float value) { return value != 0; })) {
        throw_error<InvalidArgument>(
            "{} has an output bias, and this training has none: take --preset growing, persistent "
            "or regenerating",
            name);
    }
    Weights result(output_bias);
    std::ranges::copy(weights.all().first(parameter_count(false)), result.all().begin());
    if (output_bias) {
        std::ranges::copy(bias, result.all().begin() + parameter_count(false));
    }
    return result;
}

// TrainingHistory::init of a training that starts from a model of this name and history.
inline std::string init_text(const TrainingHistory& history, const std::string& name) {
    // Of a model's file, and so perhaps of others.
    const auto fits = [](const std::string& text) { return !text.empty() && text.size() <= 255; };
    std::string text = name;
    if (history.iterations > 0) {
        text += fmt::format(", {} iterations", history.iterations);
        if (fits(history.preset)) text += " of " + history.preset;
        if (fits(history.target)) text += " on " + history.target;
    }
    return text;
}

}  // namespace nca
