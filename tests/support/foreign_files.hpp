// SPDX-License-Identifier: MIT
#pragma once

// Makes files of weights as other programs write them.

#include "tests/support/temporary_directory.hpp"

#include <nca/model.hpp>

#include <zip.h>

#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nca::test {

using Shape = std::vector<std::int64_t>;

struct TestTensor {
    std::string name;
    Shape shape;
    std::vector<float> values;
};

inline std::vector<float> values_of(std::span<const float> values) {
    return {values.begin(), values.end()};
}

// The two layers of a model, with these names and without sides of 1.
inline std::vector<TestTensor> layers_of(const Model& model, const std::string& first,
                                         const std::string& second) {
    const auto all = model.weights.all();
    std::vector<TestTensor> layers = {
        {first + ".weight", {hidden, perception}, values_of(all.first(w1_size))},
        {first + ".bias", {hidden}, values_of(all.subspan(w1_size, b1_size))},
        {second + ".weight",
         {channels, hidden},
         values_of(all.subspan(w1_size + b1_size, w2_size))}};
    if (model.weights.has_output_bias()) {
        layers.push_back({second + ".bias", {channels}, values_of(all.last(b2_size))});
    }
    return layers;
}

// [rows, columns] as [columns, rows].
inline TestTensor transposed(const TestTensor& matrix) {
    const auto rows = std::size_t(matrix.shape[0]);
    const auto columns = std::size_t(matrix.shape[1]);
    TestTensor result{matrix.name, {matrix.shape[1], matrix.shape[0]}, matrix.values};
    for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t column = 0; column < columns; ++column) {
            result.values[column * rows + row] = matrix.values[row * columns + column];
        }
    }
    return result;
}

// The first layer with its inputs in the order filter * 16 + channel.
inline TestTensor by_filter(const TestTensor& layer) {
    TestTensor result = layer;
    for (std::size_t row = 0; row < hidden; ++row) {
        for (std::size_t input = 0; input < perception; ++input) {
            const std::size_t place = input % filter_count * channels + input / filter_count;
            result.values[row * perception + place] = layer.values[row * perception + input];
        }
    }
    return result;
}

// Writes a pickle, opcode by opcode.
class PickleWriter {
public:
    PickleWriter& op(std::string_view bytes) {
        text_ += bytes;
        return *this;
    }
    PickleWriter& text(std::string_view value) {
        return op("X").number<std::uint32_t>(std::uint32_t(value.size())).op(value);
    }
    PickleWriter& integer(std::int64_t value) { return op("J").number(std::int32_t(value)); }
    PickleWriter& tuple(const Shape& values) {
        op("(");
        for (const std::int64_t value : values) integer(value);
        return op("t");
    }
    template <class Number>
    PickleWriter& number(Number value) {
        char bytes[sizeof value];
        std::memcpy(bytes, &value, sizeof value);
        return op({bytes, sizeof value});
    }
    // What torch.save writes for a tensor. old: of before version 1.6.
    PickleWriter& tensor(const std::string& key, std::int64_t storage_size, std::int64_t offset,
                         const Shape& shape, const Shape& strides, bool old = false,
                         const std::string& type = "FloatStorage") {
        op("ctorch._utils\n_rebuild_tensor_v2\n((").text("storage").op("ctorch\n" + type + "\n");
        text(key).text("cpu").integer(storage_size).op(old ? "NtQ" : "tQ");
        integer(offset).tuple(shape).tuple(strides);
        return op(
            "\x89"
            "ccollections\nOrderedDict\n)RtR");
    }
    const std::string& str() const { return text_; }

private:
    std::string text_;
};

inline Shape strides_of(const Shape& shape) {
    Shape strides(shape.size(), 1);
    for (std::size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
    return strides;
}

// The pickle of a dictionary of these tensors; the storage of tensor i has the key "i".
inline std::string pickle_of(const std::vector<TestTensor>& tensors, bool old = false) {
    PickleWriter pickle;
    pickle.op("\x80\x02}(");
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const TestTensor& tensor = tensors[i];
        pickle.text(tensor.name)
            .tensor(std::to_string(i), std::int64_t(tensor.values.size()), 0, tensor.shape,
                    strides_of(tensor.shape), old);
    }
    return pickle.op("u.").str();
}

inline std::string bytes_of(std::span<const float> values) {
    std::string bytes(values.size_bytes(), '\0');
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
}

using Entries = std::vector<std::pair<std::string, std::string>>;  // names and contents

inline std::vector<std::uint8_t> zip_of(const Entries& entries) {
    const TemporaryDirectory folder;
    const auto path = folder / "archive.zip";
    zip_t* archive = zip_open(path.c_str(), ZIP_CREATE | ZIP_TRUNCATE, nullptr);
    for (const auto& [name, contents] : entries) {
        zip_source_t* source = zip_source_buffer(archive, contents.data(), contents.size(), 0);
        const auto index = zip_file_add(archive, name.c_str(), source, ZIP_FL_ENC_UTF_8);
        if (index < 0) throw std::runtime_error("cannot add " + name);
        zip_set_file_compression(archive, zip_uint64_t(index), ZIP_CM_STORE, 0);
    }
    if (zip_close(archive) != 0) throw std::runtime_error("cannot write the archive");
    return read_bytes(path);
}

inline Entries pytorch_entries(const std::vector<TestTensor>& tensors) {
    Entries entries = {{"m/data.pkl", pickle_of(tensors)}, {"m/byteorder", "little"}};
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        entries.emplace_back("m/data/" + std::to_string(i), bytes_of(tensors[i].values));
    }
    entries.emplace_back("m/version", "3\n");
    return entries;
}

inline std::vector<std::uint8_t> pytorch_file(const std::vector<TestTensor>& tensors) {
    return zip_of(pytorch_entries(tensors));
}

// A file of torch.save before version 1.6.
inline std::vector<std::uint8_t> old_pytorch_file(const std::vector<TestTensor>& tensors) {
    PickleWriter file;
    file.op({"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15});
    file.op("\x80\x02M").number(std::uint16_t{1001}).op(".");
    file.op("\x80\x02}(").text("little_endian").op("\x88").text("type_sizes").op("}(");
    file.text("int").op("K\x04u").op("u.");
    file.op(pickle_of(tensors, true));
    file.op("\x80\x02](");
    for (std::size_t i = 0; i < tensors.size(); ++i) file.text(std::to_string(i));
    file.op("e.");
    for (const TestTensor& tensor : tensors) {
        file.number(std::uint64_t{tensor.values.size()}).op(bytes_of(tensor.values));
    }
    return {file.str().begin(), file.str().end()};
}

}  // namespace nca::test
