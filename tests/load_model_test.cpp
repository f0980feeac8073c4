// SPDX-License-Identifier: MIT
// Model::load: what a file is, and the rule that it does not say. Every file here is one of the
// repository's lizards as another program would have saved it.
#include "host/files/base64.hpp"
#include "host/files/model_file.hpp"

#include <nca/error.hpp>
#include <nca/model.hpp>
#include <nca/simulator.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/foreign_files.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

using namespace nca;
using namespace nca::test;
using Catch::Matchers::ContainsSubstring;

namespace {

Model lizard(const std::string& regime = "growing") {
    return Model::load(std::string(NCA_DATA_DIR "/models/lizard_") + regime + ".safetensors");
}

void write_safetensors_of(const std::filesystem::path& path,
                          const std::vector<TestTensor>& tensors) {
    SafetensorsFile file;
    for (const TestTensor& tensor : tensors) {
        file.tensors.push_back({tensor.name, tensor.shape, tensor.values});
    }
    write_safetensors(path, file);
}

void require_guess(const Model& model, const Model& expected, const std::string& rule,
                   InputOrder order) {
    REQUIRE(model.origin.rule_source == RuleSource::guess);
    REQUIRE(model.origin.rule == rule);
    REQUIRE(model.origin.input_order == order);
    REQUIRE(model.weights == expected.weights);
    REQUIRE(model.rule == expected.rule);
}

nlohmann::json constant(const std::string& name, const TestTensor& tensor) {
    nlohmann::json sides = nlohmann::json::array();
    for (const std::int64_t side : tensor.shape) sides.push_back({{"size", std::to_string(side)}});
    const std::string bytes = bytes_of(tensor.values);
    return {
        {"name", name},
        {"op", "Const"},
        {"attr",
         {{"dtype", {{"type", "DT_FLOAT"}}},
          {"value",
           {{"tensor",
             {{"dtype", "DT_FLOAT"},
              {"tensorShape", {{"dim", sides}}},
              {"tensorContent", encode_base64({reinterpret_cast<const std::uint8_t*>(bytes.data()),
                                               bytes.size()})}}}}}}}};
}

// What the Colab notebook of the article exports.
nlohmann::json graph_of(const Model& model) {
    std::vector<TestTensor> layers = layers_of(model, "dense", "out");
    layers[0] = transposed(layers[0]);
    layers[0].shape = {1, 1, 48, 128};
    layers[2] = transposed(layers[2]);
    layers[2].shape = {1, 1, 128, 16};
    nlohmann::json nodes = {
        {{"name", "x"}, {"op", "Placeholder"}, {"attr", nlohmann::json::object()}}};
    for (const TestTensor& layer : layers) nodes.push_back(constant(layer.name, layer));
    for (const std::size_t k : {1, 2}) {
        const Filter& filter = model.rule.filters[k];
        nodes.push_back(
            constant("mul/" + std::to_string(k), {"", {3, 3}, {filter.begin(), filter.end()}}));
    }
    nodes.push_back(constant("size", {"", {2}, {1, 2}}));
    return {{"format", "graph-model"},
            {"modelTopology", {{"node", nodes}, {"versions", {{"producer", "1.14"}}}}},
            {"weightsManifest", nlohmann::json::array()}};
}

std::string refused(const std::filesystem::path& path, const LoadOptions& options = {}) {
    return message_of<FormatError>([&] { Model::load(path, options); });
}

}  // namespace

TEST_CASE("a model whose metadata are lost comes out right in every regime") {
    const TemporaryDirectory folder;
    for (const char* regime : {"growing", "persistent", "regenerating"}) {
        CAPTURE(regime);
        const Model expected = lizard(regime);
        REQUIRE(expected.origin == ModelOrigin{});
        write_safetensors_of(folder / "resaved", layers_of(expected, "net.0", "net.2"));
        const Model model = Model::load(folder / "resaved");
        require_guess(model, expected, "growing", InputOrder::channel);
        REQUIRE(model.history == TrainingHistory{});

        std::vector<TestTensor> layers = layers_of(expected, "fc0", "fc1");
        layers[0] = by_filter(layers[0]);
        write_safetensors_of(folder / "filter", layers);
        require_guess(Model::load(folder / "filter"), expected, "growing", InputOrder::filter);
    }
}

