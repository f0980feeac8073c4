// SPDX-License-Identifier: MIT
#include "host/files/model_file.hpp"

#include <nca/error.hpp>
#include <nca/model.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/temporary_directory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using Catch::Matchers::ContainsSubstring;
using nca::FormatError;
using nca::Model;
using nca::SafetensorsFile;
using nca::test::message_of;
using nca::test::read_bytes;
using nca::test::TemporaryDirectory;
using nca::test::write_bytes;
using nca::test::write_text;
using Bytes = std::vector<std::uint8_t>;

Model example(bool output_bias) {
    Model model;
    model.rule = model.rule.rotated(30);
    model.rule.edges = nca::Edges::circular;
    model.rule.fire_rate = 0.1F;
    model.rule.step_size = -1.0F / 3;
    model.weights = nca::Weights(output_bias);
    float value = 0.001F;
    for (float& weight : model.weights.all()) {
        weight = value;
        value = -value * 1.0003F;
    }
    model.history = {.preset = "growing",
                     .target = "lizard.png",
                     .iterations = 8000,
                     .height = 72,
                     .width = 71,
                     .loss = 3.1e-4,
                     .seed = 4294967295U};
    return model;
}

SafetensorsFile file_of(const Model& model) {
    SafetensorsFile file;
    nca::put_model(model, file);
    return file;
}

Model model_of(const SafetensorsFile& file) {
    const Bytes bytes = nca::encode_safetensors(file);
    return nca::take_model(nca::SafetensorsReader(bytes, "m.safetensors"));
}

std::string refused(const SafetensorsFile& file) {
    return message_of<FormatError>([&] { model_of(file); });
}

std::string refused_rule(const std::string& text) {
    return message_of<FormatError>([&] { nca::rule_from_text(text, "m: nca.rule"); });
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
    const auto at = text.find(from);
    REQUIRE(at != std::string::npos);
    return text.replace(at, from.size(), to);
}

// The weight of this index in the fixture below.
float fixture_value(std::size_t tensor, std::size_t index) {
    return float(tensor + 1) / 8 + float(index) / 65536;
}

// What safetensors.torch.save_file(module.state_dict(), path, metadata={"format": "pt"}) writes
// for the notebook's module, byte for byte: tensors sorted by name, a header padded to 8 bytes.
Bytes pytorch_file() {
    std::string header =
        R"({"__metadata__":{"format":"pt"},)"
        R"("net.0.bias":{"dtype":"F32","shape":[128],"data_offsets":[0,512]},)"
        R"("net.0.weight":{"dtype":"F32","shape":[128,48,1,1],"data_offsets":[512,25088]},)"
        R"("net.2.weight":{"dtype":"F32","shape":[16,128,1,1],"data_offsets":[25088,33280]}})";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    std::vector<float> data;
    const std::size_t sizes[] = {128, 128 * 48, 16 * 128};
    for (std::size_t tensor = 0; tensor < 3; ++tensor) {
        for (std::size_t i = 0; i < sizes[tensor]; ++i) data.push_back(fixture_value(tensor, i));
    }
    const std::uint64_t header_size = header.size();
    Bytes bytes(8 + header.size() + data.size() * 4);
    std::memcpy(bytes.data(), &header_size, 8);
    std::memcpy(bytes.data() + 8, header.data(), header.size());
    std::memcpy(bytes.data() + 8 + header.size(), data.data(), data.size() * 4);
    return bytes;
}

}  // namespace

TEST_CASE("the parameter tensors tile the weights without a gap") {
    for (const bool output_bias : {false, true}) {
        std::size_t next = 0;
        for (const auto& tensor : nca::parameter_tensors(output_bias)) {
            REQUIRE(tensor.offset == next);
            std::int64_t product = 1;
            for (const auto side : tensor.shape) product *= side;
            REQUIRE(std::size_t(product) == tensor.size);
            next += tensor.size;
        }
        REQUIRE(next == nca::parameter_count(output_bias));
    }
}

