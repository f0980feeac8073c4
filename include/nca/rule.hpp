// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>
#include <nca/sizes.hpp>

#include <array>

namespace nca {

// What lies beyond the edge of the grid, for perception and for the life mask alike.
enum class Edges {
    circular,  // the opposite side
    zero,      // dead cells
};

// When a cell is kept: living after the update, or both before and after it.
enum class Life {
    post,
    pre_and_post,
};

// What plant_seed writes into the start cell; all other channels are zero.
enum class StartCell {
    alpha,             // alpha = 1
    alpha_and_hidden,  // alpha = 1 and the twelve hidden channels = 1
};

// A 3x3 filter, row-major, cross-correlated (not flipped): filter[(dy + 1) * 3 + (dx + 1)].
using Filter = std::array<float, 9>;

// Everything about an automaton but its weights. The default is the rule of the `growing` preset
// (Mordvintsev et al., Distill 2020, experiment 1).
struct Rule {
    std::array<Filter, filter_count> filters = {{
        {0, 0, 0, 0, 1, 0, 0, 0, 0},
        {-0.125F, 0, 0.125F, -0.25F, 0, 0.25F, -0.125F, 0, 0.125F},
        {-0.125F, -0.25F, -0.125F, 0, 0, 0, 0.125F, 0.25F, 0.125F},
    }};
    Edges edges = Edges::zero;
    Life life = Life::pre_and_post;
    StartCell start_cell = StartCell::alpha_and_hidden;
    float fire_rate = 0.5F;     // in 0..1, the chance that a cell updates in a step
    float step_size = 1.0F;     // finite
    bool premultiplied = true;  // colour channels hold colour * alpha

    bool operator==(const Rule&) const = default;

    // Throws InvalidArgument where a value is outside its range or not finite.
    NCA_API void validate() const;

    // The values of the start cell.
    NCA_API std::array<float, channels> start_values() const;

    // The rule with its last two filters rotated: cos * Sx - sin * Sy and sin * Sx + cos * Sy.
    NCA_API Rule rotated(double degrees) const;
};

// The notebook's rule: circular edges, plain Sobel, life after the update, straight alpha.
NCA_API Rule notebook_rule();

// The rule that the web demo of the Distill article runs every model by: that of the `growing`
// preset with circular edges.
NCA_API Rule distill_demo_rule();

}  // namespace nca
