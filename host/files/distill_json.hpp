// SPDX-License-Identifier: MIT
#pragma once

#include <nca/model.hpp>

#include <nlohmann/json.hpp>

#include <string>
#include <string_view>

namespace nca {

// Converts the model files of the Distill article's web demo (docs/file-formats.md) from and to
// text. parse_distill_json throws FormatError; `name` stands for the file in its messages.
Model parse_distill_json(std::string_view text, const std::string& name);
// The same for text that has been parsed.
Model model_of_distill_json(nlohmann::json json, const std::string& name);

// Equal weights give equal texts. Throws InvalidArgument where a weight is not finite or too large
// for the format.
std::string encode_distill_json(const Weights& weights);

}  // namespace nca
