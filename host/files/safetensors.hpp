// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nca {

struct NamedTensor {
    std::string name;
    std::vector<std::int64_t> shape;
    std::vector<float> values;  // row-major, as many as the product of shape
};

// The contents of a safetensors file, float32 tensors only: 8 bytes little-endian header length,
// JSON header, data (https://huggingface.co/docs/safetensors). Models and checkpoints use it.
struct SafetensorsFile {
    std::map<std::string, std::string> metadata;
    std::vector<NamedTensor> tensors;  // in the order of their data in the file

    const NamedTensor* find(std::string_view name) const;  // null where there is none
};

// For messages: "[128, 48, 1, 1]".
std::string shape_text(const std::vector<std::int64_t>& shape);

// Throws IoError where the file cannot be read and FormatError where it is cut off or invalid.
SafetensorsFile read_safetensors(const std::filesystem::path& path);

// The same for bytes in memory; name stands for the file in messages.
SafetensorsFile parse_safetensors(std::span<const std::uint8_t> bytes, const std::string& name);

// Equal contents give equal bytes: metadata sorted by key, tensors in the order given, the header
// padded with spaces so that the data starts at a multiple of 8. Throws InvalidArgument where a
// tensor's values do not fill its shape or two tensors have one name.
std::vector<std::uint8_t> encode_safetensors(const SafetensorsFile& file);

// Encodes and writes the file, as write_file does. Throws IoError and InvalidArgument.
void write_safetensors(const std::filesystem::path& path, const SafetensorsFile& file);

}  // namespace nca
