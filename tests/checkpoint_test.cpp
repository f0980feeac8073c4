// SPDX-License-Identifier: MIT
#include "host/training/checkpoint.hpp"

#include "host/files/model_file.hpp"
#include "host/files/safetensors.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/costs.hpp"
#include "tests/support/safetensors.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/training.hpp"

#include <nca/error.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

using namespace nca;
using Catch::Matchers::ContainsSubstring;
using test::message_of;
using test::TemporaryDirectory;

namespace {

const std::string training_key = "nca.training";

// Any two values of it differ; all are exact floats.
Parameters numbered(bool output_bias, float first) {
    Parameters parameters{Weights(output_bias)};
    float value = first;
    for (float& weight : parameters.weights.all()) weight = -(value += 0.25F);
    for (float& moment : parameters.first_moments) moment = -(value += 0.25F);
    for (float& moment : parameters.second_moments) moment = value += 0.25F;
    return parameters;
}

// No field as a preset has it.
TrainingConfig unusual_config() {
    TrainingConfig config;
    config.preset = "my \"own\" preset";
    config.rule = Rule{}.rotated(30);
    config.rule.edges = Edges::circular;
    config.rule.life = Life::post;
    config.rule.start_cell = StartCell::alpha;
    config.rule.fire_rate = 1.0F / 3;
    config.rule.step_size = -0.7F;
    config.rule.premultiplied = false;
    config.output_bias = false;
    config.initialisation = Initialisation::pytorch;
    config.schedule = Schedule::exponential;
    config.normalise_gradients = false;
    config.learning_rate = 1.0F / 700;
    config.beta1 = 0.1F;
    config.beta2 = 0.99999F;
    config.batch = 3;
    config.fewest_steps = 5;
    config.most_steps = 99999;
    config.earliest_loss_step = 4;
    config.latest_loss_step = 77;
    config.warmup = 321;
    config.pool = 5;
    config.damaged = 2;
    config.damage_centre = 0.3F;
    config.smallest_damage = 0.01F;
    config.largest_damage = 0.7F;
    config.target_size = 17;
    config.padding = 0;
    config.seed = 4294967295U;
    return config;
}

// Of states of a 17 x 17 grid: an empty one, a full one, and some in between.
StatePool unusual_pool() {
    StatePool pool(5, 17 * 17);
    float value = 0;
    for (int i = 0; i < 5; ++i) {
        StatePool::Entry entry{.cells = {}, .values = {}, .loss = 0.5F / float(i + 1)};
        for (std::uint32_t cell = 0; i > 0 && cell < 17 * 17; cell += i == 3 ? 1 : 17 * i) {
            entry.cells.push_back(cell);
            for (int c = 0; c < channels; ++c) entry.values.push_back(value += 0.125F);
        }
        pool.set_entry(i, std::move(entry));
    }
    return pool;
}

// Of 17 x 17 cells, all values differ.
std::vector<float> unusual_target() {
    std::vector<float> target(17 * 17 * visible_channels);
    for (std::size_t i = 0; i < target.size(); ++i) target[i] = float(i) / float(target.size());
    return target;
}

Checkpoint unusual_checkpoint() {
    return {
        .config = unusual_config(),
        .target_name = "my \"lizard\"\n.png",
        .target_hash = hash_target(unusual_target()),
        .target = unusual_target(),
        .wanted_iterations = 2147483647,
        .progress = {.iteration = 123456789,
                     .recoveries = 7,
                     .failures = 5,
                     .good_iterations = 4321,
                     .learnt = true,
                     .recent_losses = {0.1, 1.0 / 3, 1e-300, 5e-324, 999.9999999999999, 0}},
        .current = numbered(false, 0),
        .anchor = numbered(false, 1e5F),
        .good = numbered(false, 2e5F).weights,
        .pool = unusual_pool(),
        .init_text = "my \"model\"",
        .init = numbered(false, 3e5F).weights,
    };
}

TrainingHistory history_of(const Checkpoint& checkpoint) {
    return {.preset = checkpoint.config.preset,
            .target = checkpoint.target_name,
            .init = checkpoint.init_text};
}

void require_same(const Parameters& got, const Parameters& expected) {
    REQUIRE(got.weights == expected.weights);
    REQUIRE(got.first_moments == expected.first_moments);
    REQUIRE(got.second_moments == expected.second_moments);
    REQUIRE(got.updates == expected.updates);
}

SafetensorsFile contents_of(const Checkpoint& checkpoint) {
    const TemporaryDirectory folder;
    save_checkpoint(folder / "checkpoint", checkpoint, history_of(checkpoint));
    return test::parse_safetensors(test::read_bytes(folder / "checkpoint"), "checkpoint");
}

// What load_checkpoint says about such a file; empty where it takes it.
std::string refused(const SafetensorsFile& file) {
    const TemporaryDirectory folder;
    test::write_bytes(folder / "bad.checkpoint", encode_safetensors(file));
    const std::string message =
        message_of<FormatError>([&] { load_checkpoint(folder / "bad.checkpoint"); });
    if (!message.empty()) REQUIRE_THAT(message, ContainsSubstring("bad.checkpoint"));
    return message;
}

NamedTensor& tensor(SafetensorsFile& file, const std::string& name) {
    for (NamedTensor& each : file.tensors) {
        if (each.name == name) return each;
    }
    throw std::runtime_error("no tensor " + name);
}

// A checkpoint file in which one field of a metadata entry has another value.
SafetensorsFile with_field(const std::string& key, const std::string& field,
                           const nlohmann::json& value) {
    SafetensorsFile file = contents_of(unusual_checkpoint());
    auto json = nlohmann::json::parse(file.metadata.at(key));
    REQUIRE(json.contains(field));
    json[field] = value;
    file.metadata[key] = json.dump();
    return file;
}

}  // namespace

