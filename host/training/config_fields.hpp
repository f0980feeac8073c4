// SPDX-License-Identifier: MIT
#pragma once

// The fields of TrainingConfig, without its rule. Checks, checkpoints, the command line and reports
// read this table, so that a new field is written once. The library itself shows no option.

#include <nca/training_config.hpp>

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>

#include "host/core/throw_error.hpp"

namespace nca {

struct ConfigField {
    using Member =
        std::variant<std::string TrainingConfig::*, bool TrainingConfig::*, int TrainingConfig::*,
                     std::uint32_t TrainingConfig::*, float TrainingConfig::*,
                     Initialisation TrainingConfig::*, Schedule TrainingConfig::*>;

    // The valid values: of a number from least to most, of an enumeration the names of both.
    struct Values {
        double least = 0;
        double most = 0;
        const char* words = "";       // the same for people
        const char* choices[2] = {};  // in checkpoints
    };
    // In reports. No label: the value is part of the previous field's row.
    struct Row {
        const char* label = "";
        const char* format = "{}";  // of this value, and of the next field's
        const char* shown[2] = {};  // the values of a bool or an enumeration
    };
    // Of nca train. No name: there is none, or it is the previous field's.
    struct Option {
        const char* name = nullptr;
        const char* argument = "";
        const char* help = "";
        const char* example = nullptr;  // where the argument sets this field and the next
        const char* none = nullptr;     // the word that sets both to 0
    };

