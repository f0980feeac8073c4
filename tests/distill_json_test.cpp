// SPDX-License-Identifier: MIT
#include "host/files/distill_json.hpp"
#include "host/files/base64.hpp"

#include <nca/error.hpp>
#include <nca/model.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/costs.hpp"
#include "tests/support/temporary_directory.hpp"

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace {

using Catch::Matchers::ContainsSubstring;
using nca::FormatError;
using nca::InvalidArgument;
using nca::Model;
using nca::Weights;
using nca::test::message_of;
using nca::test::read_bytes;
using nca::test::TemporaryDirectory;
using nca::test::write_text;
using nlohmann::json;
using Bytes = std::vector<std::uint8_t>;

// One layer as the article's notebook writes it.
json layer_of(const Bytes& bytes, int inputs, int outputs, double weight_scale, double bias_scale) {
    return {
        {"data_b64", nca::encode_base64(bytes)}, {"in_ch", inputs},          {"out_ch", outputs},
        {"weight_scale", weight_scale},          {"bias_scale", bias_scale}, {"type", "uint8"}};
}

// All bytes from 0 to 255, in no order that a mistake would leave alone.
Bytes mixed_bytes(std::size_t size, std::uint32_t seed) {
    Bytes bytes(size);
    for (std::uint8_t& byte : bytes) {
        seed = seed * 1664525 + 1013904223;
        byte = static_cast<std::uint8_t>(seed >> 24);
    }
    // The largest magnitude of weights and of biases has the byte 0 or 255.
    bytes.front() = 0;
    bytes.back() = 255;
    return bytes;
}

const Bytes first_bytes = mixed_bytes(49 * 128, 1);
const Bytes second_bytes = mixed_bytes(129 * 16, 2);
constexpr double scales[2][2] = {{1.3162267208099365, 0.4913739264011383},
                                 {1.15468430519104, 0.21424207091331482}};

json demo_file() {
    return json::array({layer_of(first_bytes, 48, 128, scales[0][0], scales[0][1]),
                        layer_of(second_bytes, 128, 16, scales[1][0], scales[1][1])});
}

// What the article's demo makes of a byte.
float value_of(std::uint8_t byte, double scale) { return float((byte / 255.0 - 0.5) * scale); }

// The byte of a weight or, in the line after the last input, of a bias.
std::uint8_t byte_at(const Bytes& bytes, int line, int output, int outputs) {
    return bytes[std::size_t(line) * outputs + output];
}

Bytes data_of(const json& layer) {
    return nca::decode_base64(layer.at("data_b64").get<std::string>(), "data_b64");
}

Model example(bool output_bias) {
    Model model;
    model.weights = Weights(output_bias);
    float value = 0.001F;
    for (float& weight : model.weights.all()) {
        weight = value;
        value = -value * 1.0007F;
    }
    return model;
}

double largest_in(std::span<const float> values) {
    double largest = 0;
    for (const float value : values) largest = std::max(largest, std::abs(double{value}));
    return largest;
}

std::string refused(const std::string& text) {
    return message_of<FormatError>([&] { nca::parse_distill_json(text, "demo.json"); });
}

// The message for a file whose layer has this field.
std::string refused_field(std::size_t layer, const char* field, const json& value) {
    json file = demo_file();
    file[layer][field] = value;
    return refused(file.dump());
}

}  // namespace

TEST_CASE("the web demo's rule is that of the preset growing with circular edges") {
    nca::Rule rule = nca::distill_demo_rule();
    REQUIRE_NOTHROW(rule.validate());
    REQUIRE(rule.edges == nca::Edges::circular);
    REQUIRE(rule.life == nca::Life::pre_and_post);
    REQUIRE(rule.start_cell == nca::StartCell::alpha_and_hidden);
    REQUIRE(rule.filters[1] ==
            nca::Filter{-0.125F, 0, 0.125F, -0.25F, 0, 0.25F, -0.125F, 0, 0.125F});
    REQUIRE(rule.premultiplied);
    rule.edges = nca::Edges::zero;
    REQUIRE(rule == nca::Rule{});
}