TEST_CASE("weights for the notebook's rule are recognised in both orders of inputs") {
    // The lizard under filters that are eight times as strong, which its weights make up for.
    const TemporaryDirectory folder;
    Model expected = lizard("persistent");
    expected.rule = notebook_rule();
    expected.rule.start_cell = StartCell::alpha_and_hidden;
    const LoadOptions options{.start_cell = StartCell::alpha_and_hidden};
    const auto all = expected.weights.all();
    for (std::size_t i = 0; i < w1_size; ++i) {
        if (i % filter_count != 0) all[i] /= 8;
    }
    std::vector<TestTensor> layers = layers_of(expected, "fc0", "fc1");
    write_safetensors_of(folder / "channel", layers);
    require_guess(Model::load(folder / "channel", options), expected, "notebook",
                  InputOrder::channel);
    layers[0] = by_filter(layers[0]);
    write_safetensors_of(folder / "filter", layers);
    require_guess(Model::load(folder / "filter", options), expected, "notebook",
                  InputOrder::filter);
}

TEST_CASE("every kind of file gives the same model") {
    const TemporaryDirectory folder;
    const Model expected = lizard();
    const std::vector<TestTensor> layers = layers_of(expected, "module.fc0", "module.fc1");
    write_bytes(folder / "new.pth", pytorch_file(layers));
    write_bytes(folder / "old.pth", old_pytorch_file(layers));
    write_text(folder / "graph.json", graph_of(expected).dump());
    write_text(folder / "topology.json", graph_of(expected)["modelTopology"].dump());
    for (const char* name : {"new.pth", "old.pth", "graph.json", "topology.json"}) {
        CAPTURE(name);
        require_guess(Model::load(folder / name), expected, "growing", InputOrder::channel);
    }
    save_distill_json(folder / "demo.json", expected);
    const Model demo = Model::load(folder / "demo.json");
    REQUIRE(demo.origin.rule_source == RuleSource::format);
    REQUIRE(demo.rule == distill_demo_rule());
    REQUIRE(demo.weights == load_distill_json(folder / "demo.json").weights);
}

TEST_CASE("a model with its rule in half precision is converted, with a note") {
    const TemporaryDirectory folder;
    const Model expected = lizard();
    // Its rule, and weights of 1 and 0 in turn.
    std::string header = R"({"__metadata__":{"nca.rule":)" +
                         nlohmann::json(rule_to_text(expected.rule)).dump() + "}";
    std::size_t end = 0;
    for (const ParameterTensor& tensor : parameter_tensors(true)) {
        header +=
            fmt::format(R"(,"{}":{{"dtype":"F16","shape":[{}],"data_offsets":[{},{}]}})",
                        tensor.name, fmt::join(tensor.shape, ","), end, end + 2 * tensor.size);
        end += 2 * tensor.size;
    }
    header += "}";
    std::string bytes = PickleWriter().number(std::uint64_t{header.size()}).str() + header;
    for (std::size_t i = 0; i < end / 2; ++i)
        bytes += i % 2 == 0 ? std::string("\0\x3c", 2) : std::string(2, '\0');
    write_text(folder / "half", bytes);
    const Model model = Model::load(folder / "half");
    REQUIRE(model.rule == expected.rule);
    REQUIRE(model.origin.rule_source == RuleSource::file);
    REQUIRE(model.origin.notes == std::vector<std::string>{conversion_note(NumberType::float16)});
    for (std::size_t i = 0; i < model.weights.all().size(); ++i) {
        REQUIRE(model.weights.all()[i] == float(i % 2 == 0));
    }
}

