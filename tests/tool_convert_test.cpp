// SPDX-License-Identifier: MIT
// nca info with a model, and nca convert.
#include <nca/model.hpp>

#include "tests/support/cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/foreign_files.hpp"
#include "tests/support/tool.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <string>
#include <utility>

using namespace nca::test;

TEST_CASE("info prints rule, sizes, statistics and history, and no control characters") {
    const Workshop shop;
    nca::Model model = nca::Model::load(shop.model);
    model.history.target = "evil\x1b[31m\n.png";
    model.save(shop / "evil");
    const Outcome outcome = nca_tool({"info", shop / "evil"});
    INFO(outcome.out);
    REQUIRE(outcome.code == 0);
    REQUIRE(outcome.err.empty());
    for (const char* word : {"fire rate", "net.0.weight", "net.2.bias", "8336", "growing", "12x12",
                             "evil?[31m?.png"}) {
        INFO(word);
        REQUIRE(contains(outcome.out, word));
    }
    REQUIRE_FALSE(contains(outcome.out, "\x1b"));
}

TEST_CASE("convert makes a file for the web demo, and a model from it, and says what will differ") {
    const Workshop shop;
    nca::Model model = nca::Model::load(shop.model);
    nca::test::Uniform uniform(1);
    for (float& weight : model.weights.all()) {
        weight = uniform(-1, 1);
    }
    model.save(shop.model);
    const Outcome there = nca_tool({"convert", shop.model, shop / "demo.json"});
    require_message(there, {"demo.json", "edges", "wraps around"});  // of the preset growing
    REQUIRE(there.code == 0);
    REQUIRE(contains(there.out, "demo.json"));
    REQUIRE(read_file(shop / "demo.json").starts_with("[{\"data_b64\":\""));

    const auto silently = [&](const std::string& from, const std::string& to) {
        const Outcome outcome = nca_tool({"convert", from, to});
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        REQUIRE(outcome.err.empty());
        REQUIRE(contains(outcome.out, to));
        return read_file(to);
    };
    silently(shop / "demo.json", shop / "back.SafeTensors");
    const nca::Model back = nca::Model::load(shop / "back.SafeTensors");
    REQUIRE(back.origin == nca::ModelOrigin{});
    REQUIRE(back.rule == nca::distill_demo_rule());
    const auto before = model.weights.all();
    const auto after = back.weights.all();
    REQUIRE(before.size() == after.size());
    for (const nca::ParameterTensor& tensor : nca::parameter_tensors(true)) {
        double largest = 0;
        double difference = 0;
        for (std::size_t i = tensor.offset; i < tensor.offset + tensor.size; ++i) {
            largest = std::max(largest, std::abs(double{before[i]}));
            difference = std::max(difference, std::abs(double{before[i]} - after[i]));
        }
        INFO(tensor.name);
        REQUIRE(largest > 0);
        REQUIRE(difference > 0);
        REQUIRE(difference <= largest / 255 * 1.0001);
    }
    // The demo's own model says nothing, and comes back byte for byte.
    REQUIRE(silently(shop / "back.SafeTensors", shop / "again.json") ==
            read_file(shop / "demo.json"));
}

TEST_CASE("convert names every field in which the web demo's rule differs from the model's") {
    const Workshop shop;
    nca::Model model = nca::Model::load(shop.model);
    model.rule = nca::notebook_rule();
    model.rule.edges = nca::Edges::zero;
    model.rule.fire_rate = 0.25F;
    model.rule.step_size = 0.75F;
    model.save(shop.model);
    const Outcome all = nca_tool({"convert", shop.model, shop / "demo.json"});
    INFO(all.err);
    REQUIRE(all.code == 0);
    REQUIRE(std::filesystem::exists(shop / "demo.json"));
    const Words fields = {"filters",   "edges",     "life",         "start_cell",
                          "fire_rate", "step_size", "premultiplied"};
    for (const std::string& field : fields) {
        INFO(field);
        REQUIRE(contains(all.err, "demo.json: the web demo differs in " + field + ": "));
    }
    REQUIRE(contains(all.err, "0.25"));
    REQUIRE(contains(all.err, "0.75"));
    REQUIRE(std::count(all.err.begin(), all.err.end(), '\n') == std::ptrdiff_t(fields.size()));

    write_file(shop / "pytorch.safetensors", model_file());
    const Outcome pytorch = nca_tool({"convert", shop / "pytorch.safetensors", shop / "demo.json"});
    REQUIRE(pytorch.code == 0);
    REQUIRE(contains(pytorch.err, "guessed: --rule notebook --input-order channel"));
    REQUIRE(contains(pytorch.err, "differs in filters"));
    REQUIRE_FALSE(contains(pytorch.err, "differs in edges"));
}