TEST_CASE("the tensors have the names and shapes of the notebook's state_dict") {
    using Shape = std::vector<std::int64_t>;
    const auto tensors = nca::parameter_tensors(true);
    REQUIRE(tensors.size() == 4);
    REQUIRE(std::string(tensors[0].name) == "net.0.weight");
    REQUIRE(tensors[0].shape == Shape{128, 48, 1, 1});
    REQUIRE(std::string(tensors[1].name) == "net.0.bias");
    REQUIRE(tensors[1].shape == Shape{128});
    REQUIRE(std::string(tensors[2].name) == "net.2.weight");
    REQUIRE(tensors[2].shape == Shape{16, 128, 1, 1});
    REQUIRE(std::string(tensors[3].name) == "net.2.bias");
    REQUIRE(tensors[3].shape == Shape{16});
    REQUIRE(nca::parameter_tensors(false).size() == 3);
}

TEST_CASE("a model comes back as it was saved, bit for bit") {
    const TemporaryDirectory folder;
    for (const bool output_bias : {false, true}) {
        const Model model = example(output_bias);
        model.save(folder / "model.safetensors");
        const Model back = Model::load(folder / "model.safetensors");
        REQUIRE(back.rule == model.rule);
        REQUIRE(back.weights == model.weights);
        REQUIRE(back.weights.has_output_bias() == output_bias);
        REQUIRE(back.history == model.history);
        REQUIRE(back.origin == nca::ModelOrigin{});

        back.save(folder / "again.safetensors");
        REQUIRE(read_bytes(folder / "again.safetensors") ==
                read_bytes(folder / "model.safetensors"));
    }
}

TEST_CASE("a file that PyTorch wrote loads with the rule that is given") {
    const TemporaryDirectory folder;
    write_bytes(folder / "pytorch.safetensors", pytorch_file());
    const Model model = Model::load(folder / "pytorch.safetensors",
                                    {.rule = "notebook", .input_order = nca::InputOrder::channel});
    REQUIRE(model.origin.rule_source == nca::RuleSource::options);
    REQUIRE(model.rule == nca::notebook_rule());
    REQUIRE(model.history == nca::TrainingHistory{});
    REQUIRE_FALSE(model.weights.has_output_bias());
    const auto view = model.weights.view();
    REQUIRE(view.b2 == nullptr);
    for (std::size_t i = 0; i < nca::b1_size; ++i) REQUIRE(view.b1[i] == fixture_value(0, i));
    for (std::size_t i = 0; i < nca::w1_size; ++i) REQUIRE(view.w1[i] == fixture_value(1, i));
    for (std::size_t i = 0; i < nca::w2_size; ++i) REQUIRE(view.w2[i] == fixture_value(2, i));
}

TEST_CASE("a checkpoint's tensors are passed over") {
    SafetensorsFile file = file_of(example(true));
    file.tensors.push_back({"adam.m.net.0.bias", {1}, {std::nanf("")}});
    file.tensors.push_back({"recovery.net.0.bias", {1}, {1}});
    file.tensors.push_back({"good.net.0.bias", {1}, {1}});
    file.tensors.push_back({"pool.states", {1}, {1}});
    file.metadata["nca.training"] = "{}";
    REQUIRE(model_of(file).weights == example(true).weights);
}