TEST_CASE("half precision without the rule, of safetensors and PyTorch, is guessed and noted") {
    const TemporaryDirectory folder;
    const Model expected = lizard();
    const auto to_half = [](float value) {  // rounds towards zero
        const auto bits = std::bit_cast<std::uint32_t>(value);
        const int exponent = int(bits >> 23 & 255) - 127 + 15;
        const std::uint32_t sign = bits >> 16 & 0x8000;
        return std::uint16_t(
            exponent <= 0 ? sign : sign | std::uint32_t(exponent) << 10 | (bits >> 13 & 1023));
    };
    std::string data, header, pickle = "\x80\x02}(";
    Entries entries;
    for (const ParameterTensor& tensor : parameter_tensors(true)) {
        std::string half;
        for (const float value : expected.weights.all().subspan(tensor.offset, tensor.size)) {
            half += PickleWriter().number(to_half(value)).str();
        }
        header += fmt::format(R"({}"{}":{{"dtype":"F16","shape":[{}],"data_offsets":[{},{}]}})",
                              header.empty() ? "{" : ",", tensor.name, fmt::join(tensor.shape, ","),
                              data.size(), data.size() + half.size());
        pickle += PickleWriter()
                      .text(tensor.name)
                      .tensor(tensor.name, std::int64_t(tensor.size), 0, tensor.shape,
                              strides_of(tensor.shape), false, "HalfStorage")
                      .str();
        entries.emplace_back(std::string("m/data/") + tensor.name, half);
        data += half;
    }
    header += "}";
    entries.emplace_back("m/data.pkl", pickle + "u.");
    write_text(folder / "m.safetensors",
               PickleWriter().number(std::uint64_t{header.size()}).str() + header + data);
    write_bytes(folder / "m.pth", zip_of(entries));
    for (const char* name : {"m.safetensors", "m.pth"}) {
        CAPTURE(name);
        const Model model = Model::load(folder / name);
        REQUIRE(model.origin.rule_source == RuleSource::guess);
        REQUIRE(model.rule == expected.rule);
        REQUIRE(model.origin.notes ==
                std::vector<std::string>{"the weights are float16 and become float32"});
        for (std::size_t i = 0; i < model.weights.all().size(); ++i) {
            const float wanted = expected.weights.all()[i];
            REQUIRE(std::abs(model.weights.all()[i] - wanted) <=
                    std::max(std::abs(wanted) / 1024, 0x1p-14F));
        }
    }
}

TEST_CASE("a rule in the metadata is taken whatever names the tensors have") {
    const TemporaryDirectory folder;
    const Model expected = lizard();
    SafetensorsFile file;
    put_model(expected, file);
    for (NamedTensor& tensor : file.tensors) tensor.name = "module." + tensor.name;
    file.tensors[0].shape = {128, 48};
    write_safetensors(folder / "m", file);
    const Model model = Model::load(folder / "m");
    REQUIRE(model.rule == expected.rule);
    REQUIRE(model.weights == expected.weights);
    REQUIRE(model.history == expected.history);
    REQUIRE(model.origin == ModelOrigin{});
}

