// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>
#include <nca/rule.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace nca {

enum class Initialisation {
    pytorch,  // first layer uniform in +-1/sqrt(48), bias too
    glorot,   // first layer uniform in +-sqrt(6 / (48 + 128)), bias zero
};            // the second layer starts at zero in both

enum class Schedule {
    exponential,  // learning_rate * 0.9999^iteration
    drop,         // learning_rate, a tenth of it from iteration 2000
};

// Everything that decides a training run but the target. Made by preset(), then changed at will.
struct TrainingConfig {
    std::string preset;
    Rule rule;
    bool output_bias = true;
    Initialisation initialisation = Initialisation::glorot;
    Schedule schedule = Schedule::drop;
    bool normalise_gradients = true;
    float learning_rate = 2e-3F;
    float beta1 = 0.9F;
    float beta2 = 0.999F;
    int batch = 8;
    int fewest_steps = 64;  // steps are uniform in fewest_steps .. most_steps - 1
    int most_steps = 96;
    int warmup = 0;   // iterations over which the steps rise from an eighth to their full number
    int pool = 0;     // states in the pool; 0: every rollout starts from the start cell
    int damaged = 0;  // samples of each batch, those of lowest loss, that lose a circle
    // The circles, in coordinates that run from -1 to 1 across the grid: centre uniform in
    // +-damage_centre, radius uniform in smallest_damage .. largest_damage.
    float damage_centre = 0.5F;
    float smallest_damage = 0.1F;
    float largest_damage = 0.4F;
    int target_size = 40;  // the target's longer side is scaled to this, in cells
    int padding = 16;      // dead cells around the target, on each side
    std::uint32_t seed = 0;

    bool operator==(const TrainingConfig&) const = default;

    // Throws InvalidArgument naming the first value outside its range.
    NCA_API void validate() const;
    int grid() const { return target_size + 2 * padding; }  // cells along each side
};

// "notebook", "growing", "persistent" or "regenerating". Throws InvalidArgument for any other name,
// listing these.
NCA_API TrainingConfig preset(std::string_view name);

}  // namespace nca