    const char* name;  // in checkpoints
    Member member;
    const char* title;  // in messages
    Values values = {};
    Row row = {};
    Option option = {};
    int exclusive = 0;  // 1: a range ends before it; reports show one less
    // Newer than version 0.2.0: checkpoints have it where it is not its default.
    bool newer = false;
};

inline constexpr double least_float_above_0 = std::numeric_limits<float>::denorm_min();
inline constexpr double largest_float = std::numeric_limits<float>::max();
inline constexpr double largest_float_below_1 = 1 - std::numeric_limits<float>::epsilon() / 2;

// In the order in which checkpoints store them.
// clang-format off
inline constexpr ConfigField config_fields[] = {
    {"preset", &TrainingConfig::preset, "preset", {}, {"preset"}},
    {"output_bias", &TrainingConfig::output_bias, "output bias", {},
     {"output bias", "{}", {"no", "yes"}}},
    {"initialisation", &TrainingConfig::initialisation, "initialisation",
     {0, 1, "pytorch or glorot", {"pytorch", "glorot"}},
     {"first layer at first", "{}", {"PyTorch's default", "Glorot uniform"}}},
    {"schedule", &TrainingConfig::schedule, "schedule",
     {0, 1, "exponential or drop", {"exponential", "drop"}},
     {"schedule", "{}", {"times 0.9999 each iteration", "a tenth from iteration 2000"}}},
    {"normalise_gradients", &TrainingConfig::normalise_gradients, "normalise_gradients", {},
     {"gradient", "{}", {"as is", "normalised per tensor"}}},
    {"learning_rate", &TrainingConfig::learning_rate, "learning rate",
     {least_float_above_0, largest_float, "a finite number above 0"}, {"learning rate"},
     {"--lr", "F", "Adam's learning rate at the start (0.002)"}},
    {"beta1", &TrainingConfig::beta1, "beta1",
     {0, largest_float_below_1, "0 or more and less than 1"}, {"Adam's betas", "{}, {}"},
     {"--betas", "B1:B2", "Adam's decay rates (0.9:0.999)", "0.9:0.999"}},
    {"beta2", &TrainingConfig::beta2, "beta2",
     {0, largest_float_below_1, "0 or more and less than 1"}},
    {"batch", &TrainingConfig::batch, "batch", {1, 4096, "1 to 4096"}, {"batch"},
     {"--batch", "N", "grids per iteration (8)"}},
    {"fewest_steps", &TrainingConfig::fewest_steps, "the smallest number of steps",
     {1, std::numeric_limits<int>::max(), "1 or more"}, {"steps", "{} to {}"},
     {"--steps", "A:B", "steps per iteration, drawn from A..B-1 (64:96)", "64:96"}},
    {"most_steps", &TrainingConfig::most_steps, "the end of the range of steps",
     {1, 100000, "more than its begin and at most 100000"}, {}, {}, 1},
    {"earliest_loss_step", &TrainingConfig::earliest_loss_step, "the smallest step of the loss",
     {0, 100000, "1 or more"},
     {"steps of the loss", "{} to {}"},
     {"--loss-steps", "last|A:B", "each sample's loss is after a step drawn from A..B-1, and not "
      "after the last one (last)", "48:96", "last"}, 0, true},
    {"latest_loss_step", &TrainingConfig::latest_loss_step, "the end of the steps of the loss",
     {0, 100000, "more than its begin and at most the end of the range of steps"}, {}, {}, 1, true},
    {"warmup", &TrainingConfig::warmup, "warmup", {0, 1000000, "0 to 1000000 iterations"},
     {"warmup", "{} iterations"},
     {"--warmup", "N", "iterations over which the steps rise from an eighth to their full number, "
      "for training that dies or explodes early (0)"}},
    {"pool", &TrainingConfig::pool, "pool", {0, 65536, "0 to 65536"}, {"pool", "{} states"},
     {"--pool", "N", "states that training goes on with; 0: always from the start cell "
      "(persistent, regenerating: 1024)"}},
    {"damaged", &TrainingConfig::damaged, "damage", {0, 4095, "0 to 4095"}, {"damaged samples"},
     {"--damage", "N", "the best N of each batch lose a random circle (regenerating: 3)"}},
    {"damage_centre", &TrainingConfig::damage_centre, "the damage's centre",
     {0, 1, "0 to 1, of half the grid"}, {"damage centre", "within {}"},
     {"--damage-centre", "F", "how far from the middle the circle's centre may be, in halves of "
      "the grid (0.5)"}},
    {"smallest_damage", &TrainingConfig::smallest_damage, "the smallest radius of damage",
     {0, 4, "0 or more, at most the largest"}, {"damage radius", "{} to {}"},
     {"--damage-radius", "A:B", "range of the circle's radius, in halves of the grid (0.1:0.4)",
      "0.1:0.4"}},
    {"largest_damage", &TrainingConfig::largest_damage, "the largest radius of damage",
     {0, 4, "at most 4, of half the grid"}},
    {"target_size", &TrainingConfig::target_size, "size", {8, 4096, "8 to 4096 cells"},
     {"target's longer side", "{} cells"},
     {"--size", "N", "cells along the target's longer side (40, or a small picture's own)"}},
    {"padding", &TrainingConfig::padding, "padding", {0, 4096, "0 to 4096 cells"},
     {"padding", "{} cells"},
     {"--padding", "N", "empty cells around the target (16; notebook: 0)"}},
    {"seed", &TrainingConfig::seed, "seed",
     {0, std::numeric_limits<std::uint32_t>::max(), "0 to 4294967295"}, {"seed"},
     {"--seed", "N", "of every random draw (0)"}},
};
// clang-format on

// The field that the same option sets and the same row shows, from its second value; or null.
inline const ConfigField* second_field(const ConfigField& field) {
    return field.option.example != nullptr ? &field + 1 : nullptr;
}

inline void require_field(bool good, const char* what, auto got, std::string_view expected) {
    if (!good) throw_error<InvalidArgument>("{} is {}: expected {}", what, got, expected);
}

// Throws InvalidArgument where the field's value is out of its range. Ignores other fields.
inline void check_field(const ConfigField& field, const TrainingConfig& config) {
    const auto check = [&]<class Value>(const Value& value) {
        if constexpr (std::is_enum_v<Value>) {
            require_field(int(value) == 0 || int(value) == 1, field.title, int(value),
                          field.values.words);
        } else if constexpr (std::is_arithmetic_v<Value> && !std::is_same_v<Value, bool>) {
            require_field(value >= field.values.least && value <= field.values.most, field.title,
                          value, field.values.words);
        }
    };
    std::visit([&](auto member) { check(config.*member); }, field.member);
}

}  // namespace nca
