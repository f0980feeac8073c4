// SPDX-License-Identifier: MIT
#pragma once

#include <nca/rule.hpp>

#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

namespace nca::tool {

// Names and values of a rule as text, without its filters.
inline std::vector<std::pair<const char*, std::string>> rule_text(const Rule& rule) {
    return {
        {"edges", rule.edges == Edges::zero ? "zero" : "circular"},
        {"life", rule.life == Life::post ? "after the update" : "before and after the update"},
        {"start cell",
         rule.start_cell == StartCell::alpha ? "alpha = 1" : "alpha and hidden channels = 1"},
        {"fire rate", fmt::format("{}", rule.fire_rate)},
        {"step size", fmt::format("{}", rule.step_size)},
        {"colours", rule.premultiplied ? "premultiplied by alpha" : "straight"},
    };
}

}  // namespace nca::tool
