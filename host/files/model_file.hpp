// SPDX-License-Identifier: MIT
#pragma once

#include "host/files/safetensors.hpp"

#include <nca/model.hpp>

#include <span>
#include <string>
#include <string_view>

namespace nca {

// The metadata that says how far a checkpoint's run is, as JSON.
inline constexpr auto progress_key = "nca.progress";

// Adds the model to the file: its weights as tensors, rule and history as metadata "nca.rule" and
// "nca.history". Throws InvalidArgument where the rule is invalid or a weight is not finite.
void put_model(const Model& model, SafetensorsFile& file);

// Whether the file has a rule, as all have that this library writes.
bool has_rule(const SafetensorsReader& file);

// Whether the weights have the names and shapes that this library writes. An output bias does not
// matter.
bool has_own_tensors(const SafetensorsReader& file);

// The rule of a file that has one. Throws FormatError where it has none or it is wrong.
Rule take_rule(const SafetensorsReader& file);

// Takes the model from a file that has a rule. Ignores a checkpoint's tensors. Throws FormatError
// where a tensor is missing, unknown or misshapen, a weight is not finite, or the metadata is wrong
// or has no rule. Reads no tensor before it has checked all names and shapes.
Model take_model(const SafetensorsReader& file);

// The file's history; that of no training where it has none. Throws FormatError where it is wrong.
TrainingHistory take_history(const SafetensorsReader& file);

// Whether a tensor is one of those that a checkpoint adds: "adam.", "good.", "recovery.", "init.",
// "pool." and the target.
bool is_checkpoint_tensor(std::string_view name);

// The first value that is not finite, or null.
const float* find_not_finite(std::span<const float> values);

// Throws InvalidArgument where the number of weights is wrong or a weight is not finite.
void require_finite(const Weights& weights);

// Adds parameters, laid out as Weights::all(), as tensors whose names begin with the prefix. Throws
// InvalidArgument where their number is wrong.
void put_parameters(SafetensorsFile& file, const std::string& prefix, std::span<const float> all,
                    bool output_bias);
// Takes them from the file. Throws FormatError where one is missing, misshapen or not finite.
void take_parameters(std::span<float> all, const SafetensorsReader& file, const std::string& prefix,
                     bool output_bias);

// Converts a rule to JSON and back. rule_from_text throws FormatError, whose message begins with
// `where`.
std::string rule_to_text(const Rule& rule);
Rule rule_from_text(const std::string& text, const std::string& where);

}  // namespace nca