TEST_CASE("every weight of the web demo's json is where the demo finds it") {
    const Model model = nca::parse_distill_json(demo_file().dump(), "demo.json");
    REQUIRE(model.rule == nca::distill_demo_rule());
    REQUIRE(model.origin.rule_source == nca::RuleSource::format);
    REQUIRE(model.history == nca::TrainingHistory{});
    REQUIRE(model.weights.has_output_bias());
    const auto view = model.weights.view();
    for (int unit = 0; unit < 128; ++unit) {
        for (int channel = 0; channel < 16; ++channel) {
            for (int filter = 0; filter < 3; ++filter) {
                const std::uint8_t byte = byte_at(first_bytes, filter * 16 + channel, unit, 128);
                REQUIRE(view.w1[unit * 48 + channel * 3 + filter] == value_of(byte, scales[0][0]));
            }
        }
        REQUIRE(view.b1[unit] == value_of(byte_at(first_bytes, 48, unit, 128), scales[0][1]));
    }
    for (int channel = 0; channel < 16; ++channel) {
        for (int unit = 0; unit < 128; ++unit) {
            const std::uint8_t byte = byte_at(second_bytes, unit, channel, 16);
            REQUIRE(view.w2[channel * 128 + unit] == value_of(byte, scales[1][0]));
        }
        REQUIRE(view.b2[channel] ==
                value_of(byte_at(second_bytes, 128, channel, 16), scales[1][1]));
    }
}

TEST_CASE("the web demo's json comes back as it was, byte for byte") {
    const json file = demo_file();
    const Model model = nca::parse_distill_json(file.dump(), "demo.json");
    const json again = json::parse(nca::encode_distill_json(model.weights));
    REQUIRE(again == file);
    REQUIRE(again[0]["in_ch"].is_number_integer());
}

TEST_CASE("a model comes back from the web demo's json with 8 bits of each weight") {
    const TemporaryDirectory folder;
    for (const bool output_bias : {false, true}) {
        const Model model = example(output_bias);
        nca::save_distill_json(folder / "model.json", model);
        const Model back = nca::load_distill_json(folder / "model.json");
        REQUIRE(back.weights.has_output_bias());
        for (const auto& tensor : nca::parameter_tensors(output_bias)) {
            const auto before = model.weights.all().subspan(tensor.offset, tensor.size);
            const auto after = back.weights.all().subspan(tensor.offset, tensor.size);
            const double largest = largest_in(before);
            // Half of the distance between two bytes, and the rounding of a float.
            const double bound = largest / 255 + largest * std::numeric_limits<float>::epsilon();
            bool changed = false;
            for (std::size_t i = 0; i < tensor.size; ++i) {
                CAPTURE(tensor.name, i, before[i], after[i]);
                REQUIRE(std::abs(double{after[i]} - before[i]) <= bound);
                changed = changed || after[i] != before[i];
                // Nothing is clipped.
                if (std::abs(before[i]) == largest) REQUIRE(after[i] == before[i]);
            }
            REQUIRE(changed);
        }
        for (const auto& tensor : nca::parameter_tensors(true)) {
            const auto after = back.weights.all().subspan(tensor.offset, tensor.size);
            const bool absent = !output_bias && tensor.name == std::string("net.2.bias");
            REQUIRE((largest_in(after) == 0) == absent);
        }
        // Rounding once is rounding for good.
        REQUIRE(nca::encode_distill_json(back.weights) == nca::encode_distill_json(model.weights));
    }
}

