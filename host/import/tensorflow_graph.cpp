// SPDX-License-Identifier: MIT
#include "host/import/tensorflow_graph.hpp"

#include "host/core/throw_error.hpp"
#include "host/files/base64.hpp"
#include "host/files/json_fields.hpp"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

namespace nca {
namespace {

// The field, or null where it or what it is in is missing.
const nlohmann::json* field(const nlohmann::json* json, const char* name) {
    if (json == nullptr || !json->is_object()) return nullptr;
    const auto found = json->find(name);
    return found == json->end() ? nullptr : &*found;
}

// A number, which protocol buffers write as text where it has 64 bits.
std::optional<std::int64_t> whole_number(const nlohmann::json* json) {
    if (json == nullptr) return std::nullopt;
    if (json->is_number_integer()) return json->get<std::int64_t>();
    if (!json->is_string()) return std::nullopt;
    const auto& text = json->get_ref<const std::string&>();
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return value;
}

std::optional<std::vector<std::int64_t>> shape_of(const nlohmann::json& tensor) {
    std::vector<std::int64_t> shape;
    const nlohmann::json* sides = field(field(&tensor, "tensorShape"), "dim");
    if (sides == nullptr) return shape;
    if (!sides->is_array()) return std::nullopt;
    for (const nlohmann::json& side : *sides) {
        const std::optional<std::int64_t> size = whole_number(field(&side, "size"));
        if (!size || *size < 0) return std::nullopt;
        shape.push_back(*size);
    }
    return shape;
}

NumberType type_of(const nlohmann::json& tensor) {
    const nlohmann::json* type = field(&tensor, "dtype");
    const auto is = [&](const char* name) { return type != nullptr && *type == name; };
    if (is("DT_FLOAT")) return NumberType::float32;
    if (is("DT_HALF")) return NumberType::float16;
    if (is("DT_BFLOAT16")) return NumberType::bfloat16;
    return is("DT_DOUBLE") ? NumberType::float64 : NumberType::other;
}

// The values: bytes in base64, or few numbers, of which the last stands for all that follow. Those
// of 16 bits are in a field that is not read here.
std::vector<float> values_of(const nlohmann::json& tensor, const std::string& where,
                             std::size_t count, NumberType type) {
    std::vector<float> values(count);
    if (const nlohmann::json* content = field(&tensor, "tensorContent")) {
        const std::size_t size = count * size_of(type);
        if (!content->is_string() ||
            content->get_ref<const std::string&>().size() != base64_size(size)) {
            throw_error<FormatError>("{}: tensorContent is not the base64 of {} bytes", where,
                                     size);
        }
        const auto bytes =
            decode_base64(content->get_ref<const std::string&>(), where + ": tensorContent");
        if (bytes.size() != size) {
            throw_error<FormatError>("{}: tensorContent has {} bytes, expected {}", where,
                                     bytes.size(), size);
        }
        convert_to_floats(values, bytes, type);
        return values;
    }
    const char* name = type == NumberType::float64 ? "doubleVal" : "floatVal";
    const nlohmann::json* numbers = field(&tensor, name);
    const bool all_numbers =
        numbers != nullptr && numbers->is_array() && !numbers->empty() &&
        numbers->size() <= count &&
        std::ranges::all_of(*numbers, [](const auto& number) { return number.is_number(); });
    if (!all_numbers) {
        throw_error<FormatError>(
            "{}: it has no tensorContent, and {} is no list of 1 to {} numbers", where, name,
            count);
    }
    for (std::size_t i = 0; i < count; ++i) {
        values[i] = float((*numbers)[std::min(i, numbers->size() - 1)].get<double>());
    }
    return values;
}

}  // namespace

std::vector<ForeignTensor> constants_of_graph(const nlohmann::json& json, const std::string& file) {
    const nlohmann::json* topology = field(&json, "modelTopology");
    const nlohmann::json* nodes = field(topology == nullptr ? &json : topology, "node");
    if (nodes == nullptr || !nodes->is_array()) {
        const nlohmann::json* manifest = field(&json, "weightsManifest");
        throw_error<FormatError>(
            "{} is json of another kind, expected the array of the web demo or a frozen "
            "TensorFlow graph with its nodes{}",
            file,
            manifest != nullptr ? "; the weights of this model are in the files that its "
                                  "weightsManifest names"
                                : "");
    }
    std::vector<ForeignTensor> constants;
    for (const nlohmann::json& node : *nodes) {
        const nlohmann::json* operation = field(&node, "op");
        const nlohmann::json* tensor = field(field(field(&node, "attr"), "value"), "tensor");
        if (operation == nullptr || *operation != "Const" || tensor == nullptr) continue;
        const nlohmann::json* name = field(&node, "name");
        const std::string text =
            name != nullptr && name->is_string() ? name->get<std::string>() : "without a name";
        const std::string where = fmt::format("{}: constant {}", file, printable(text));
        const auto shape = shape_of(*tensor);
        if (!shape) throw_error<FormatError>("{}: its shape is damaged", where);
        const NumberType type = type_of(*tensor);
        const auto read = [=, shape = *shape] {
            std::size_t count = 1;
            for (const std::int64_t side : shape) count *= std::size_t(side);
            return values_of(*tensor, where, count, type);
        };
        constants.push_back({text, *shape, type, read});
    }
    return constants;
}

}  // namespace nca