TEST_CASE("a checkpoint comes back from its file as it was") {
    for (const bool output_bias : {false, true}) {
        Checkpoint expected = unusual_checkpoint();
        expected.config.output_bias = output_bias;
        expected.current = numbered(output_bias, 0);
        expected.anchor = numbered(output_bias, 1e5F);
        expected.good = numbered(output_bias, 2e5F).weights;
        expected.init = numbered(output_bias, 3e5F).weights;
        expected.current.updates = 987654321;
        expected.anchor.updates = 987654300;
        const TemporaryDirectory folder;
        const auto path = folder / "a.checkpoint";
        save_checkpoint(path, expected, history_of(expected));
        REQUIRE(folder.names() == std::vector<std::string>{"a.checkpoint"});

        const Checkpoint got = load_checkpoint(path);
        REQUIRE(first_difference(got.config, expected.config) == "");
        REQUIRE(got.config == expected.config);
        REQUIRE(got.target_name == expected.target_name);
        REQUIRE(got.target_hash == expected.target_hash);
        REQUIRE(got.target == expected.target);
        REQUIRE(got.wanted_iterations == expected.wanted_iterations);
        REQUIRE(got.init_text == expected.init_text);
        REQUIRE(got.init == expected.init);
        REQUIRE(got.progress == expected.progress);
        require_same(got.current, expected.current);
        require_same(got.anchor, expected.anchor);
        REQUIRE(got.good == expected.good);
        REQUIRE((got.pool == expected.pool));

        save_checkpoint(folder / "again", got, history_of(got));
        REQUIRE(test::read_bytes(folder / "again") == test::read_bytes(path));
    }
}

TEST_CASE("a checkpoint's header says what its run is, and the rest is not read") {
    const Checkpoint checkpoint = unusual_checkpoint();
    const TemporaryDirectory folder;
    const auto path = folder / "a.checkpoint";
    save_checkpoint(path, checkpoint, history_of(checkpoint));
    const auto require_info = [&](bool has_target, std::int64_t wanted) {
        const CheckpointInfo info = checkpoint_info(path);
        REQUIRE(info.config == checkpoint.config);
        REQUIRE(info.target == checkpoint.target_name);
        REQUIRE(info.has_target == has_target);
        REQUIRE(info.iterations == 123456789);
        REQUIRE(info.wanted_iterations == wanted);
        REQUIRE(info.init == "my \"model\"");
    };
    require_info(true, 2147483647);
    SafetensorsFile file = contents_of(checkpoint);
    tensor(file, "net.0.weight").values.assign(w1_size, NAN);
    write_safetensors(path, file);
    require_info(true, 2147483647);
    // As version 0.2.0 wrote it.
    std::erase_if(file.tensors, [](const auto& t) { return t.name == "target"; });
    auto progress = nlohmann::json::parse(file.metadata.at(progress_key));
    progress.erase("wanted_iterations");
    file.metadata[progress_key] = progress.dump();
    write_safetensors(path, file);
    require_info(false, 0);
    REQUIRE_THROWS_AS(checkpoint_info(folder / "missing"), IoError);
}

TEST_CASE("a checkpoint without a target, as version 0.2.0 wrote it, is read") {
    Checkpoint checkpoint = unusual_checkpoint();
    checkpoint.target.clear();
    checkpoint.target_hash = 0xfedcba9876543210;
    checkpoint.wanted_iterations = 0;
    checkpoint.init.reset();
    checkpoint.init_text.clear();
    const SafetensorsFile file = contents_of(checkpoint);
    REQUIRE(file.tensors.size() == 25);
    REQUIRE_FALSE(file.metadata.at(progress_key).find("wanted") != std::string::npos);
    REQUIRE_FALSE(file.metadata.at("nca.history").find("init") != std::string::npos);
    const TemporaryDirectory folder;
    write_safetensors(folder / "a", file);
    const Checkpoint got = load_checkpoint(folder / "a");
    REQUIRE(got.target.empty());
    REQUIRE(got.target_hash == 0xfedcba9876543210);
    REQUIRE(got.wanted_iterations == 0);
    REQUIRE_FALSE(got.init);
}

TEST_CASE("a target that is not the one of its hash is refused") {
    SafetensorsFile file = contents_of(unusual_checkpoint());
    float& value = tensor(file, "target").values[100];
    value = std::nextafter(value, 1.0F);
    REQUIRE_THAT(refused(file), ContainsSubstring("tensor target has another hash"));
    for (const float bad : {-0.5F, 1.5F}) {
        value = bad;
        REQUIRE_THAT(refused(file), ContainsSubstring("expected 0 to 1"));
    }
}

