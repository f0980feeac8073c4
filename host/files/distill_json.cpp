// SPDX-License-Identifier: MIT
#include "host/files/distill_json.hpp"
#include "host/core/throw_error.hpp"
#include "host/files/atomic_file.hpp"
#include "host/files/base64.hpp"
#include "host/files/json_fields.hpp"
#include "host/files/model_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace nca {
namespace {

// The demo's own files have 11 kB.
constexpr std::size_t max_file_bytes = std::size_t{1} << 20;
constexpr double largest_scale = std::numeric_limits<float>::max();  // the demo has it as a float
constexpr double largest_byte = 255;

// A dense layer in the demo's layout: one row of bytes for each input, then one row of biases. Each
// row has one byte for each output.
struct Layer {
    const char* name;
    int inputs;
    int outputs;
    std::size_t weights;    // into Weights::all(), [outputs, inputs]
    std::size_t biases;     // into Weights::all(), [outputs]
    int (*row)(int input);  // the row of this input

    std::size_t bytes() const { return (std::size_t(inputs) + 1) * std::size_t(outputs); }
    std::size_t byte_at(int line, int output) const { return std::size_t(line) * outputs + output; }
    std::size_t weight_at(int input, int output) const {
        return weights + std::size_t(output) * inputs + input;
    }
};

// The demo lays perception out as [filter][channel], this library as [channel][filter].
int row_of_perception(int input) { return input % filter_count * channels + input / filter_count; }
int row_of_hidden(int input) { return input; }

constexpr Layer layers[] = {
    {"the first layer", perception, hidden, 0, w1_size, row_of_perception},
    {"the second layer", hidden, channels, w1_size + b1_size, w1_size + b1_size + w2_size,
     row_of_hidden},
};

double scale_field(JsonFields& fields, const char* name) {
    const double scale = fields.number(name);
    if (!(scale >= 0 && scale <= largest_scale)) {
        fields.fail(name, fields.take(name), fmt::format("a number in 0..{:.3g}", largest_scale));
    }
    return scale;
}

void require_size(JsonFields& fields, const char* name, int expected) {
    const nlohmann::json& value = fields.take(name);
    if (value != expected) {
        fields.fail(
            name, value,
            fmt::format("{}; only automata of {} channels and {} hidden units are supported",
                        expected, channels, hidden));
    }
}

// The value of a byte. Adding 0 turns the -0 of a scale of 0 into 0.
float to_weight(std::uint8_t byte, double scale) {
    return float((byte / largest_byte - 0.5) * scale + 0.0);
}

// The byte with the nearest value.
std::uint8_t to_byte(float weight, double scale) {
    const double fraction = scale > 0 ? weight / scale : 0;  // in -0.5..0.5
    return std::uint8_t(std::lround((fraction + 0.5) * largest_byte));
}

void take_layer(Weights& weights, const Layer& layer, nlohmann::json json,
                const std::string& name) {
    constexpr const char* types[] = {"uint8"};
    const std::string where = fmt::format("{}: {}", name, layer.name);
    JsonFields fields(std::move(json), where);
    fields.choice("type", types);
    require_size(fields, "in_ch", layer.inputs);
    require_size(fields, "out_ch", layer.outputs);
    const double weight_scale = scale_field(fields, "weight_scale");
    const double bias_scale = scale_field(fields, "bias_scale");
    const std::string data = fields.text("data_b64");
    fields.finish();
    const std::size_t expected = base64_size(layer.bytes());
    if (data.size() != expected) {
        fields.fail("data_b64", fmt::format("{} characters long", data.size()),
                    fmt::format("{}, the base64 of {} x {} bytes", expected, layer.inputs + 1,
                                layer.outputs));
    }
    const auto bytes = decode_base64(data, fmt::format("{}: field \"data_b64\"", where));
    if (bytes.size() != layer.bytes()) {  // wrong padding
        fields.fail("data_b64", fmt::format("{} bytes", bytes.size()),
                    fmt::format("{} x {} bytes", layer.inputs + 1, layer.outputs));
    }

    const auto all = weights.all();
    for (int output = 0; output < layer.outputs; ++output) {
        for (int input = 0; input < layer.inputs; ++input) {
            all[layer.weight_at(input, output)] =
                to_weight(bytes[layer.byte_at(layer.row(input), output)], weight_scale);
        }
        all[layer.biases + std::size_t(output)] =
            to_weight(bytes[layer.byte_at(layer.inputs, output)], bias_scale);
    }
}

// The scale with which the largest magnitude becomes the byte 0 or 255. So nothing is clipped, and
// a file that was read is written with the same bytes. If all values are zero, the scale is 0,
// since no byte means 0.
double scale_for(std::span<const float> values, const char* what, const Layer& layer) {
    double largest = 0;
    for (const float value : values) largest = std::max(largest, std::abs(double{value}));
    const double scale = 2 * largest;
    if (scale > largest_scale) {
        throw_error<InvalidArgument>(
            "the largest {} of {} is {:.3g}, expected at most {:.3g}: the web demo's scale is a "
            "32-bit float; the model was not saved",
            what, layer.name, largest, largest_scale / 2);
    }
    return scale;
}

nlohmann::ordered_json put_layer(const Weights& weights, const Layer& layer) {
    const auto all = weights.all();
    const auto outputs = std::size_t(layer.outputs);
    const bool has_bias = layer.biases < all.size();
    const double weight_scale =
        scale_for(all.subspan(layer.weights, std::size_t(layer.inputs) * outputs), "weight", layer);
    const double bias_scale =
        has_bias ? scale_for(all.subspan(layer.biases, outputs), "bias", layer) : 0;
    std::vector<std::uint8_t> bytes(layer.bytes());
    for (int output = 0; output < layer.outputs; ++output) {
        for (int input = 0; input < layer.inputs; ++input) {
            bytes[layer.byte_at(layer.row(input), output)] =
                to_byte(all[layer.weight_at(input, output)], weight_scale);
        }
        bytes[layer.byte_at(layer.inputs, output)] =
            to_byte(has_bias ? all[layer.biases + std::size_t(output)] : 0, bias_scale);
    }
    return {{"data_b64", encode_base64(bytes)}, {"in_ch", layer.inputs},
            {"out_ch", layer.outputs},          {"weight_scale", weight_scale},
            {"bias_scale", bias_scale},         {"type", "uint8"}};
}

}  // namespace