TEST_CASE("start cells are shown by info, kept by convert, and lost for the web demo") {
    const Workshop shop;
    nca::Model model = nca::Model::load(shop.model);
    REQUIRE_FALSE(contains(nca_tool({"info", shop.model}).out, "start cells"));
    model.rule = nca::distill_demo_rule();
    model.history.start_cells = {{3, 11}, {4, 0}};
    model.save(shop.model);
    REQUIRE(contains(nca_tool({"info", shop.model}).out, "\n  start cells   11,3 and 0,4\n"));
    REQUIRE(nca_tool({"convert", shop.model, shop / "same.safetensors"}).err.empty());
    REQUIRE(nca::Model::load(shop / "same.safetensors").history == model.history);
    const Outcome demo = nca_tool({"convert", shop.model, shop / "demo.json"});
    REQUIRE(demo.code == 0);
    require_message(demo, {"demo.json: the web demo differs in start cells: it plants one in the "
                           "middle, the model was trained to start from 11,3 and 0,4 of 12x12"});
}

TEST_CASE("a model that cannot be converted is one line and exit code 1, and writes nothing") {
    const Workshop shop;
    REQUIRE(nca_tool({"convert", shop.model, shop / "good.json"}).code == 0);
    const std::string old = shop / "old.safetensors";  // without iterations, which may be replaced
    REQUIRE(nca_tool({"convert", shop / "good.json", old}).code == 0);
    const std::string good = read_file(shop / "good.json");
    const auto replaced = [&](const std::string& from, const std::string& to) {
        std::string text = good;
        text.replace(text.find(from), from.size(), to);
        return text;
    };
    nca::Model large = nca::Model::load(shop.model);
    large.weights.all()[3] = std::numeric_limits<float>::max();
    large.save(shop / "large.safetensors");
    write_file(shop / "empty.json", "");
    write_file(shop / "truncated.json", good.substr(0, good.size() / 2));
    write_file(shop / "size.json", replaced("\"in_ch\":48", "\"in_ch\":1099511627776"));
    write_file(shop / "scale.json", replaced("\"bias_scale\":", "\"bias_scale\":-1"));
    write_file(shop / "base64.json", replaced("\"data_b64\":\"", "\"data_b64\":\"*"));
    write_file(shop / "type.json", replaced("uint8", "float32"));
    write_file(shop / "other.json", "{}");
    write_file(shop / "huge.json", std::string(2 << 20, '['));
    std::string objects = "[{}";
    for (int i = 0; i < 349000; ++i) objects += ",{}";
    write_file(shop / "objects.json", objects + "]");
    std::filesystem::create_directory(shop / "folder.json");
    write_file(shop / "nan.safetensors", model_with_nan());
    write_file(shop / "text.safetensors", "This is not a model, but more than eight bytes long.\n");
    const auto before = shop.contents();
    for (const char* name :
         {"missing.json", "empty.json", "truncated.json", "size.json", "scale.json", "base64.json",
          "type.json", "other.json", "huge.json", "objects.json", "folder.json",
          "missing.safetensors", "nan.safetensors", "text.safetensors", "large.safetensors"}) {
        INFO(name);
        const bool json = std::string(name).ends_with(".json");
        // The old file stays where there is one.
        for (const std::string& output : {json ? shop / "new.safetensors" : shop / "new.json",
                                          json ? old : shop / "good.json"}) {
            const Outcome outcome = nca_tool({"convert", shop / name, output});
            require_message(outcome, {name});
            REQUIRE(outcome.code == 1);
            REQUIRE(outcome.out.empty());
            REQUIRE(shop.contents() == before);
        }
    }
    for (const auto& [from, to] : {std::pair(shop.model, shop / "none/new.json"),
                                   std::pair(shop.model, shop / "folder.json"),
                                   std::pair(shop / "good.json", shop / "none/new.safetensors")}) {
        const Outcome outcome = nca_tool({"convert", from, to});
        require_message(outcome, {"cannot write", to});
        REQUIRE(outcome.code == 1);
        REQUIRE(shop.contents() == before);
    }
    const rlim_t limit = 4096;  // less than either file
    for (const Words& words : {Words{"convert", shop.model, shop / "good.json"},
                               Words{"convert", shop / "good.json", old}}) {
        const Outcome outcome = nca_tool(words, limit);
        require_message(outcome, {"cannot write"});
        REQUIRE(outcome.code == 1);
        REQUIRE(shop.contents() == before);
    }
}