TEST_CASE("a checkpoint is a model file, too") {
    const Checkpoint checkpoint = unusual_checkpoint();
    const TrainingHistory history = {"growing", "lizard.png", 123, 17, 17, 3, 0.5, 9};
    const TemporaryDirectory folder;
    save_checkpoint(folder / "a.checkpoint", checkpoint, history);
    const Model model = Model::load(folder / "a.checkpoint");
    REQUIRE(model.weights == checkpoint.current.weights);
    REQUIRE(model.rule == checkpoint.config.rule);
    REQUIRE(model.history == history);
}

TEST_CASE("texts that are not UTF-8 are saved with replacement characters") {
    Checkpoint checkpoint = unusual_checkpoint();
    checkpoint.config.preset = "own\xff";
    checkpoint.target_name = "\xc3(.png";
    const TemporaryDirectory folder;
    save_checkpoint(folder / "a.checkpoint", checkpoint, {});
    const Checkpoint got = load_checkpoint(folder / "a.checkpoint");
    REQUIRE(got.config.preset == "own\xef\xbf\xbd");
    REQUIRE_THAT(got.target_name, ContainsSubstring("(.png"));
    REQUIRE_THAT(first_difference(got.config, checkpoint.config), ContainsSubstring("preset"));
}

TEST_CASE("the first difference of two configurations is named, whichever field it is in") {
    using Change = std::function<void(TrainingConfig&)>;
    const std::pair<Change, std::string> changes[] = {
        {[](auto& c) { c.preset = "growing"; }, "preset is \"growing\", expected "},
        {[](auto& c) { c.output_bias = true; }, "output_bias is true, expected false"},
        {[](auto& c) { c.initialisation = Initialisation::glorot; },
         "initialisation is \"glorot\", expected \"pytorch\""},
        {[](auto& c) { c.schedule = Schedule::drop; },
         "schedule is \"drop\", expected \"exponential\""},
        {[](auto& c) { c.normalise_gradients = true; }, "normalise_gradients is true"},
        {[](auto& c) { c.learning_rate = std::nextafter(c.learning_rate, 1.0F); },
         "learning_rate is 0.00142"},
        {[](auto& c) { c.beta1 = 0.5F; }, "beta1 is 0.5"},
        {[](auto& c) { c.beta2 = 0.75F; }, "beta2 is 0.75"},
        {[](auto& c) { c.batch = 4; }, "batch is 4, expected 3"},
        {[](auto& c) { c.fewest_steps = 6; }, "fewest_steps is 6, expected 5"},
        {[](auto& c) { c.most_steps = 7; }, "most_steps is 7, expected 99999"},
        {[](auto& c) { c.earliest_loss_step = c.latest_loss_step = 0; },
         "earliest_loss_step is 0, expected 4"},
        {[](auto& c) { c.latest_loss_step = 9; }, "latest_loss_step is 9, expected 77"},
        {[](auto& c) { c.warmup = 1; }, "warmup is 1, expected 321"},
        {[](auto& c) { c.pool = 6; }, "pool is 6, expected 5"},
        {[](auto& c) { c.damaged = 1; }, "damaged is 1, expected 2"},
        {[](auto& c) { c.damage_centre = 0.5F; }, "damage_centre is 0.5"},
        {[](auto& c) { c.smallest_damage = 0; }, "smallest_damage is 0.0"},
        {[](auto& c) { c.largest_damage = 0.75F; }, "largest_damage is 0.75"},
        {[](auto& c) { c.target_size = 18; }, "target_size is 18, expected 17"},
        {[](auto& c) { c.padding = 1; }, "padding is 1, expected 0"},
        {[](auto& c) { c.seed = 0; }, "seed is 0, expected 4294967295"},
        {[](auto& c) { c.rule.filters[2][8] += 1; }, "rule's filters are others than expected"},
        {[](auto& c) { c.rule.edges = Edges::zero; },
         "rule's edges is \"zero\", expected \"circular\""},
        {[](auto& c) { c.rule.life = Life::pre_and_post; }, "rule's life is \"pre_and_post\""},
        {[](auto& c) { c.rule.start_cell = StartCell::alpha_and_hidden; },
         "rule's start_cell is \"alpha_and_hidden\", expected \"alpha\""},
        {[](auto& c) { c.rule.fire_rate = 0.5F; }, "rule's fire_rate is 0.5, expected 0.333"},
        {[](auto& c) { c.rule.step_size = 1; }, "rule's step_size is 1.0, expected -0.69"},
        {[](auto& c) { c.rule.premultiplied = true; }, "rule's premultiplied is true"},
        {[](auto& c) { c.preset = std::string(1000, '\x01'); }, "..., expected "},
    };
    const TrainingConfig expected = unusual_config();
    REQUIRE(first_difference(expected, expected) == "");
    for (const auto& [change, difference] : changes) {
        TrainingConfig got = expected;
        change(got);
        REQUIRE_THAT(first_difference(got, expected), ContainsSubstring(difference));
        REQUIRE(first_difference(got, expected).size() < 250);
    }
}