TEST_CASE("options say the rule, and what they leave open is guessed") {
    const TemporaryDirectory folder;
    const Model expected = lizard();
    std::vector<TestTensor> layers = layers_of(expected, "fc0", "fc1");
    layers[0] = by_filter(layers[0]);
    const auto path = folder / "filter";
    write_safetensors_of(path, layers);

    const Model named = Model::load(path, {.rule = "growing", .input_order = InputOrder::filter});
    REQUIRE(named.origin.rule_source == RuleSource::options);
    REQUIRE(named.weights == expected.weights);
    REQUIRE(named.rule == expected.rule);

    LoadOptions all{.rule = "notebook",
                    .edges = Edges::zero,
                    .sobel_scale = 0.5F,
                    .life = Life::pre_and_post,
                    .start_cell = StartCell::alpha_and_hidden,
                    .fire_rate = 0.25F,
                    .step_size = 0.75F,
                    .premultiplied = true,
                    .input_order = InputOrder::channel,
                    .transposed = true};
    const Model custom = Model::load(path, all);  // nothing is left to guess, right or not
    Rule rule;
    rule.fire_rate = 0.25F;
    rule.step_size = 0.75F;
    for (const std::size_t k : {1, 2}) {
        rule.filters[k] = notebook_rule().filters[3 - k];
        for (float& value : rule.filters[k]) value /= 2;
    }
    REQUIRE(custom.rule == rule);
    REQUIRE(custom.weights.all()[1] == layers[0].values[1]);

    const Model order = Model::load(path, {.rule = "growing"});
    require_guess(order, expected, "growing", InputOrder::filter);
    const Model edges = Model::load(path, {.edges = Edges::circular});
    REQUIRE(edges.origin.rule == "growing");
    REQUIRE(edges.rule == distill_demo_rule());

    const auto wrong = [&](const LoadOptions& options) {
        return message_of<InvalidArgument>([&] { Model::load(path, options); });
    };
    REQUIRE_THAT(wrong({.rule = "wrong"}), ContainsSubstring("expected notebook, growing, demo"));
    REQUIRE_THAT(
        wrong({.rule = "notebook"}),
        ContainsSubstring("under none of these: notebook by channel, notebook by filter") &&
            ContainsSubstring("--rule"));
    const auto own = std::string(NCA_DATA_DIR "/models/lizard_growing.safetensors");
    REQUIRE_THAT(message_of<InvalidArgument>([&] { Model::load(own, {.edges = Edges::circular}); }),
                 ContainsSubstring("has a rule of its own"));
}

TEST_CASE("filters in the file leave only the rest to guess") {
    const TemporaryDirectory folder;
    const Model expected = lizard();
    std::vector<TestTensor> layers = layers_of(expected, "fc0", "fc1");
    TestTensor filters{"perceive.weight", {48, 1, 3, 3}, {}};
    for (std::size_t i = 0; i < perception; ++i) {
        const Filter& filter = expected.rule.filters[i % filter_count];
        filters.values.insert(filters.values.end(), filter.begin(), filter.end());
    }
    layers.push_back(filters);
    write_safetensors_of(folder / "m", layers);
    const Model named = Model::load(folder / "m", {.rule = "growing"});
    REQUIRE(named.origin.rule_source == RuleSource::options);
    REQUIRE(named.rule == expected.rule);
    REQUIRE(named.weights == expected.weights);
    const Model guessed = Model::load(folder / "m");
    REQUIRE(guessed.origin.rule_source == RuleSource::guess);
    REQUIRE(guessed.rule == expected.rule);
    for (const LoadOptions& options :
         {LoadOptions{.sobel_scale = 1.0F}, LoadOptions{.input_order = InputOrder::filter}}) {
        REQUIRE_THROWS_AS(Model::load(folder / "m", options), InvalidArgument);
    }
}

TEST_CASE("weights that were trained behind a filter of zeros are recognised") {
    // The weights of Sobel x and y beyond the bound of PyTorch's first weights, the others within.
    const TemporaryDirectory folder;
    Model model;
    const WeightsView weights = model.weights.view();
    for (std::size_t i = 0; i < w1_size; ++i) {
        const float part = float(i % 101) / 100;
        weights.w1[i] = i % filter_count == 0 ? 0.1443375F * part : 0.2F * part;
    }
    std::vector<TestTensor> layers = layers_of(model, "brain.0", "brain.2");
    write_safetensors_of(folder / "zero", layers);
    Rule rule = notebook_rule();
    rule.filters[0] = {};
    const Model zero = Model::load(folder / "zero");
    REQUIRE(zero.rule == rule);
    REQUIRE(zero.origin.notes.size() == 1);
    REQUIRE_THAT(zero.origin.notes[0], ContainsSubstring("--identity-filter 1"));
    REQUIRE(Model::load(folder / "zero", {.identity_filter = true}).rule == notebook_rule());

    layers[0].values[0] = 0.145F;  // one weight of the identity that training has moved
    write_safetensors_of(folder / "moved", layers);
    REQUIRE(Model::load(folder / "moved").rule == notebook_rule());
    REQUIRE(Model::load(folder / "moved", {.identity_filter = false}).rule == rule);
    for (float& value : layers[0].values) value = std::min(value, 0.144F);  // none was moved
    layers[0].values[0] = 0.144F;
    write_safetensors_of(folder / "first", layers);
    REQUIRE(Model::load(folder / "first").rule == notebook_rule());
}