TEST_CASE("missing, unknown and misshapen tensors are refused by name") {
    for (std::size_t i = 0; i < 3; ++i) {
        SafetensorsFile file = file_of(example(true));
        const std::string name = file.tensors[i].name;
        file.tensors.erase(file.tensors.begin() + std::ptrdiff_t(i));
        REQUIRE_THAT(refused(file),
                     ContainsSubstring("m.safetensors: tensor " + name + " is missing"));
    }
    SafetensorsFile file = file_of(example(true));
    file.tensors.push_back({"net.4.weight", {1}, {1}});
    REQUIRE_THAT(refused(file), ContainsSubstring("unknown tensor \"net.4.weight\""));

    file = file_of(example(true));
    file.tensors[0].shape = {128, 48};
    REQUIRE_THAT(refused(file),
                 ContainsSubstring("net.0.weight has shape [128, 48], expected [128, 48, 1, 1]") &&
                     !ContainsSubstring("only automata"));
    file = file_of(example(true));
    file.tensors[0].shape = {48, 128, 1, 1};
    REQUIRE_THAT(refused(file), ContainsSubstring("has shape [48, 128, 1, 1]"));
    file = file_of(example(true));
    file.tensors[3] = {"net.2.bias", {15}, std::vector<float>(15)};
    REQUIRE_THAT(refused(file),
                 ContainsSubstring("net.2.bias has shape [15], expected [16]; another"));
}

TEST_CASE("weights that are not finite are neither loaded nor saved") {
    const TemporaryDirectory folder;
    const auto path = folder / "model.safetensors";
    example(true).save(path);
    const Bytes before = read_bytes(path);
    constexpr float infinity = std::numeric_limits<float>::infinity();
    for (const float bad : {std::nanf(""), infinity, -infinity}) {
        for (std::size_t i = 0; i < 4; ++i) {
            SafetensorsFile file = file_of(example(true));
            file.tensors[i].values[5] = bad;
            REQUIRE_THAT(refused(file),
                         ContainsSubstring("tensor " + file.tensors[i].name + " has the value") &&
                             ContainsSubstring("at index 5"));
        }
        Model model = example(true);
        model.weights.all().back() = bad;
        REQUIRE_THAT(message_of<nca::InvalidArgument>([&] { model.save(path); }),
                     ContainsSubstring("weight 15 of tensor net.2.bias"));
    }
    REQUIRE(read_bytes(path) == before);
    REQUIRE(folder.names().size() == 1);
}

TEST_CASE("a model that was moved from is not saved") {
    const TemporaryDirectory folder;
    for (const bool output_bias : {false, true}) {
        Model model = example(output_bias);
        const Model moved = std::move(model);
        const std::string expected = "the model has 0 weights, expected " +
                                     std::to_string(nca::parameter_count(output_bias)) +
                                     ": was it moved from?";
        REQUIRE(message_of<nca::InvalidArgument>([&] { model.save(folder / "m"); }) == expected);
        REQUIRE(message_of<nca::InvalidArgument>(
                    [&] { nca::save_distill_json(folder / "m", model); }) == expected);
        REQUIRE(folder.names().empty());
        moved.save(folder / "moved");
        model = moved;
        model.save(folder / "moved");
        std::filesystem::remove(folder / "moved");
    }
}

TEST_CASE("a model's file says how many iterations it has done") {
    const TemporaryDirectory folder;
    const auto path = folder / "m";
    example(true).save(path);
    REQUIRE(nca::iterations_in_file(path) == 8000);
    // Its weights are not read.
    Bytes bytes = read_bytes(path);
    std::fill(bytes.end() - 4, bytes.end(), std::uint8_t(0xff));
    write_bytes(path, bytes);
    REQUIRE(nca::iterations_in_file(path) == 8000);
    bytes.pop_back();
    write_bytes(path, bytes);
    REQUIRE(nca::iterations_in_file(path) == 0);

    write_bytes(path, pytorch_file());
    REQUIRE(nca::iterations_in_file(path) == 0);
    write_text(path, "hello");
    REQUIRE(nca::iterations_in_file(path) == 0);
    const std::pair<const char*, std::int64_t> histories[] = {
        {"", 0},
        {"[]", 0},
        {"{}", 0},
        {R"({"iterations":-1})", 0},
        {R"({"iterations":1.5})", 0},
        {R"({"iterations":1e999})", 0},
        {R"({"iterations":9223372036854775808})", 0},
        {R"({"iterations":9223372036854775807})", 9223372036854775807},
        {R"({"iterations":7,"iterations":7})", 0},
        {R"({"iterations":7,"a field of a later version":8})", 7},
    };
    for (const auto& [text, expected] : histories) {
        CAPTURE(text);
        SafetensorsFile file = file_of(example(true));
        file.metadata["nca.history"] = text;
        nca::write_safetensors(path, file);
        REQUIRE(nca::iterations_in_file(path) == expected);
        file.tensors.push_back({"other", {1}, {1}});  // so it is no model
        nca::write_safetensors(path, file);
        REQUIRE(nca::iterations_in_file(path) == 0);
    }
}