TEST_CASE("start cells are in a checkpoint where there are any, and nowhere else") {
    const SafetensorsFile without = contents_of(unusual_checkpoint());
    REQUIRE(without.metadata.at(training_key).find("start_cells") == std::string::npos);
    Checkpoint checkpoint = unusual_checkpoint();
    checkpoint.config.start_cells = {{16, 0}, {2, 13}};
    SafetensorsFile file = contents_of(checkpoint);
    REQUIRE(nlohmann::json::parse(file.metadata.at(training_key)).at("start_cells") ==
            nlohmann::json::parse("[[0,16],[13,2]]"));
    const auto bytes = encode_safetensors(file);
    REQUIRE(take_checkpoint(SafetensorsReader(bytes, "a")).config == checkpoint.config);
    // The rest of the file is that of a training without.
    file.metadata[training_key] = without.metadata.at(training_key);
    REQUIRE(encode_safetensors(file) == encode_safetensors(without));

    const auto text = [&](const std::string& cells) {
        auto json = nlohmann::json::parse(without.metadata.at(training_key));
        json["start_cells"] = nlohmann::json::parse(cells);
        file.metadata[training_key] = json.dump();
        return refused(file);
    };
    REQUIRE(text("[]") == "");
    for (const char* cells : {"{}", "1", "null", "[1,2]", "[[1]]", "[[1,2,3]]", "[[1,2.5]]",
                              "[[-1,2]]", "[[1,\"2\"]]", "[[1,2147483648]]", "[[1,[2]]]"}) {
        INFO(cells);
        REQUIRE_THAT(text(cells),
                     ContainsSubstring(training_key) && ContainsSubstring("\"start_cells\""));
    }
    REQUIRE_THAT(text("[[1,17]]"), ContainsSubstring("column 1 and row 17 is outside the grid of "
                                                     "17x17 cells") &&
                                       ContainsSubstring("the file is damaged"));
    REQUIRE_THAT(text("[[1,2],[1,2]]"), ContainsSubstring("given twice"));
    std::string many = "[[0,0]";
    for (int i = 1; i < 65; ++i) many += ",[" + std::to_string(i % 17) + ",1]";
    REQUIRE_THAT(text(many + "]"), ContainsSubstring("at most 64 cells"));
}

TEST_CASE("start cells that differ are named, the first of many") {
    const TrainingConfig plain = unusual_config();
    TrainingConfig two = plain;
    two.start_cells = {{16, 0}, {2, 13}};
    REQUIRE(first_difference(two, two) == "");
    REQUIRE(first_difference(two, plain) == "start_cells is 0,16 and 13,2, expected the middle");
    REQUIRE(first_difference(plain, two) == "start_cells is the middle, expected 0,16 and 13,2");
    TrainingConfig many = plain;
    for (int i = 0; i < 64; ++i) many.start_cells.push_back({1 + i / 10, i % 10});
    REQUIRE(first_difference(many, two) ==
            "start_cells is 0,1, 1,1, 2,1, 3,1 and 60 more, expected 0,16 and 13,2");
    TrainingConfig others = many;
    others.start_cells.back() = {16, 16};
    REQUIRE(first_difference(many, others) == "start_cells are others than expected");
}

TEST_CASE("targets that differ in one bit have another hash") {
    std::vector<float> target(64, 0.5F);
    const std::uint64_t hash = hash_target(target);
    REQUIRE(hash_target(target) == hash);
    for (float& value : target) {
        value = std::nextafter(0.5F, 1.0F);
        REQUIRE(hash_target(target) != hash);
        value = 0.5F;
    }
    REQUIRE(hash_target({}) == 0xcbf29ce484222325);  // FNV-1a's offset basis
    REQUIRE(hash_target(std::vector<float>(63, 0.5F)) != hash);
}

TEST_CASE("a trainer refuses checkpoints of another configuration or target and is as before") {
    const TemporaryDirectory folder;
    const auto path = folder / "a.checkpoint";
    const TrainingConfig config = test::small_config("growing");
    Trainer saved(test::small_picture(), config, Device::cpu(1));
    saved.set_target_name("leaf.png");
    saved.iterate();
    saved.save_checkpoint(path);

    const auto requires_refusal = [&](const Image& image, const TrainingConfig& other,
                                      const std::string& expected) {
        Trainer trainer(image, other, Device::cpu(1));
        trainer.iterate();
        trainer.iterate();
        const auto before = test::checkpoint_bytes(trainer);
        const std::string message = message_of<FormatError>([&] { trainer.resume(path); });
        REQUIRE_THAT(message, ContainsSubstring(path.string()) && ContainsSubstring(expected) &&
                                  ContainsSubstring(" give the "));
        REQUIRE(test::checkpoint_bytes(trainer) == before);
    };
    TrainingConfig other = config;
    other.batch = 1;
    requires_refusal(test::small_picture(), other, "batch is 2, expected 1");
    other = config;
    other.seed = 5;
    requires_refusal(test::small_picture(), other, "seed is 0, expected 5");
    other = config;
    other.rule.fire_rate = 0.25F;
    requires_refusal(test::small_picture(), other, "its rule's fire_rate is 0.5, expected 0.25");
    other = config;
    other.start_cells = {{4, 5}};
    requires_refusal(test::small_picture(), other, "its start_cells is the middle, expected 5,4");
    requires_refusal(test::small_picture(), test::small_config("notebook"),
                     "preset is \"growing\", expected \"notebook\"");
    requires_refusal(test::small_picture(8, 7), config, "another target (\"leaf.png\")");
    Image changed = test::small_picture();
    changed.pixel(4, 4)[1] ^= 64;
    requires_refusal(changed, config, "another target (\"leaf.png\")");
}

