// SPDX-License-Identifier: MIT
#pragma once

#include "host/files/number_type.hpp"
#include "host/files/safetensors.hpp"

#include <nca/model.hpp>

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace nca {

// A tensor of a file that another program wrote.
struct ForeignTensor {
    std::string name;
    std::vector<std::int64_t> shape;
    NumberType type = NumberType::float32;
    std::function<std::vector<float>()> read;  // all values, row-major; throws FormatError
};

// The tensors of a safetensors file, which has to live as long as they.
std::vector<ForeignTensor> tensors_of(const SafetensorsReader& file);

// The weights of an automaton, as far as a file's tensors say what they are.
struct FoundWeights {
    Weights weights{false};  // the inputs of the first layer are in the order of the file
    std::optional<std::array<Filter, filter_count>> filters;  // fixed filters that came along
    std::optional<InputOrder> input_order;                    // where the filters tell it
    std::vector<std::string> notes;  // what was converted or left out, a sentence each
};

// What else than weights and filters a file may have. Of tensors that have no meaning here, those
// of an optimiser, of integers and of single values are left out with a note.
enum class OtherTensors {
    refused,  // any other one may be a part of the automaton
    ignored,  // where they are smaller than a layer: the constants of a graph are of all kinds
};

// Recognises the two layers by their shapes: [128, 48] and [16, 128], transposed ([48, 128]), with
// sides of 1 anywhere ([128, 48, 1, 1]), and their biases, of which either may be missing. Fixed
// filters are [48, 1, 3, 3], [3, 1, 3, 3] or one tensor for each. `file` stands for the file in
// messages. Throws FormatError where the tensors are not those of one automaton of this size, where
// they can be read in several ways, or where a value is not finite. Reads only what it needs.
FoundWeights find_weights(const std::vector<ForeignTensor>& tensors, const std::string& file,
                          OtherTensors others);

}  // namespace nca