TEST_CASE("what is written for the web demo has its fields, sizes and order of inputs") {
    Weights weights(true);
    weights.view().w1[7 * 48 + 5 * 3 + 2] = 0.5F;  // unit 7 sees channel 5 through filter 2
    weights.view().b1[9] = -2;                     // unit 9
    weights.view().w2[3 * 128 + 100] = -0.25F;     // alpha from unit 100
    weights.view().b2[15] = 8;                     // the last channel
    const json file = json::parse(nca::encode_distill_json(weights));
    REQUIRE(file.size() == 2);
    REQUIRE(file[0] == layer_of(data_of(file[0]), 48, 128, 1, 4));
    REQUIRE(file[1] == layer_of(data_of(file[1]), 128, 16, 0.5, 16));

    Bytes first(49 * 128, 128);  // a byte next to the middle, which no byte is
    first[(2 * 16 + 5) * 128 + 7] = 255;
    first[48 * 128 + 9] = 0;
    REQUIRE(data_of(file[0]) == first);
    Bytes second(129 * 16, 128);
    second[100 * 16 + 3] = 0;
    second[128 * 16 + 15] = 255;
    REQUIRE(data_of(file[1]) == second);
}

TEST_CASE("a tensor of zeros stays zero in the web demo's json, an absent output bias too") {
    for (const bool output_bias : {false, true}) {
        const std::string text = nca::encode_distill_json(Weights(output_bias));
        const Model back = nca::parse_distill_json(text, "demo.json");
        REQUIRE(back.weights == Weights(true));
        for (const float weight : back.weights.all()) REQUIRE_FALSE(std::signbit(weight));
        REQUIRE(json::parse(text)[1]["bias_scale"] == 0);
    }
}

TEST_CASE("the largest weights that the web demo's scale holds are written, larger ones refused") {
    constexpr float half = std::numeric_limits<float>::max() / 2;
    for (const auto& tensor : nca::parameter_tensors(true)) {
        CAPTURE(tensor.name);
        Weights weights;
        weights.all()[tensor.offset] = -half;
        const Model back = nca::parse_distill_json(nca::encode_distill_json(weights), "demo.json");
        REQUIRE(back.weights.all()[tensor.offset] == -half);
        weights.all()[tensor.offset] = std::nextafter(half, 2 * half);
        REQUIRE_THAT(message_of<InvalidArgument>([&] { nca::encode_distill_json(weights); }),
                     ContainsSubstring(std::string(tensor.name).ends_with("weight") ? "weight of"
                                                                                    : "bias of") &&
                         ContainsSubstring(
                             tensor.offset < nca::w1_size + nca::b1_size ? "first" : "second") &&
                         ContainsSubstring("expected at most 1.7e+38"));
    }
    // The smallest too.
    Weights weights;
    weights.all()[5] = std::numeric_limits<float>::denorm_min();
    const Model back = nca::parse_distill_json(nca::encode_distill_json(weights), "demo.json");
    REQUIRE(back.weights.all()[5] == weights.all()[5]);
}

TEST_CASE("weights that are not finite are not written for the web demo") {
    const TemporaryDirectory folder;
    const auto path = folder / "model.json";
    nca::save_distill_json(path, example(true));
    const Bytes before = read_bytes(path);
    constexpr float infinity = std::numeric_limits<float>::infinity();
    for (const float bad : {std::nanf(""), infinity, -infinity}) {
        Model model = example(true);
        model.weights.all().back() = bad;
        REQUIRE_THAT(message_of<InvalidArgument>([&] { nca::save_distill_json(path, model); }),
                     ContainsSubstring("weight 15 of tensor net.2.bias"));
    }
    REQUIRE(read_bytes(path) == before);
    REQUIRE(folder.names().size() == 1);
}