TEST_CASE("a checkpoint of version 0.2.0 goes on with the target that was enlarged smoothly") {
    const TemporaryDirectory folder;
    TrainingConfig config = test::small_config("persistent");
    config.target_size = 16;
    const Image image = test::small_picture();
    // A target of this picture is the one that version 0.2.0 made of the image.
    Trainer old(resize(image, 16, 16), config, Device::cpu(1));
    for (int i = 0; i < 3; ++i) old.iterate();
    old.save_checkpoint(folder / "a.checkpoint");

    Trainer trainer(image, config, Device::cpu(1));
    REQUIRE(trainer.target() != old.target());
    trainer.resume(folder / "a.checkpoint");
    REQUIRE(trainer.target() == old.target());
    REQUIRE(trainer.blank_loss() == old.blank_loss());
    for (int i = 0; i < 2; ++i) {
        old.iterate();
        trainer.iterate();
    }
    REQUIRE(test::checkpoint_bytes(trainer) == test::checkpoint_bytes(old));

    // And back to one of its own.
    Trainer now(image, config, Device::cpu(1));
    now.iterate();
    now.save_checkpoint(folder / "b.checkpoint");
    trainer.resume(folder / "b.checkpoint");
    REQUIRE(test::checkpoint_bytes(trainer) == test::checkpoint_bytes(now));
}

TEST_CASE("a model is refused as a checkpoint, in words that tell the two apart") {
    const TemporaryDirectory folder;
    Trainer trainer(test::small_picture(), test::small_config("growing"), Device::cpu(1));
    trainer.model().save(folder / "model.safetensors");
    REQUIRE_THAT(message_of<FormatError>([&] { trainer.resume(folder / "model.safetensors"); }),
                 ContainsSubstring("model.safetensors") &&
                     ContainsSubstring("a model and not a checkpoint"));
    REQUIRE_THROWS_AS(trainer.resume(folder / "nothing"), IoError);
    test::write_text(folder / "text", "once upon a time there was a lizard");
    REQUIRE_THROWS_AS(trainer.resume(folder / "text"), FormatError);
    test::write_text(folder / "empty", "");
    REQUIRE_THROWS_AS(trainer.resume(folder / "empty"), FormatError);
}

TEST_CASE("a truncated checkpoint is refused wherever it ends") {
    const TemporaryDirectory folder;
    save_checkpoint(folder / "whole", unusual_checkpoint(), {});
    const auto bytes = test::read_bytes(folder / "whole");
    std::vector<std::size_t> lengths = {0, 1, 7, 8, 9, bytes.size() - 1, bytes.size() - 4};
    for (std::size_t length = 100; length < bytes.size(); length += bytes.size() / 40) {
        lengths.push_back(length);
    }
    for (const std::size_t length : lengths) {
        INFO(length << " of " << bytes.size() << " bytes");
        test::write_bytes(folder / "cut", std::span(bytes).first(length));
        REQUIRE_THROWS_AS(load_checkpoint(folder / "cut"), FormatError);
    }
}

TEST_CASE("a checkpoint with a missing, misshapen or broken tensor is refused by its name") {
    Checkpoint checkpoint = unusual_checkpoint();
    checkpoint.config.output_bias = true;
    checkpoint.current = numbered(true, 0);
    checkpoint.anchor = numbered(true, 0);
    checkpoint.good = numbered(true, 0).weights;
    checkpoint.init = numbered(true, 0).weights;
    const SafetensorsFile whole = contents_of(checkpoint);
    REQUIRE(whole.tensors.size() == 37);
    REQUIRE(refused(whole) == "");
    for (const NamedTensor& each : whole.tensors) {
        INFO(each.name);
        SafetensorsFile file = whole;
        std::erase_if(file.tensors, [&](const auto& t) { return t.name == each.name; });
        // Without its output bias a file is that of an automaton that has none.
        const bool optional = each.name == "net.2.bias";
        if (each.name == "target") {
            REQUIRE(refused(file) == "");
        } else {
            REQUIRE_THAT(refused(file),
                         ContainsSubstring(optional ? "output_bias is true" : each.name));
        }

        file = whole;
        const auto rows = std::size_t(each.shape.front());
        tensor(file, each.name).shape.front() -= 1;
        tensor(file, each.name).values.resize(each.values.size() / rows * (rows - 1));
        REQUIRE_THAT(refused(file), ContainsSubstring(each.name) && ContainsSubstring("shape"));

        file = whole;
        tensor(file, each.name).shape.push_back(1);
        REQUIRE_THAT(refused(file), ContainsSubstring(each.name) && ContainsSubstring("shape"));

        // What a state holds is not judged: training that meets it recovers.
        if (each.name == "pool.values") continue;
        file = whole;
        tensor(file, each.name).values.back() = std::numeric_limits<float>::quiet_NaN();
        REQUIRE_THAT(refused(file), ContainsSubstring(each.name) && ContainsSubstring("nan"));
        tensor(file, each.name).values.back() = std::numeric_limits<float>::infinity();
        REQUIRE_THAT(refused(file), ContainsSubstring(each.name) && ContainsSubstring("inf"));
    }
}

