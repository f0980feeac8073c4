// SPDX-License-Identifier: MIT
#pragma once

#include "host/files/safetensors.hpp"

#include <nca/model.hpp>

#include <filesystem>
#include <string>

namespace nca {

// Adds the model to the file: its weights as tensors, rule and history as metadata "nca.rule" and
// "nca.history". Throws InvalidArgument where the rule is invalid or a weight is not finite.
void put_model(const Model& model, SafetensorsFile& file);

// The model in the file; path stands for it in messages. A checkpoint's tensors ("adam.",
// "recovery.", "pool.") are passed over. Throws FormatError where a tensor is missing, unknown or
// misshapen, a weight is not finite, or the metadata is wrong.
Model take_model(const SafetensorsFile& file, const std::filesystem::path& path);

// Throws InvalidArgument where a weight is not finite.
void require_finite(const Weights& weights);

// All parameters, laid out as Weights::all(), as tensors whose names begin with the prefix.
void put_parameters(SafetensorsFile& file, const std::string& prefix, std::span<const float> all,
                    bool output_bias);
// The other way round. Throws FormatError where a tensor is missing, misshapen or not finite.
void take_parameters(std::span<float> all, const SafetensorsFile& file, const std::string& prefix,
                     bool output_bias, const std::filesystem::path& path);

// A rule as JSON and back. `where` begins the message of the FormatError that rule_from_text
// throws.
std::string rule_to_text(const Rule& rule);
Rule rule_from_text(const std::string& text, const std::string& where);

}  // namespace nca
