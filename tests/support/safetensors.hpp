// SPDX-License-Identifier: MIT
#pragma once

#include "host/files/safetensors.hpp"

namespace nca::test {

// Reads all of a file in memory. name stands for it in messages.
inline SafetensorsFile parse_safetensors(std::span<const std::uint8_t> bytes,
                                         const std::string& name) {
    const SafetensorsReader reader(bytes, name);
    SafetensorsFile file{.metadata = reader.metadata(), .tensors = {}};
    for (const TensorEntry& entry : reader.tensors()) {
        std::vector<float> values(entry.size());
        reader.read(values, entry);
        file.tensors.push_back({entry.name, entry.shape, std::move(values)});
    }
    return file;
}

}  // namespace nca::test