TEST_CASE("a model with an invalid rule is not saved") {
    const TemporaryDirectory folder;
    Model model;
    model.rule.fire_rate = 2;
    REQUIRE_THROWS_AS(model.save(folder / "model.safetensors"), nca::InvalidArgument);
    REQUIRE(folder.names().empty());
}

TEST_CASE("every field of the rule is required and checked") {
    const std::string good = nca::rule_to_text(nca::Rule{});
    REQUIRE(nca::rule_from_text(good, "m") == nca::Rule{});
    for (const char* name :
         {"filters", "edges", "life", "start_cell", "fire_rate", "step_size", "premultiplied"}) {
        const std::string quoted = std::string("\"") + name + "\"";
        CAPTURE(name);
        const std::string message = refused_rule(replaced(good, quoted, "\"other\""));
        REQUIRE_THAT(message, ContainsSubstring("m: nca.rule: field " + quoted + " is missing"));
    }
    const auto with = [&](const char* from, const char* to) {
        return refused_rule(replaced(good, from, to));
    };
    REQUIRE_THAT(with("\"zero\"", "\"mirror\""),
                 ContainsSubstring("\"edges\" is \"mirror\", expected \"circular\" or \"zero\""));
    REQUIRE_THAT(with("\"zero\"", "1"), ContainsSubstring("\"edges\" is 1"));
    REQUIRE_THAT(with("\"pre_and_post\"", "null"), ContainsSubstring("\"life\" is null"));
    REQUIRE_THAT(with("\"alpha_and_hidden\"", "{}"),
                 ContainsSubstring("\"start_cell\" is an object"));
    REQUIRE_THAT(with("0.5", "2"), ContainsSubstring("fire_rate is 2, expected 0..1"));
    REQUIRE_THAT(with("0.5", "\"0.5\""),
                 ContainsSubstring("\"fire_rate\" is \"0.5\", expected a number"));
    REQUIRE_THAT(with("\"step_size\":1.0", "\"step_size\":1e300"),
                 ContainsSubstring("\"step_size\" is 1e+300"));
    REQUIRE_THAT(with("true", "1"),
                 ContainsSubstring("\"premultiplied\" is 1, expected true or false"));
    REQUIRE_THAT(with("[[", "[[0.0,"),
                 ContainsSubstring("\"filters\"") && ContainsSubstring("3 arrays of 9"));
    REQUIRE_THAT(with("[[0.0,", "[[null,"), ContainsSubstring("\"filters\" is null"));
    REQUIRE_THAT(with("{", "{\"new\":1,"), ContainsSubstring("unknown field \"new\""));
    REQUIRE_THAT(with("{", "{\"life\":\"post\","), ContainsSubstring("\"life\" twice"));
    REQUIRE_THAT(refused_rule(""), ContainsSubstring("not JSON"));
    REQUIRE_THAT(refused_rule("[]"), ContainsSubstring("expected an object"));
    REQUIRE_THAT(refused_rule(std::string(100000, '[')), ContainsSubstring("nested deeper"));
}