Model parse_distill_json(std::string_view text, const std::string& name) {
    return model_of_distill_json(parse_json(text, name, 4), name);
}

Model model_of_distill_json(nlohmann::json json, const std::string& name) {
    if (!json.is_array()) {
        throw_error<FormatError>("{} is {}, expected the web demo's array of two layers", name,
                                 json.type_name());
    }
    if (json.size() != std::size(layers)) {
        throw_error<FormatError>("{} has {} layers, expected {}: {} inputs to {}, and these to {}",
                                 name, json.size(), std::size(layers), perception, hidden,
                                 channels);
    }
    Model model;
    model.rule = distill_demo_rule();
    model.origin = {.rule_source = RuleSource::format,
                    .rule = "demo",
                    .input_order = InputOrder::filter,
                    .notes = {}};
    for (std::size_t i = 0; i < std::size(layers); ++i) {
        take_layer(model.weights, layers[i], std::move(json[i]), name);
    }
    return model;
}

std::string encode_distill_json(const Weights& weights) {
    require_finite(weights);
    nlohmann::ordered_json json = nlohmann::ordered_json::array();
    for (const Layer& layer : layers) json.push_back(put_layer(weights, layer));
    return json.dump() + '\n';
}

Model load_distill_json(const std::filesystem::path& path) {
    const auto bytes = read_file(path, max_file_bytes);
    return parse_distill_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()},
                              path.string());
}

void save_distill_json(const std::filesystem::path& path, const Model& model) {
    write_text(path, encode_distill_json(model.weights));
}

}  // namespace nca
