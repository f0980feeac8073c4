// SPDX-License-Identifier: MIT
#pragma once

#include "host/import/found_weights.hpp"

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace nca {

// The floating-point constants of a frozen TensorFlow graph as json, as the Colab notebook of the
// Distill article exports it: {"modelTopology": {"node": [...]}}, or the graph alone. `file` stands
// for the file in messages. Throws FormatError where it is no such graph or a constant is damaged.
std::vector<ForeignTensor> constants_of_graph(const nlohmann::json& json, const std::string& file);

}  // namespace nca
