// SPDX-License-Identifier: MIT
#pragma once

#include "host/files/number_type.hpp"

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace nca {

// A tensor as the pickle of a PyTorch file describes it: a view of a storage, whose values are in
// another part of the file.
struct PickledTensor {
    std::string name;     // the keys of the dictionaries that lead to it, joined by dots
    std::string storage;  // its key
    NumberType type = NumberType::float32;
    std::uint64_t offset = 0;  // of the first value in the storage, in values
    std::vector<std::int64_t> shape;
    std::vector<std::int64_t> strides;  // in values, one for each side
};

// Where the values of tensors are.
struct PickledStorage {
    std::uint64_t size = 0;       // in values
    std::size_t value_bytes = 0;  // of one

    bool operator==(const PickledStorage&) const = default;
};

// What a pickle holds.
struct Pickle {
    std::vector<PickledTensor> tensors;              // of a dictionary
    std::map<std::string, PickledStorage> storages;  // by their keys
    std::vector<std::string> texts;                  // of a list
};

// Reads a pickle that holds dictionaries of plain tensors, and beside them numbers, texts and
// lists, which are ignored; or a list of texts. Runs nothing: of the opcodes only those that make
// such values are known, and of what they may call only what makes a dictionary or a tensor.
// Everything else is refused by its name. `file` stands for the file in messages. Moves `bytes`
// behind the pickle. Throws FormatError. Each tensor's values lie in its storage.
Pickle read_pickle(std::span<const std::uint8_t>& bytes, const std::string& file);

}  // namespace nca