TEST_CASE("filters that are known say which rule is tried first") {
    // Of weights that are zero every rule lets the start cell live.
    const TemporaryDirectory folder;
    const std::vector<TestTensor> layers = layers_of(Model{}, "fc0", "fc1");
    const auto with_filters = [&](const Rule& rule) {
        std::vector<TestTensor> tensors = layers;
        for (const std::size_t k : {1, 2}) {
            const Filter& filter = rule.filters[k];
            tensors.push_back(
                {"filter" + std::to_string(k), {3, 3}, {filter.begin(), filter.end()}});
        }
        write_safetensors_of(folder / "m", tensors);
        return Model::load(folder / "m").origin.rule;
    };
    REQUIRE(with_filters(Rule()) == "growing");
    REQUIRE(with_filters(notebook_rule()) == "notebook");
    write_safetensors_of(folder / "m", layers);
    REQUIRE(Model::load(folder / "m").origin.rule == "notebook");
    REQUIRE(Model::load(folder / "m", {.sobel_scale = 0.125F}).origin.rule == "growing");
    REQUIRE(Model::load(folder / "m", {.sobel_scale = 0.25F}).origin.rule == "growing");
    REQUIRE(Model::load(folder / "m", {.sobel_scale = 1.0F}).origin.rule == "notebook");
}

TEST_CASE("a transposed automaton grows the picture of the other, mirrored") {
    const TemporaryDirectory folder;
    write_safetensors_of(folder / "m", layers_of(lizard(), "fc0", "fc1"));
    const Model model = Model::load(folder / "m", {.rule = "growing", .fire_rate = 1.0F});
    const Model other =
        Model::load(folder / "m", {.rule = "growing", .fire_rate = 1.0F, .transposed = true});
    const auto grown = [](const Model& which) {
        Simulator simulator(which, {.device = Device::cpu(), .height = 24, .width = 24});
        simulator.plant_seed(12, 12);
        simulator.step(20);
        return simulator.download();
    };
    const std::vector<float> a = grown(model), b = grown(other);
    bool differs = false;
    for (std::size_t y = 0; y < 24; ++y) {
        for (std::size_t x = 0; x < 24; ++x) {
            const std::size_t here = (y * 24 + x) * channels, there = (x * 24 + y) * channels;
            for (std::size_t c = 0; c < channels; ++c) {
                REQUIRE(std::abs(a[here + c] - b[there + c]) < 1e-3F);
                differs |= std::abs(a[here + c] - a[there + c]) > 1e-2F;
            }
        }
    }
    REQUIRE(differs);
}

TEST_CASE("weights that live under no rule are refused, and need one") {
    const TemporaryDirectory folder;
    Model model;
    for (float& weight : model.weights.all()) weight = 1;
    write_safetensors_of(folder / "m", layers_of(model, "fc0", "fc1"));
    REQUIRE_THAT(message_of<InvalidArgument>([&] { Model::load(folder / "m"); }),
                 ContainsSubstring("has no rule") && ContainsSubstring("growing by filter"));
    const LoadOptions known{.rule = "notebook", .input_order = InputOrder::channel};
    REQUIRE(Model::load(folder / "m", known).weights == model.weights);
}

