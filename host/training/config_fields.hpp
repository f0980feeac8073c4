// SPDX-License-Identifier: MIT
#pragma once

// The fields of TrainingConfig, without its rule. Checks, checkpoints, the command line and reports
// read this table.

#include <nca/error.hpp>
#include <nca/training_config.hpp>

#include <fmt/format.h>

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>

namespace nca {

struct ConfigField {
    using Member =
        std::variant<std::string TrainingConfig::*, bool TrainingConfig::*, int TrainingConfig::*,
                     std::uint32_t TrainingConfig::*, float TrainingConfig::*,
                     Initialisation TrainingConfig::*, Schedule TrainingConfig::*>;

    const char* name;  // in checkpoints
    Member member;
    const char* title = name;       // in messages
    double least = 0;               // smallest valid number
    double most = 0;                // largest valid number
    const char* expected = "";      // the valid values in words
    const char* choices[2] = {};    // names of an enumeration's values in checkpoints
    const char* label = "";         // in reports; "": part of the previous field's row
    const char* format = "{}";      // in reports: this value, then the next field's
    const char* shown[2] = {};      // values of a bool or an enumeration in reports
    int exclusive = 0;              // 1: a range ends before it; reports show one less
    const char* option = nullptr;   // of nca train; null: none, or the previous field's
    const char* argument = "";      // of the option, in its help
    const char* example = nullptr;  // of an argument that sets this field and the next
    const char* help = "";          // text for the option
};

inline constexpr float largest_beta = 1 - std::numeric_limits<float>::epsilon() / 2;  // below 1

// In the order in which checkpoints store them.
inline constexpr ConfigField config_fields[] = {
    {.name = "preset", .member = &TrainingConfig::preset, .label = "preset"},
    {.name = "output_bias",
     .member = &TrainingConfig::output_bias,
     .label = "output bias",
     .shown = {"no", "yes"}},
    {.name = "initialisation",
     .member = &TrainingConfig::initialisation,
     .expected = "pytorch or glorot",
     .choices = {"pytorch", "glorot"},
     .label = "first layer at first",
     .shown = {"PyTorch's default", "Glorot uniform"}},
    {.name = "schedule",
     .member = &TrainingConfig::schedule,
     .expected = "exponential or drop",
     .choices = {"exponential", "drop"},
     .label = "schedule",
     .shown = {"times 0.9999 each iteration", "a tenth from iteration 2000"}},
    {.name = "normalise_gradients",
     .member = &TrainingConfig::normalise_gradients,
     .label = "gradient",
     .shown = {"as is", "normalised per tensor"}},
    {.name = "learning_rate",
     .member = &TrainingConfig::learning_rate,
     .title = "learning rate",
     .least = std::numeric_limits<float>::denorm_min(),
     .most = std::numeric_limits<float>::max(),
     .expected = "a finite number above 0",
     .label = "learning rate",
     .option = "--lr",
     .argument = "F",
     .help = "Adam's learning rate at the start (0.002)"},
    {.name = "beta1",
     .member = &TrainingConfig::beta1,
     .most = largest_beta,
     .expected = "0 or more and less than 1",
     .label = "Adam's betas",
     .format = "{}, {}",
     .option = "--betas",
     .argument = "B1:B2",
     .example = "0.9:0.999",
     .help = "Adam's decay rates (0.9:0.999)"},
    {.name = "beta2",
     .member = &TrainingConfig::beta2,
     .most = largest_beta,
     .expected = "0 or more and less than 1"},
    {.name = "batch",
     .member = &TrainingConfig::batch,
     .least = 1,
     .most = 4096,
     .expected = "1 to 4096",
     .label = "batch",
     .option = "--batch",
     .argument = "N",
     .help = "grids per iteration (8)"},
    {.name = "fewest_steps",
     .member = &TrainingConfig::fewest_steps,
     .title = "the smallest number of steps",
     .least = 1,
     .most = std::numeric_limits<int>::max(),
     .expected = "1 or more",
     .label = "steps",
     .format = "{} to {}",
     .option = "--steps",
     .argument = "A:B",
     .example = "64:96",
     .help = "steps per iteration, drawn from A..B-1 (64:96)"},
    {.name = "most_steps",
     .member = &TrainingConfig::most_steps,
     .title = "the end of the range of steps",
     .least = 1,
     .most = 100000,
     .expected = "more than its begin and at most 100000",
     .exclusive = 1},
    {.name = "warmup",
     .member = &TrainingConfig::warmup,
     .most = 1000000,
     .expected = "0 to 1000000 iterations",
     .label = "warmup",
     .format = "{} iterations",
     .option = "--warmup",
     .argument = "N",
     .help = "iterations over which the steps rise from an eighth to their full number, for "
             "training that dies or explodes early (0)"},
    {.name = "pool",
     .member = &TrainingConfig::pool,
     .most = 65536,
     .expected = "0 to 65536",
     .label = "pool",
     .format = "{} states",
     .option = "--pool",
     .argument = "N",
     .help = "states that training goes on with; 0: always from the start cell (persistent, "
             "regenerating: 1024)"},
    {.name = "damaged",
     .member = &TrainingConfig::damaged,
     .title = "damage",
     .most = 4095,
     .expected = "0 to 4095",
     .label = "damaged samples",
     .option = "--damage",
     .argument = "N",
     .help = "the best N of each batch lose a random circle (regenerating: 3)"},
    {.name = "damage_centre",
     .member = &TrainingConfig::damage_centre,
     .title = "the damage's centre",
     .most = 1,
     .expected = "0 to 1, of half the grid",
     .label = "damage centre",
     .format = "within {}",
     .option = "--damage-centre",
     .argument = "F",
     .help = "how far from the middle the circle's centre may be, in halves of the grid (0.5)"},
    {.name = "smallest_damage",
     .member = &TrainingConfig::smallest_damage,
     .title = "the smallest radius of damage",
     .most = 4,
     .expected = "0 or more, at most the largest",
     .label = "damage radius",
     .format = "{} to {}",
     .option = "--damage-radius",
     .argument = "A:B",
     .example = "0.1:0.4",
     .help = "range of the circle's radius, in halves of the grid (0.1:0.4)"},
    {.name = "largest_damage",
     .member = &TrainingConfig::largest_damage,
     .title = "the largest radius of damage",
     .most = 4,
     .expected = "at most 4, of half the grid"},
    {.name = "target_size",
     .member = &TrainingConfig::target_size,
     .title = "size",
     .least = 8,
     .most = 4096,
     .expected = "8 to 4096 cells",
     .label = "target's longer side",
     .format = "{} cells",
     .option = "--size",
     .argument = "N",
     .help = "cells along the target's longer side (40)"},
    {.name = "padding",
     .member = &TrainingConfig::padding,
     .most = 4096,
     .expected = "0 to 4096 cells",
     .label = "padding",
     .format = "{} cells",
     .option = "--padding",
     .argument = "N",
     .help = "empty cells around the target (16; notebook: 0)"},
    {.name = "seed",
     .member = &TrainingConfig::seed,
     .most = std::numeric_limits<std::uint32_t>::max(),
     .expected = "0 to 4294967295",
     .label = "seed",
     .option = "--seed",
     .argument = "N",
     .help = "of every random draw (0)"},
};

inline void require_field(bool good, const char* what, auto got, std::string_view expected) {
    if (!good) throw InvalidArgument(fmt::format("{} is {}: expected {}", what, got, expected));
}

// Throws InvalidArgument where the field's value is out of its range. Ignores other fields.
inline void check_field(const ConfigField& field, const TrainingConfig& config) {
    const auto check = [&]<class Value>(const Value& value) {
        if constexpr (std::is_enum_v<Value>) {
            const int index = int(value);
            require_field(index == 0 || index == 1, field.title, index, field.expected);
        } else if constexpr (std::is_arithmetic_v<Value> && !std::is_same_v<Value, bool>) {
            require_field(value >= field.least && value <= field.most, field.title, value,
                          field.expected);
        }
    };
    std::visit([&](auto member) { check(config.*member); }, field.member);
}

}  // namespace nca
