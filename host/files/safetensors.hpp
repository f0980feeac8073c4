// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "host/files/number_type.hpp"
#include "host/files/open_file.hpp"

namespace nca {

// Safetensors files: 8 bytes little-endian header length, JSON header, data
// (https://huggingface.co/docs/safetensors). Models and checkpoints are such files. This library
// writes float32, and reads every floating-point type as that.

struct NamedTensor {
    std::string name;
    std::vector<std::int64_t> shape;
    std::vector<float> values;  // row-major, as many as the product of shape
};

// The whole contents of a file.
struct SafetensorsFile {
    std::map<std::string, std::string> metadata;
    std::vector<NamedTensor> tensors;  // in the order of their data in the file
};

// What the header says about a tensor.
struct TensorEntry {
    std::string name;
    std::vector<std::int64_t> shape;
    std::uint64_t begin = 0;  // of its data, in bytes from the header's end
    std::uint64_t end = 0;
    NumberType type = NumberType::float32;

    // In values; not for NumberType::other.
    std::uint64_t size() const { return (end - begin) / size_of(type); }
};

// For messages: "[128, 48, 1, 1]". Of more than four sides only the first four and their number.
std::string shape_text(const std::vector<std::int64_t>& shape);

// Reads a file. The constructors read and check its header, and read() the values of one tensor, so
// that a file of another kind costs little time and memory, however large it is.
class SafetensorsReader {
public:
    // Throws IoError where the file cannot be read and FormatError where it is cut off or its
    // header is invalid.
    explicit SafetensorsReader(const std::filesystem::path& path);
    // The same for bytes in memory, which have to stay there. name stands for the file in messages.
    SafetensorsReader(std::span<const std::uint8_t> bytes, std::string name);

    const std::string& name() const { return name_; }
    const std::map<std::string, std::string>& metadata() const { return metadata_; }
    // In the order of their data. They cover all data exactly once.
    const std::vector<TensorEntry>& tensors() const { return tensors_; }
    const TensorEntry* find(std::string_view name) const;  // null where there is none

    // Fills `values` with those of the tensor from the index `first` on; there have to be as many.
    // Throws IoError where they cannot be read and FormatError where the file has become shorter or
    // the tensor is of NumberType::other.
    void read(std::span<float> values, const TensorEntry& tensor, std::uint64_t first = 0) const;

private:
    void read_header();
    void read_bytes(std::span<std::uint8_t> bytes, std::uint64_t offset) const;

    std::string name_;
    std::optional<OpenFile> file_;         // none: the bytes are in memory
    std::span<const std::uint8_t> bytes_;  // where they are
    std::uint64_t size_ = 0;               // of the file
    std::uint64_t data_begin_ = 0;
    std::map<std::string, std::string> metadata_;
    std::vector<TensorEntry> tensors_;
};

// Equal contents give equal bytes: metadata sorted by key, tensors in the order given, the header
// padded with spaces so that the data starts at a multiple of 8. Throws InvalidArgument where a
// tensor's values do not fill its shape, two tensors have one name, or the header is longer than a
// reader takes.
std::vector<std::uint8_t> encode_safetensors(const SafetensorsFile& file);

// Encodes and writes the file, as write_file does. Throws IoError and InvalidArgument.
void write_safetensors(const std::filesystem::path& path, const SafetensorsFile& file);

}  // namespace nca
