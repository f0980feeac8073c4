// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>
#include <nca/sizes.hpp>

#include <array>

namespace nca {

/// What perception and the life mask find beyond the edge of the grid.
enum class Edges {
    circular,  ///< the cells of the opposite side
    zero,      ///< cells of zeros
};

/// Which cells a step keeps: the life mask. Cells that it does not keep become zero.
enum class Life {
    post,          ///< those that are living after the update
    pre_and_post,  ///< those that are living both before and after the update
};

/// The values of the start cell; its other channels are zero.
enum class StartCell {
    alpha,             ///< alpha = 1
    alpha_and_hidden,  ///< alpha = 1 and the twelve hidden channels = 1
};

/// A 3x3 filter: filter[(dy + 1) * 3 + (dx + 1)] is the factor of the cell at (y + dy, x + dx).
using Filter = std::array<float, 9>;

/// Everything about an automaton except its weights: how a step is computed (docs/mathematics.md).
/// The default is the rule of the `growing` preset: experiment 1 of Mordvintsev et al., Distill
/// 2020.
struct Rule {
    /// The filters of perception: identity, Sobel x, Sobel y. Finite numbers.
    std::array<Filter, filter_count> filters = {{
        {0, 0, 0, 0, 1, 0, 0, 0, 0},
        {-0.125F, 0, 0.125F, -0.25F, 0, 0.25F, -0.125F, 0, 0.125F},
        {-0.125F, -0.25F, -0.125F, 0, 0, 0, 0.125F, 0.25F, 0.125F},
    }};
    Edges edges = Edges::zero;                           ///< what lies beyond the edge of the grid
    Life life = Life::pre_and_post;                      ///< which cells a step keeps
    StartCell start_cell = StartCell::alpha_and_hidden;  ///< what a pattern grows from
    float fire_rate = 0.5F;     ///< in 0..1: the probability that a cell fires in a step
    float step_size = 1.0F;     ///< finite; an update is step_size * u
    bool premultiplied = true;  ///< colour channels hold colour * alpha

    /// Whether all values are equal.
    bool operator==(const Rule&) const = default;

    /// Throws InvalidArgument where a value is outside its range or not finite.
    NCA_API void validate() const;

    /// All channels of the start cell.
    NCA_API std::array<float, channels> start_values() const;

    /// The rule with its last two filters rotated: cos * Sx - sin * Sy and sin * Sx + cos * Sy. A
    /// pattern then grows rotated (Distill 2020, experiment 4). Throws InvalidArgument where
    /// degrees is not finite.
    NCA_API Rule rotated(double degrees) const;
};

/// The rule of the authors' PyTorch notebook: circular edges, Sobel filters without the factor 1/8,
/// Life::post, a start cell of alpha, straight alpha.
NCA_API Rule notebook_rule();

/// The rule by which the web demo of the Distill article runs every model: that of the `growing`
/// preset, with circular edges.
NCA_API Rule distill_demo_rule();

}  // namespace nca
