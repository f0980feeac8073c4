// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>
#include <nca/rule.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace nca {

// The first weights. W2 and b2 are always zero at first.
enum class Initialisation {
    pytorch,  // W1 and b1 uniform in +-1/sqrt(48)
    glorot,   // W1 uniform in +-sqrt(6 / (48 + 128)), b1 zero
};

// The learning rate of an iteration, counted from 0.
enum class Schedule {
    exponential,  // learning_rate * 0.9999^iteration
    drop,         // learning_rate; a tenth of it from iteration 2000 on
};

// Everything that decides a training run, except target and device. Made by preset(); its values
// may then be changed.
struct TrainingConfig {
    std::string preset;  // its name, for the model's history
    Rule rule;
    bool output_bias = true;
    Initialisation initialisation = Initialisation::glorot;
    Schedule schedule = Schedule::drop;
    bool normalise_gradients = true;
    float learning_rate = 2e-3F;
    float beta1 = 0.9F;
    float beta2 = 0.999F;
    int batch = 8;
    int fewest_steps = 64;  // steps of a rollout: uniform in fewest_steps .. most_steps - 1
    int most_steps = 96;
    int warmup = 0;   // iterations in which the steps rise from an eighth to their full number
    int pool = 0;     // states in the pool; 0: no pool, each rollout starts from the start cell
    int damaged = 0;  // samples of each batch, those of lowest loss, in which a circle is cleared
    // The circles, in coordinates from -1 to 1 across the grid: centre uniform in +-damage_centre,
    // radius uniform in smallest_damage .. largest_damage.
    float damage_centre = 0.5F;
    float smallest_damage = 0.1F;
    float largest_damage = 0.4F;
    int target_size = 40;    // the target's longer side is scaled to this, in cells
    int padding = 16;        // cells of zeros around the target, on each side
    std::uint32_t seed = 0;  // of all random numbers

    bool operator==(const TrainingConfig&) const = default;

    // Throws InvalidArgument where a value is outside its range; the message names the first.
    NCA_API void validate() const;
    int grid() const { return target_size + 2 * padding; }  // the grid's side, in cells
};

// The configuration of that name: "notebook", "growing", "persistent" or "regenerating". Throws
// InvalidArgument for any other name.
NCA_API TrainingConfig preset(std::string_view name);

}  // namespace nca