TEST_CASE("a checkpoint whose pool does not add up is refused by its tensor") {
    const SafetensorsFile whole = contents_of(unusual_checkpoint());
    const auto requires_refusal = [&](const std::string& name, std::size_t at, float value,
                                      const std::string& expected) {
        INFO(name << "[" << at << "] = " << value);
        SafetensorsFile file = whole;
        tensor(file, name).values[at] = value;
        REQUIRE_THAT(refused(file), ContainsSubstring(expected));
    };
    for (const float bad : {-1.0F, 0.5F, 1e9F, 3e38F, 289.0F}) {
        requires_refusal("pool.cells", 3, bad, "pool.cells holds");
    }
    requires_refusal("pool.cells", 3, 17, "ascend");  // as the one before it
    for (const float bad : {-1.0F, 17.5F, 290.0F, 1e9F, 3e38F}) {
        requires_refusal("pool.counts", 1, bad, "pool.counts holds");
    }
    requires_refusal("pool.counts", 4, 2, "pool.counts adds up to");
    for (const int pool : {4, 6, 65536, 2147483647}) {
        REQUIRE_THAT(refused(with_field(training_key, "pool", pool)),
                     ContainsSubstring("pool") && ContainsSubstring("the file is damaged"));
    }
    // A grid whose cells no int counts.
    REQUIRE_THAT(refused(with_field(training_key, "target_size", 2147483647)),
                 ContainsSubstring("size is"));
    REQUIRE_THAT(refused(with_field(training_key, "padding", 2147483647)),
                 ContainsSubstring("padding is"));
}

TEST_CASE("a checkpoint that has lost its pool says what is missing") {
    SafetensorsFile file = contents_of(unusual_checkpoint());
    std::erase_if(file.tensors, [](const auto& t) { return t.name.starts_with("pool."); });
    REQUIRE_THAT(refused(file), ContainsSubstring("no tensor pool.loss") &&
                                    ContainsSubstring("a pool of 5 states"));
}

TEST_CASE("an output bias that the configuration does not have is refused") {
    SafetensorsFile file = contents_of(unusual_checkpoint());
    file.tensors.push_back({"net.2.bias", {channels}, std::vector<float>(channels)});
    for (const std::string prefix :
         {"adam.m.", "adam.v.", "recovery.", "recovery.adam.m.", "recovery.adam.v.", "good."}) {
        file.tensors.push_back({prefix + "net.2.bias", {channels}, std::vector<float>(channels)});
    }
    REQUIRE_THAT(refused(file), ContainsSubstring("output_bias is false") &&
                                    ContainsSubstring("net.2.bias is there"));
}

TEST_CASE("a checkpoint of an earlier version has no good weights: the current ones are") {
    SafetensorsFile file = contents_of(unusual_checkpoint());
    REQUIRE(std::erase_if(file.tensors,
                          [](const auto& t) { return t.name.starts_with("good."); }) == 3);
    const auto bytes = encode_safetensors(file);
    const Checkpoint got = take_checkpoint(SafetensorsReader(bytes, "old"));
    REQUIRE(got.good == unusual_checkpoint().current.weights);
    require_same(got.anchor, unusual_checkpoint().anchor);
}