TEST_CASE("the history is optional but must be right") {
    SafetensorsFile file = file_of(example(true));
    const std::string good = file.metadata.at("nca.history");
    const auto with = [&](const char* from, const char* to) {
        file.metadata["nca.history"] = replaced(good, from, to);
        return refused(file);
    };
    REQUIRE_THAT(with("8000", "-1"), ContainsSubstring("nca.history: field \"iterations\" is -1"));
    REQUIRE_THAT(with("8000", "18446744073709551615"), ContainsSubstring("\"iterations\""));
    REQUIRE_THAT(with("8000", "8e3"), ContainsSubstring("expected an integer"));
    REQUIRE_THAT(with("72", "4294967296"), ContainsSubstring("\"height\""));
    REQUIRE_THAT(with("4294967295", "4294967296"), ContainsSubstring("\"seed\""));
    REQUIRE_THAT(with("\"preset\"", "\"presets\""), ContainsSubstring("\"preset\" is missing"));
    for (const char* wrong : {"0", "-1", "null", "\"1\""}) {
        REQUIRE_THAT(with("{", fmt::format("{{\"stop_at\":{},", wrong).c_str()),
                     ContainsSubstring(fmt::format("\"stop_at\" is {}", wrong)));
    }
    file.metadata["nca.history"] = replaced(good, "{", "{\"stop_at\":0.25,");
    REQUIRE(model_of(file).history.stop_at == 0.25);
    file.metadata.erase("nca.history");
    REQUIRE(model_of(file).history == nca::TrainingHistory{});
}

TEST_CASE("start cells are in the history where there are any, and checked against its grid") {
    Model model = example(true);
    const std::string without = file_of(model).metadata.at("nca.history");
    REQUIRE(without.find("start_cells") == std::string::npos);
    model.history.start_cells = {{71, 0}, {2, 70}};
    SafetensorsFile file = file_of(model);
    const std::string with = file.metadata.at("nca.history");
    REQUIRE(with == without.substr(0, without.size() - 1) + ",\"start_cells\":[[0,71],[70,2]]}");
    REQUIRE(model_of(file).history == model.history);
    const auto refused_cells = [&](const char* cells) {
        file.metadata["nca.history"] = replaced(with, "[[0,71],[70,2]]", cells);
        return refused(file);
    };
    REQUIRE_THAT(refused_cells("[[71,0]]"),
                 ContainsSubstring("nca.history") &&
                     ContainsSubstring("column 71 and row 0 is outside the grid of 72x71 cells"));
    REQUIRE_THAT(refused_cells("[[0,72]]"), ContainsSubstring("outside"));
    REQUIRE_THAT(refused_cells("[[0,1],[0,1]]"), ContainsSubstring("given twice"));
    REQUIRE_THAT(refused_cells("[[0,-1]]"), ContainsSubstring("\"start_cells\""));
    REQUIRE_THAT(refused_cells("\"middle\""), ContainsSubstring("\"start_cells\""));
}

TEST_CASE("a history whose loss is not a number is kept") {
    Model model = example(true);
    model.history.loss = std::nan("");
    const Model back = model_of(file_of(model));
    REQUIRE(std::isnan(back.history.loss));
    REQUIRE(back.history.iterations == 8000);
}

TEST_CASE("files that are no models are refused") {
    const TemporaryDirectory folder;
    const auto path = folder / "model.safetensors";
    REQUIRE_THROWS_AS(Model::load(path), nca::IoError);
    REQUIRE_THROWS_AS(Model::load(folder.path()), nca::IoError);
    for (const char* text : {"", "hello", "{\"net.0.weight\": 1}", "\x89PNG\r\n\x1a\n"}) {
        write_text(path, text);
        CAPTURE(text);
        REQUIRE_THAT(message_of<FormatError>([&] { Model::load(path); }),
                     ContainsSubstring(path.string()));
    }
}

TEST_CASE("every truncation of a model's header is refused") {
    const TemporaryDirectory folder;
    const auto path = folder / "model.safetensors";
    example(true).save(path);
    const Bytes bytes = read_bytes(path);
    for (std::size_t size = 0; size < bytes.size(); size += size < 1500 ? 37 : 4999) {
        write_bytes(path, std::span(bytes).first(size));
        CAPTURE(size);
        REQUIRE_THROWS_AS(Model::load(path), FormatError);
    }
}
