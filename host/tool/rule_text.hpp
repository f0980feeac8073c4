// SPDX-License-Identifier: MIT
#pragma once

#include "host/core/rule_names.hpp"
#include "host/files/rule_options.hpp"

#include <nca/rule.hpp>
#include <nca/training_config.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// Rules as text, and how they differ.
namespace nca::tool {

struct RuleValue {
    const char* name;
    std::string text;               // the value, for people
    const char* option = nullptr;   // of `nca train`, that sets it; null: there is none
    std::string option_value = {};  // empty: a value that the option cannot set
};

// Rows of three numbers.
inline std::string filter_text(const Filter& filter) {
    return fmt::format("{} / {} / {}", fmt::join(filter.begin(), filter.begin() + 3, " "),
                       fmt::join(filter.begin() + 3, filter.begin() + 6, " "),
                       fmt::join(filter.begin() + 6, filter.end(), " "));
}

inline std::string first_filter_text(const Filter& filter) {
    if (filter == Filter{}) return "all zero";
    return filter == Rule().filters[0] ? "the identity" : filter_text(filter);
}

// What --sobel-scale makes the filters of the rule; empty where they are others.
inline std::string sobel_scale_text(const Rule& rule) {
    const float scale = rule.filters[1][2];
    const bool scaled =
        rule.filters[1] == scaled_sobel(1, scale) && rule.filters[2] == scaled_sobel(2, scale);
    return scaled ? fmt::format("{}", scale) : "";
}

// Everything of a rule but its filters.
inline std::vector<RuleValue> rule_text(const Rule& rule) {
    const std::string fire_rate = fmt::format("{}", rule.fire_rate);
    const std::string step_size = fmt::format("{}", rule.step_size);
    return {
        {"edges", rule.edges == Edges::zero ? "zero" : "circular", "--edges",
         edges_names[std::size_t(rule.edges)]},
        {"life", rule.life == Life::post ? "after the update" : "before and after the update",
         "--life", life_names[std::size_t(rule.life)]},
        {"start cell",
         rule.start_cell == StartCell::alpha ? "alpha = 1" : "alpha and hidden channels = 1"},
        {"fire rate", fire_rate, "--fire-rate", fire_rate},
        {"step size", step_size, "--step-size", step_size},
        {"colours", rule.premultiplied ? "premultiplied by alpha" : "straight"},
    };
}

// The same of its filters.
inline std::vector<RuleValue> filters_text(const Rule& rule) {
    const std::string scale = sobel_scale_text(rule);
    const std::string others = filter_text(rule.filters[1]) + ", " + filter_text(rule.filters[2]);
    return {{"first filter", first_filter_text(rule.filters[0])},
            {"Sobel scale", scale.empty() ? "other filters, " + others : scale, "--sobel-scale",
             scale}};
}

// The values in which two rules differ: of the first, of the second.
inline std::vector<std::pair<RuleValue, RuleValue>> differences(const Rule& a, const Rule& b) {
    std::vector<std::pair<RuleValue, RuleValue>> result;
    for (const auto text : {rule_text, filters_text}) {
        const std::vector<RuleValue> of_a = text(a), of_b = text(b);
        for (std::size_t i = 0; i < of_a.size(); ++i) {
            if (of_a[i].text != of_b[i].text) result.emplace_back(of_a[i], of_b[i]);
        }
    }
    return result;
}

// The rule of the preset of this name; none where there is no such preset.
inline std::optional<Rule> rule_of_preset(const std::string& name) {
    if (std::ranges::count(all_presets, name) == 0) return {};
    return preset(name).rule;
}

// The preset, and what of the configuration's rule differs from it.
inline std::string preset_text(const TrainingConfig& config) {
    const std::optional<Rule> rule = rule_of_preset(config.preset);
    std::string text = config.preset;
    if (!rule) return text;
    const char* before = " with ";
    for (const auto& [value, of_preset] : differences(config.rule, *rule)) {
        text += value.option_value.empty()
                    ? fmt::format("{}{} {}", before, value.name, value.text)
                    : fmt::format("{}{} {}", before, value.option, value.option_value);
        before = " ";
    }
    return text;
}

// Names and values for a table. Values that differ from those of the preset, if there is one of
// this name, say so; filters are there only where they differ.
inline std::vector<std::pair<const char*, std::string>> rule_table(const Rule& rule,
                                                                   const std::string& preset_name) {
    std::vector<std::pair<const char*, std::string>> rows;
    for (const RuleValue& value : rule_text(rule)) rows.emplace_back(value.name, value.text);
    const std::optional<Rule> of_preset = rule_of_preset(preset_name);
    if (!of_preset) return rows;
    for (const auto& [value, other] : differences(rule, *of_preset)) {
        const std::string text =
            fmt::format("{} (preset {}: {})", value.text, preset_name, other.text);
        const auto row = std::ranges::find_if(rows, [&name = value.name](const auto& each) {
            return each.first == std::string_view(name);
        });
        if (row != rows.end()) {
            row->second = text;
        } else {
            rows.emplace_back(value.name, text);
        }
    }
    return rows;
}

}  // namespace nca::tool
