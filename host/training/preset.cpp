// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <nca/trainer.hpp>

#include "host/core/start_cells.hpp"
#include "host/core/throw_error.hpp"
#include "host/training/config_fields.hpp"

namespace nca {

TrainingConfig preset(std::string_view name) {
    TrainingConfig config;
    config.preset = name;
    if (name == "growing") return config;
    if (name == "notebook") {
        config.rule = notebook_rule();
        config.output_bias = false;
        config.initialisation = Initialisation::pytorch;
        config.schedule = Schedule::exponential;
        config.normalise_gradients = false;
        config.padding = 0;
        return config;
    }
    if (name == "persistent" || name == "regenerating") {
        config.pool = 1024;
        config.damaged = name == "regenerating" ? 3 : 0;
        return config;
    }
    throw_error<InvalidArgument>("there is no preset \"{}\": use one of {}", name,
                                 fmt::join(all_presets, ", "));
}

void TrainingConfig::validate() const {
    rule.validate();
    for (const ConfigField& field : config_fields) check_field(field, *this);
    require_field(most_steps > fewest_steps, "the end of the range of steps", most_steps,
                  "more than its begin");
    if (earliest_loss_step != 0 || latest_loss_step != 0) {
        require_field(earliest_loss_step >= 1 && earliest_loss_step <= fewest_steps,
                      "the smallest step of the loss", earliest_loss_step,
                      fmt::format("1 to {}, the fewest steps of a rollout", fewest_steps));
        require_field(latest_loss_step > earliest_loss_step && latest_loss_step <= most_steps,
                      "the end of the steps of the loss", latest_loss_step,
                      fmt::format("{} to {}, the end of the range of steps", earliest_loss_step + 1,
                                  most_steps));
    }
    require_field(pool == 0 || pool >= batch, "pool", pool,
                  fmt::format("0, or at least the batch, which is {}, and at most 65536", batch));
    require_field(
        damaged == 0 || damaged < batch, "damage", damaged,
        fmt::format("less than the batch, which is {}: one of it becomes the start cell", batch));
    require_field(damaged == 0 || pool > 0, "damage", damaged,
                  "0, as there is no pool: only states of a pool are damaged");
    require_field(smallest_damage <= largest_damage, "the smallest radius of damage",
                  smallest_damage, "0 or more, at most the largest");
    // Checkpoints store the places of a pool's cells in float32.
    require_field(pool == 0 || grid() <= 4096, "the grid's side", grid(),
                  "at most 4096 with a pool");
    const std::string wrong = wrong_start_cells(start_cells, {grid(), grid()});
    if (!wrong.empty()) throw_error<InvalidArgument>("{}", wrong);
}

}  // namespace nca
