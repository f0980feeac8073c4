// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>
#include <nca/place.hpp>
#include <nca/rule.hpp>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nca {

/// The first weights. W2 and b2 are always zero at first.
enum class Initialisation {
    pytorch,  ///< W1 and b1 uniform in +-1/sqrt(48)
    glorot,   ///< W1 uniform in +-sqrt(6 / (48 + 128)), b1 zero
};

/// The learning rate of an iteration, counted from 0.
enum class Schedule {
    exponential,  ///< learning_rate * 0.9999^iteration
    drop,         ///< learning_rate; a tenth of it from iteration 2000 on
};

/// Everything that decides a training run, except target and device. Made by preset(); its values
/// may then be changed. The defaults are those of the preset growing.
struct TrainingConfig {
    std::string preset;       ///< its name, for the model's history
    Rule rule;                ///< how a step is computed; training does not change it
    bool output_bias = true;  ///< whether the weights have b2
    Initialisation initialisation = Initialisation::glorot;  ///< the first weights
    Schedule schedule = Schedule::drop;                      ///< how the learning rate falls
    bool normalise_gradients = true;  ///< see AdamOptions::normalise_gradients
    float learning_rate = 2e-3F;      ///< at first; above 0
    float beta1 = 0.9F;               ///< of Adam, from 0 to below 1
    float beta2 = 0.999F;             ///< of Adam, from 0 to below 1
    int batch = 8;                    ///< samples of an iteration, in 1..4096
    int fewest_steps = 64;  ///< at least 1; a rollout has fewest_steps .. most_steps - 1, uniformly
    int most_steps = 96;    ///< above fewest_steps, at most 100000
    /// The loss of each sample is that of its state after so many steps, drawn uniformly from
    /// earliest_loss_step .. latest_loss_step - 1; no more than the rollout has, which goes on to
    /// its end: a pool gets the last states. 0 and 0: the loss of the last states. Otherwise
    /// earliest_loss_step is in 1..fewest_steps, latest_loss_step above it and at most most_steps.
    int earliest_loss_step = 0;
    int latest_loss_step = 0;  ///< see earliest_loss_step
    /// Iterations in which the steps rise from an eighth to their full number, in 0..1000000.
    int warmup = 0;
    /// States in the pool, from batch to 65536; 0: no pool, each rollout starts from the start
    /// cell. With a pool, an iteration continues from states of it, but the one of highest loss
    /// becomes the start cell (Distill 2020, experiment 2).
    int pool = 0;
    /// Samples of each batch, those of lowest loss, in which a circle is cleared (experiment 3).
    /// Less than batch; 0 without a pool.
    int damaged = 0;
    /// Centres of circles are uniform in +-damage_centre, which is in 0..1. Circles have
    /// coordinates from -1 to 1 across the grid.
    float damage_centre = 0.5F;
    /// Radii of circles are uniform in smallest_damage .. largest_damage; at least 0.
    float smallest_damage = 0.1F;
    float largest_damage = 0.4F;  ///< at least smallest_damage, at most 4
    int target_size = 40;         ///< the target's longer side is scaled to this, in 8..4096 cells
    int padding = 16;             ///< cells of zeros around the target, on each side, in 0..4096
    std::uint32_t seed = 0;       ///< the seed of all random numbers
    /// The cells of the grid, padding included, that a rollout starts from; all of them get
    /// Rule::start_values(). Empty: the one in the middle, {grid() / 2, grid() / 2}. At most
    /// most_start_cells, no two equal. Their order does not matter to the result.
    std::vector<Place> start_cells = {};

    /// Whether all values are equal.
    bool operator==(const TrainingConfig&) const = default;

    /// Throws InvalidArgument where a value is outside its range, or where there is a pool and the
    /// grid's side is above 4096; the message names the first.
    NCA_API void validate() const;
    /// The grid's side, in cells.
    int grid() const { return target_size + 2 * padding; }
};

/// The names of all presets: the notebook's, then those of the Distill article's experiments 1
/// to 3.
inline constexpr std::array<std::string_view, 4> all_presets = {"notebook", "growing", "persistent",
                                                                "regenerating"};

/// The configuration of that name, one of all_presets. Throws InvalidArgument for any other name.
NCA_API TrainingConfig preset(std::string_view name);

}  // namespace nca