TEST_CASE("a file that is not the web demo's json is refused by name") {
    for (const char* text :
         {"", "hello", "[", "[{]", "[{},{}] []", "{\"data_b64\": NaN}", "\xff"}) {
        CAPTURE(text);
        REQUIRE_THAT(refused(text), ContainsSubstring("demo.json is not JSON"));
    }
    REQUIRE_THAT(refused(std::string(100000, '[')), ContainsSubstring("nested deeper than 4"));
    REQUIRE_THAT(refused("{}"), ContainsSubstring("is object, expected the web demo's array"));
    REQUIRE_THAT(refused("null"), ContainsSubstring("is null"));
    REQUIRE_THAT(refused("[]"), ContainsSubstring("has 0 layers, expected 2"));
    json file = demo_file();
    file.push_back(file[0]);
    REQUIRE_THAT(refused(file.dump()),
                 ContainsSubstring("has 3 layers, expected 2: 48 inputs to 128"));
    file = demo_file();
    file[1] = 5;
    REQUIRE_THAT(refused(file.dump()),
                 ContainsSubstring("demo.json: the second layer is number, expected an object"));
    file = json::array({demo_file()[1], demo_file()[0]});
    REQUIRE_THAT(refused(file.dump()), ContainsSubstring("the first layer") &&
                                           ContainsSubstring("\"in_ch\" is 128, expected 48"));
}

TEST_CASE("every field of the web demo's json is required and checked") {
    for (const std::size_t layer : {0U, 1U}) {
        const json whole = demo_file()[layer];
        for (const auto& field : whole.items()) {
            json file = demo_file();
            file[layer].erase(field.key());
            CAPTURE(layer, field.key());
            const std::string quoted = "\"" + field.key() + "\"";
            const std::string where =
                layer == 0 ? "demo.json: the first layer" : "demo.json: the second layer";
            REQUIRE_THAT(refused(file.dump()),
                         ContainsSubstring(where + ": field " + quoted + " is missing"));
            for (const json& value : {json(nullptr), json(true), json::array({1}), json::object(),
                                      field.value().is_string() ? json(48) : json("48")}) {
                CAPTURE(value.dump());
                REQUIRE_THAT(refused_field(layer, field.key().c_str(), value),
                             ContainsSubstring(where + ": field " + quoted + " is"));
            }
        }
        REQUIRE_THAT(refused_field(layer, "layout", 1),
                     ContainsSubstring("unknown field \"layout\""));
    }
    const std::string good = demo_file().dump();
    std::string twice = good;
    twice.insert(2, "\"type\":\"uint8\",");
    REQUIRE_THAT(refused(twice), ContainsSubstring("\"type\" twice"));
}

TEST_CASE("layers of other sizes in the web demo's json are refused before anything is allocated") {
    const char* sizes[] = {"0",   "-1",  "-48",           "47.5",  "47",
                           "129", "1e3", "1099511627776", "1e308", "18446744073709551615"};
    for (const std::size_t layer : {0U, 1U}) {
        for (const char* field : {"in_ch", "out_ch"}) {
            for (const char* size : sizes) {
                CAPTURE(layer, field, size);
                REQUIRE_THAT(
                    refused_field(layer, field, json::parse(size)),
                    ContainsSubstring(std::string("field \"") + field + "\" is") &&
                        ContainsSubstring("only automata of 16 channels and 128 hidden units"));
            }
        }
    }
    std::string text = demo_file().dump();
    text.replace(text.find("\"in_ch\":48"), 10, "\"in_ch\":1e999");
    REQUIRE_THAT(refused(text), ContainsSubstring("number out of range"));
}

TEST_CASE("scales of the web demo's json that are no sizes are refused") {
    for (const std::size_t layer : {0U, 1U}) {
        for (const char* field : {"weight_scale", "bias_scale"}) {
            for (const double scale : {-1.0, -1e-300, 3.5e38, 1e308}) {
                CAPTURE(layer, field, scale);
                REQUIRE_THAT(refused_field(layer, field, scale),
                             ContainsSubstring(std::string("field \"") + field + "\" is") &&
                                 ContainsSubstring("expected a number in 0..3.4e+38"));
            }
        }
    }
    json file = demo_file();
    file[0]["weight_scale"] = 2;  // an integer is a number too
    const Model model = nca::parse_distill_json(file.dump(), "demo.json");
    REQUIRE(model.weights.view().w1[0] == -1);
}