TEST_CASE("convert replaces what it has made, and no model that was trained") {
    const Folder folder;
    const std::string lizard = NCA_DATA_DIR "/models/lizard_growing.safetensors";
    const std::string persistent = NCA_DATA_DIR "/models/lizard_persistent.safetensors";
    const std::string json = folder / "m.json", out = folder / "m.safetensors";
    for (int i = 0; i < 2; ++i) {
        REQUIRE(nca_tool({"convert", lizard, json}).code == 0);
        REQUIRE(nca_tool({"convert", json, out}).code == 0);
    }
    write_file(out, read_file(persistent));
    const Outcome outcome = nca_tool({"convert", lizard, out});
    INFO(outcome.err);
    REQUIRE(outcome.code == 2);
    REQUIRE(contains(outcome.err, "8000 iterations of training and is not replaced"));
    REQUIRE(read_file(out) == read_file(persistent));
}

TEST_CASE("weights of another program grow the same picture, and convert keeps what was guessed") {
    const Folder folder;
    const std::string lizard = NCA_DATA_DIR "/models/lizard_growing.safetensors";
    const nca::Model expected = nca::Model::load(lizard);
    std::vector<TestTensor> layers = layers_of(expected, "module.fc0", "module.fc1");
    layers[0] = by_filter(layers[0]);
    const auto file = pytorch_file(layers);
    write_file(folder / "m.pth", std::string(file.begin(), file.end()));

    const auto run = [&](const Words& words) {
        const Outcome outcome = nca_tool(words);
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        return outcome;
    };
    const Words grow = {"--steps", "60", "--size", "48x48", "--scale", "1", "--device", "cpu"};
    run(Words{"grow", lizard, "-o", folder / "expected.png"} + grow);
    const Outcome grown = run(Words{"grow", folder / "m.pth", "-o", folder / "grown.png"} + grow);
    REQUIRE(contains(grown.err,
                     "m.pth: no rule in the file; guessed: --rule growing "
                     "--input-order filter"));
    REQUIRE(read_file(folder / "grown.png") == read_file(folder / "expected.png"));

    const Outcome told = run({"convert", folder / "m.pth", folder / "told.safetensors", "--rule",
                              "growing", "--input-order", "filter"});
    REQUIRE(told.err.empty());
    run({"convert", folder / "m.pth", folder / "guessed.safetensors"});
    REQUIRE(read_file(folder / "told.safetensors") == read_file(folder / "guessed.safetensors"));
    const nca::Model model = nca::Model::load(folder / "told.safetensors");
    REQUIRE(model.origin == nca::ModelOrigin{});
    REQUIRE(model.weights == expected.weights);
    REQUIRE(model.rule == expected.rule);

    const Outcome grown_wrong =
        nca_tool({"grow", folder / "m.pth", "-o", folder / "wrong.png", "--rule", "notebook",
                  "--input-order", "filter", "--device", "cpu"});
    REQUIRE(grown_wrong.code == 1);
    REQUIRE(contains(grown_wrong.err, "not finite"));
    REQUIRE(contains(grown_wrong.err, "name the rule by --rule and --input-order"));

    const Outcome info = run({"info", folder / "m.pth"});
    REQUIRE(contains(info.out, "guessed: --rule growing --input-order filter"));
    REQUIRE(info.err.empty());
    const Outcome changed = run({"info",
                                 folder / "m.pth",
                                 "--rule",
                                 "notebook",
                                 "--input-order",
                                 "channel",
                                 "--edges",
                                 "zero",
                                 "--sobel-scale",
                                 "0.5",
                                 "--life",
                                 "pre_and_post",
                                 "--premultiplied",
                                 "yes",
                                 "--step-size",
                                 "0.75",
                                 "--start-cell",
                                 "alpha_and_hidden",
                                 "--fire-rate",
                                 "0.25",
                                 "--transposed"});
    for (const char* words :
         {"edges         zero", "before and after the update", "alpha and hidden channels = 1",
          "0.25", "0.75", "premultiplied by alpha", "    -0.5"}) {
        INFO(changed.out);
        INFO(words);
        REQUIRE(contains(changed.out, words));
    }

    // Nothing is lost, and the message says what to do.
    const auto before = folder.contents();
    const Outcome wrong =
        nca_tool({"convert", folder / "m.pth", folder / "told.safetensors", "--rule", "notebook"});
    require_message(wrong, {"m.pth", "lives and stays bounded under none", "--rule"});
    REQUIRE(wrong.code == 2);
    const Outcome dead = nca_tool(Words{"grow", folder / "m.pth", "-o", folder / "grown.png",
                                        "--rule", "notebook", "--input-order", "filter"} +
                                  grow);
    REQUIRE(dead.code == 1);
    REQUIRE(contains(dead.err, "--rule"));
    write_file(folder / "mine.safetensors", "mine");
    const Outcome kept = nca_tool({"convert", folder / "m.pth", folder / "mine.safetensors"});
    require_message(kept, {"mine.safetensors", "is not a model"});
    REQUIRE(kept.code == 2);
    REQUIRE(read_file(folder / "mine.safetensors") == "mine");
    std::filesystem::remove(folder / "mine.safetensors");
    REQUIRE((folder.contents() == before));
}
