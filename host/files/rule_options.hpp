// SPDX-License-Identifier: MIT
#pragma once

// What options change in a rule: of a file without one, and of a training.

#include <nca/model.hpp>

#include <utility>

namespace nca {

// The notebook's Sobel filters, times the scale: x is filter 1, y is filter 2.
inline Filter scaled_sobel(std::size_t filter, float scale) {
    Filter scaled = notebook_rule().filters[filter];
    for (float& value : scaled) value *= scale;
    return scaled;
}

// Throws InvalidArgument where the rule is not valid then.
inline void apply(const LoadOptions& options, Rule& rule) {
    rule.edges = options.edges.value_or(rule.edges);
    rule.life = options.life.value_or(rule.life);
    rule.start_cell = options.start_cell.value_or(rule.start_cell);
    rule.fire_rate = options.fire_rate.value_or(rule.fire_rate);
    rule.step_size = options.step_size.value_or(rule.step_size);
    rule.premultiplied = options.premultiplied.value_or(rule.premultiplied);
    if (options.sobel_scale) {
        for (const std::size_t k : {1, 2}) rule.filters[k] = scaled_sobel(k, *options.sobel_scale);
    }
    if (options.identity_filter == false) rule.filters[0] = {};
    if (options.transposed) std::swap(rule.filters[1], rule.filters[2]);
    rule.validate();
}

}  // namespace nca