TEST_CASE("data of the web demo's json that does not fill its layer is refused") {
    REQUIRE_THAT(refused_field(0, "type", "float32"),
                 ContainsSubstring("\"type\" is \"float32\", expected \"uint8\""));
    const std::string good = demo_file()[0]["data_b64"];
    REQUIRE(good.ends_with('='));
    const auto with = [&](const std::string& data) { return refused_field(0, "data_b64", data); };
    for (const std::string& data :
         {std::string(), good.substr(4), good + "AAAA", good.substr(0, good.size() - 1),
          nca::encode_base64(Bytes(48 * 128)), std::string(100000, 'A')}) {
        REQUIRE_THAT(with(data),
                     ContainsSubstring("\"data_b64\" is") && ContainsSubstring("characters long") &&
                         ContainsSubstring("expected 8364, the base64 of 49 x 128 bytes"));
    }
    REQUIRE_THAT(refused_field(1, "data_b64", good),
                 ContainsSubstring("expected 2752, the base64 of 129 x 16 bytes"));
    // As long as it has to be, but with a byte more or less.
    REQUIRE_THAT(with(good.substr(0, good.size() - 1) + "A"),
                 ContainsSubstring("6273 bytes, expected 49 x 128"));
    REQUIRE_THAT(
        with(good.substr(0, good.size() - 3) + "A=="),
        ContainsSubstring("bits that belong to no byte") || ContainsSubstring("6271 bytes"));
    std::string data = good;
    data[1234] = ' ';
    REQUIRE_THAT(with(data), ContainsSubstring("the first layer: field \"data_b64\" has \" \" as "
                                               "character 1234, expected base64"));
    data[1234] = '=';
    REQUIRE_THAT(with(data), ContainsSubstring("as character 1234"));
}

TEST_CASE("every truncation of the web demo's json is refused") {
    const std::string text = demo_file().dump();
    for (std::size_t size = 0; size < text.size(); size += 61) {
        CAPTURE(size);
        REQUIRE_THAT(refused(text.substr(0, size)), ContainsSubstring("demo.json is not JSON"));
    }
}

TEST_CASE("a mebibyte of json that is no web demo's is refused at once") {
    const auto list_of = [](const std::string& part, const char* open, const char* close) {
        std::string text = open + part;
        while (text.size() + part.size() + 3 < (1U << 20)) text += "," + part;
        return text + close;
    };
    for (const std::string& text :
         {list_of("{}", "[", "]"), list_of("[]", "[", "]"), list_of("{\"a\":{}}", "[", "]"),
          list_of("1", "[", "]"), list_of("{}", "[{},{\"type\":[", "]}]"),
          list_of("{}", "[{\"type\":[", "]},{}]")}) {
        CAPTURE(text.substr(0, 40), text.size());
        std::string message;
        nca::test::require_cheap(300e6, [&] { message = refused(text); });
        REQUIRE_THAT(message, ContainsSubstring("demo.json"));
        REQUIRE(message.size() < 400);
    }
}

TEST_CASE("files that cannot be the web demo's json are not read") {
    const TemporaryDirectory folder;
    const auto path = folder / "model.json";
    REQUIRE_THROWS_AS(nca::load_distill_json(path), nca::IoError);
    REQUIRE_THROWS_AS(nca::load_distill_json(folder.path()), nca::IoError);
    write_text(path, demo_file().dump() + std::string(1 << 20, ' '));
    REQUIRE_THAT(message_of<nca::IoError>([&] { nca::load_distill_json(path); }),
                 ContainsSubstring(path.string()) && ContainsSubstring("expected at most 1048576"));
    write_text(path, demo_file().dump(2) + "\n");
    REQUIRE(nca::load_distill_json(path).weights ==
            nca::parse_distill_json(demo_file().dump(), "demo.json").weights);
    write_text(path, "[]");
    REQUIRE_THAT(message_of<FormatError>([&] { nca::load_distill_json(path); }),
                 ContainsSubstring(path.string()));
}