TEST_CASE("a pool that is far larger than the configuration allows is not read") {
    constexpr std::uint64_t cells = 40'000'000;  // 2.7 GB with their values
    const TemporaryDirectory folder;
    const auto path = folder / "large.checkpoint";
    const std::pair<float, std::string> cases[] = {
        {17, "pool.counts adds up to 85, expected 40000000"},
        {8e6F, "pool.counts holds 8000000 at 0, expected whole numbers up to 289"}};
    for (const auto& [count, expected] : cases) {
        SafetensorsFile file = contents_of(unusual_checkpoint());
        std::erase_if(file.tensors, [](const auto& t) {
            return t.name == "pool.cells" || t.name == "pool.values";
        });
        tensor(file, "pool.counts").values.assign(5, count);
        // The cells and their values are a hole at the file's end, which needs no disk.
        const auto bytes = encode_safetensors(file);
        std::uint64_t size = 0;
        std::memcpy(&size, bytes.data(), 8);
        const auto data = std::span(bytes).subspan(8 + size);
        const auto entry = [](std::vector<std::uint64_t> shape, std::uint64_t begin,
                              std::uint64_t end) {
            return nlohmann::json{
                {"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, end}}};
        };
        auto header = nlohmann::json::parse(bytes.begin() + 8, bytes.end() - data.size());
        header["pool.cells"] = entry({cells}, data.size(), data.size() + cells * 4);
        header["pool.values"] =
            entry({cells, channels}, data.size() + cells * 4, data.size() + cells * 68);
        const std::string text = header.dump();
        size = text.size();
        std::vector<std::uint8_t> large(8);
        std::memcpy(large.data(), &size, 8);
        large.insert(large.end(), text.begin(), text.end());
        large.insert(large.end(), data.begin(), data.end());
        test::write_bytes(path, large);
        std::filesystem::resize_file(path, large.size() + cells * 68);

        std::string message;
        test::require_cheap(
            50e6, [&] { message = message_of<FormatError>([&] { load_checkpoint(path); }); });
        REQUIRE_THAT(message, ContainsSubstring(expected));
        REQUIRE(message.size() < 400);
        // As a model it is good, and its pool is not read.
        test::require_cheap(50e6, [&] { Model::load(path); });
        REQUIRE(iterations_in_file(path) == 123456789);
    }
}

TEST_CASE("a checkpoint's file says how many iterations its run has done") {
    const TemporaryDirectory folder;
    const auto path = folder / "a.checkpoint";
    SafetensorsFile file = contents_of(unusual_checkpoint());
    const auto iterations = [&] {
        write_safetensors(path, file);
        return iterations_in_file(path);
    };
    REQUIRE(iterations() == 123456789);
    file.metadata[progress_key] = R"({"iteration":5})";
    file.metadata["nca.history"] = R"({"iterations":6})";
    REQUIRE(iterations() == 5);
    for (const char* text : {"", "[]", "{}", R"({"iteration":"5"})", R"({"iteration":-5})"}) {
        file.metadata[progress_key] = text;
        REQUIRE(iterations() == 0);
    }
}

TEST_CASE("second moments below zero are refused") {
    Checkpoint checkpoint = unusual_checkpoint();
    checkpoint.current.second_moments.back() = -1;
    REQUIRE_THAT(refused(contents_of(checkpoint)),
                 ContainsSubstring("adam.v") && ContainsSubstring("-1"));
    checkpoint = unusual_checkpoint();
    checkpoint.anchor.second_moments.back() = -1;
    REQUIRE_THAT(refused(contents_of(checkpoint)),
                 ContainsSubstring("recovery.adam.v") && ContainsSubstring("-1"));
}

TEST_CASE("a checkpoint's bad field is refused by name") {
    const std::pair<const char*, std::vector<nlohmann::json>> progress[] = {
        {"target", {1, nullptr}},
        {"target_hash", {"", "xyz", "0123456789abcdeF", "0123456789abcdef0", 12}},
        {"iteration", {-1, 1.5, "3", 1e300, 9223372036854775807, 18446744073709551615U}},
        {"updates", {-1, 0.5, 9223372036854775807}},
        {"recoveries", {-1, 1001, 2147483648}},
        {"failures", {-1, 1001}},
        {"good_iterations", {-1, 2147483647, 2147483648}},
        {"learnt", {1, "true"}},
        {"recovery_updates", {-1, 9223372036854775807}},
        {"wanted_iterations", {0, -1, 1.5, "3", 2147483648}},
        {"recent_losses",
         {"0.5", 0.5, {"0.5"}, {nullptr}, {{0.5}}, std::vector<double>(100000, 0.5)}},
    };
    for (const auto& [field, values] : progress) {
        for (const nlohmann::json& value : values) {
            INFO(field << ": " << value.dump().substr(0, 60));
            const std::string message = refused(with_field(progress_key, field, value));
            REQUIRE_THAT(message, ContainsSubstring(progress_key) && ContainsSubstring(field));
            REQUIRE(message.size() < 400);
        }
    }
    const std::pair<const char*, std::vector<nlohmann::json>> training[] = {
        {"preset", {1}},
        {"output_bias", {1, "false"}},
        {"initialisation", {"zero", 0}},
        {"schedule", {"", 1}},
        {"normalise_gradients", {nullptr}},
        {"learning_rate", {"0.1", 1e300}},
        {"beta1", {nullptr}},
        {"beta2", {-1e300}},
        {"batch", {0, -1, 2.5, 2147483648}},
        {"fewest_steps", {0, -64}},
        {"most_steps", {0, 4294967296}},
        {"warmup", {-1, 0.5}},
        {"pool", {-1, "many"}},
        {"damaged", {-1, 2147483648}},
        {"damage_centre", {nullptr}},
        {"smallest_damage", {"0.1"}},
        {"largest_damage", {1e300}},
        {"target_size", {0, -1}},
        {"padding", {-1}},
        {"seed", {-1, 4294967296}},
    };
    for (const auto& [field, values] : training) {
        for (const nlohmann::json& value : values) {
            INFO(field << ": " << value.dump());
            REQUIRE_THAT(refused(with_field(training_key, field, value)),
                         ContainsSubstring(training_key) && ContainsSubstring(field));
        }
    }
}

TEST_CASE("missing, unknown and doubled fields and metadata of a checkpoint are refused") {
    const SafetensorsFile whole = contents_of(unusual_checkpoint());
    for (const std::string& key : {training_key, std::string(progress_key)}) {
        SafetensorsFile file = whole;
        file.metadata.erase(key);
        REQUIRE_THAT(refused(file), ContainsSubstring(key));
        for (const std::string text : {"", "[]", "{", "null", "7", "{\"a\":{\"a\":{\"a\":{}}}}"}) {
            file.metadata[key] = text;
            REQUIRE_THAT(refused(file), ContainsSubstring(key));
        }
        const auto json = nlohmann::json::parse(whole.metadata.at(key));
        for (const auto& field : json.items()) {
            auto without = json;
            without.erase(field.key());
            file.metadata[key] = without.dump();
            if (field.key().ends_with("_loss_step")) continue;  // see below
            if (field.key() == "wanted_iterations") {           // version 0.2.0 wrote none
                REQUIRE(refused(file) == "");
                continue;
            }
            REQUIRE_THAT(refused(file), ContainsSubstring(key) && ContainsSubstring(field.key()) &&
                                            ContainsSubstring("missing"));
        }
        auto more = json;
        more["colour"] = 3;
        file.metadata[key] = more.dump();
        REQUIRE_THAT(refused(file), ContainsSubstring(key) && ContainsSubstring("colour"));
        const std::string text = json.dump();
        file.metadata[key] = "{\"" + json.begin().key() + "\":1," + text.substr(1);
        REQUIRE_THAT(refused(file), ContainsSubstring(key) && ContainsSubstring("twice"));
    }
}

TEST_CASE("fields that version 0.2.0 lacks are in a checkpoint where they are not their default") {
    Checkpoint checkpoint = unusual_checkpoint();
    REQUIRE_THAT(contents_of(checkpoint).metadata.at(training_key),
                 ContainsSubstring("\"earliest_loss_step\":4,\"latest_loss_step\":77"));
    checkpoint.config.earliest_loss_step = checkpoint.config.latest_loss_step = 0;
    const SafetensorsFile file = contents_of(checkpoint);
    REQUIRE(file.metadata.at(training_key).find("loss_step") == std::string::npos);
    const TemporaryDirectory folder;
    write_safetensors(folder / "old.checkpoint", file);
    REQUIRE(load_checkpoint(folder / "old.checkpoint").config == checkpoint.config);
}

TEST_CASE("the largest counts of a checkpoint can still be counted on from") {
    const TrainingConfig config = test::small_config("growing");
    Trainer trainer(test::small_picture(), config, Device::cpu(1));
    Checkpoint checkpoint = test::inside(trainer);
    checkpoint.progress.iteration = checkpoint.progress.good_iterations = 1'000'000'000;
    checkpoint.current.updates = checkpoint.anchor.updates = 1'000'000'000;
    checkpoint.progress.recoveries = checkpoint.progress.failures = 1000;
    test::resume_from(trainer, checkpoint);
    const IterationReport report = trainer.iterate();
    REQUIRE(report.iteration == 1'000'000'000);
    REQUIRE(trainer.iteration() == 1'000'000'001);
}

TEST_CASE("a checkpoint that cannot be written leaves the old one as it was") {
    const TemporaryDirectory folder;
    const auto path = folder / "a.checkpoint";
    save_checkpoint(path, unusual_checkpoint(), {});
    const auto before = test::read_bytes(path);
    Checkpoint broken = unusual_checkpoint();
    broken.current.weights.all()[5] = std::numeric_limits<float>::quiet_NaN();
    REQUIRE_THROWS_AS(save_checkpoint(path, broken, {}), InvalidArgument);
    // Parameters that were moved from.
    const auto requires_refusal = [&](auto change, const std::string& expected) {
        Checkpoint moved = unusual_checkpoint();
        change(moved);
        REQUIRE_THAT(message_of<InvalidArgument>([&] { save_checkpoint(path, moved, {}); }),
                     ContainsSubstring(expected));
    };
    const std::string weights = "the model has 0 weights, expected 8320: was it moved from?";
    requires_refusal([](Checkpoint& c) { const Weights w = std::move(c.current.weights); },
                     weights);
    requires_refusal([](Checkpoint& c) { const Weights w = std::move(c.anchor.weights); }, weights);
    requires_refusal([](Checkpoint& c) { const Weights w = std::move(c.good); }, weights);
    requires_refusal([](Checkpoint& c) { c.current.first_moments.clear(); },
                     "0 values for the tensors adam.m.net.*, expected 8320");
    requires_refusal([](Checkpoint& c) { c.anchor.second_moments.push_back(0); },
                     "8321 values for the tensors recovery.adam.v.net.*, expected 8320");
    REQUIRE(test::read_bytes(path) == before);
    REQUIRE(folder.names() == std::vector<std::string>{"a.checkpoint"});
    REQUIRE_THROWS_AS(save_checkpoint(folder / "no/such", unusual_checkpoint(), {}), IoError);
}