TEST_CASE("a file of another kind is named, with the next step") {
    const TemporaryDirectory folder;
    const auto path = folder / "m.safetensors";
    const std::pair<std::string, const char*> files[] = {
        {"<!DOCTYPE html><html>", "HTML page"},
        {"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"},
        {"\x89PNG\r\n\x1a\n and more", "is a picture"},
        {"\x89HDF\r\n\x1a\n and more", "HDF5"},
        {std::string("\x80\x04}\x94.", 5), "is a pickle"},
        {"\x93NUMPY and more", "NumPy array"},
        {"\x1f\x8b\x08 and more", "gzip"},
        {"", "empty"},
        {"{\"a\": 1}", "json of another kind"},
        {"{\"weightsManifest\": [1]}", "weightsManifest"},
        {"[1, 2", "not JSON"},
        {"[{}]", "1 layers"},
        {"no model at all", "of an unknown kind"},
        {"(dp0\nVnet.0.weight\n", "is a pickle"}};
    for (const auto& [text, words] : files) {
        CAPTURE(text);
        write_text(path, text);
        REQUIRE_THAT(refused(path), ContainsSubstring(path.string()) && ContainsSubstring(words));
    }
}

TEST_CASE("constants of a graph that are damaged are named") {
    const TemporaryDirectory folder;
    const auto with = [&](auto change) {
        nlohmann::json graph = graph_of(lizard());
        change(graph["modelTopology"]["node"][1]["attr"]["value"]["tensor"]);
        write_text(folder / "graph.json", graph.dump());
        return refused(folder / "graph.json");
    };
    REQUIRE(with([](auto&) {}).empty());
    REQUIRE_THAT(with([](auto& t) { t["tensorContent"] = "AAAA"; }),
                 ContainsSubstring("\"dense.weight\"") && ContainsSubstring("24576 bytes"));
    REQUIRE_THAT(with([](auto& t) { t["tensorContent"] = 7; }), ContainsSubstring("tensorContent"));
    REQUIRE_THAT(with([](auto& t) { t["tensorShape"]["dim"][0]["size"] = "x"; }),
                 ContainsSubstring("its shape is damaged"));
    REQUIRE_THAT(with([](auto& t) { t["tensorShape"]["dim"][0]["size"] = "-1"; }),
                 ContainsSubstring("its shape is damaged"));
    REQUIRE_THAT(with([](auto& t) { t["tensorShape"]["dim"] = 3; }),
                 ContainsSubstring("its shape is damaged"));
    REQUIRE_THAT(with([](auto& t) {
                     t["dtype"] = "DT_HALF";
                     t.erase("tensorContent");
                     t["halfVal"] = {15360};
                 }),
                 ContainsSubstring("no tensorContent, and floatVal"));
    REQUIRE_THAT(with([](auto& t) { t.erase("tensorContent"); }),
                 ContainsSubstring("no tensorContent"));
    nlohmann::json third = graph_of(lizard());  // a layer more
    third["modelTopology"]["node"].push_back(
        constant("middle", {"", {128, 128}, std::vector<float>(128 * 128)}));
    write_text(folder / "third.json", third.dump());
    REQUIRE_THAT(refused(folder / "third.json"), ContainsSubstring("\"middle\" [128, 128]"));
    REQUIRE_THAT(with([](auto& t) { t["dtype"] = "DT_INT32"; }),
                 ContainsSubstring("lacks the two"));
    const auto one_value = [](auto& t) {
        t.erase("tensorContent");
        t["floatVal"] = {0.25, 0.5};
    };
    REQUIRE_THROWS_AS(with(one_value), InvalidArgument);  // lives under no rule
    const Model filled =
        Model::load(folder / "graph.json", {.rule = "growing", .input_order = InputOrder::channel});
    REQUIRE(filled.weights.all()[0] == 0.25F);
    REQUIRE(filled.weights.all()[48] == 0.5F);
    REQUIRE(filled.weights.all()[w1_size - 1] == 0.5F);
}
