// SPDX-License-Identifier: MIT
// Weights of other programs: what their tensors are taken for.
#include "host/import/found_weights.hpp"

#include <nca/error.hpp>

#include "tests/support/cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/foreign_files.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

using namespace nca;
using namespace nca::test;
using Catch::Matchers::ContainsSubstring;

namespace {

Model example(bool output_bias = true) {
    Model model;
    model.weights = Weights(output_bias);
    Uniform uniform(3);
    for (float& weight : model.weights.all()) weight = uniform(-1, 1);
    return model;
}

std::vector<ForeignTensor> foreign(const std::vector<TestTensor>& tensors) {
    std::vector<ForeignTensor> result;
    for (const TestTensor& tensor : tensors) {
        result.push_back({.name = tensor.name,
                          .shape = tensor.shape,
                          .read = [values = tensor.values] { return values; }});
    }
    return result;
}

FoundWeights found(const std::vector<TestTensor>& tensors) {
    return find_weights(foreign(tensors), "m", OtherTensors::refused);
}

std::string refused(const std::vector<TestTensor>& tensors) {
    return message_of<FormatError>([&] { found(tensors); });
}

TestTensor zeros(const std::string& name, const Shape& shape) {
    std::size_t size = 1;
    for (const std::int64_t side : shape) size *= std::size_t(side);
    return {name, shape, std::vector<float>(size)};
}

// [n, 1, 3, 3]
TestTensor filters_tensor(const std::string& name, const std::vector<Filter>& filters) {
    TestTensor tensor{name, {std::int64_t(filters.size()), 1, 3, 3}, {}};
    for (const Filter& filter : filters) {
        tensor.values.insert(tensor.values.end(), filter.begin(), filter.end());
    }
    return tensor;
}

std::vector<TestTensor> operator+(std::vector<TestTensor> tensors, const TestTensor& more) {
    tensors.push_back(more);
    return tensors;
}

}  // namespace

TEST_CASE("two layers are recognised under any name") {
    const Model model = example();
    const std::pair<const char*, const char*> names[] = {{"fc0", "fc1"},
                                                         {"layers.0", "layers.2"},
                                                         {"update_network.0", "update_network.2"},
                                                         {"module.net.0", "module.net.2"},
                                                         {"_orig_mod.brain.0", "_orig_mod.brain.2"},
                                                         {"dense", "dense_1"},
                                                         {"conv1", "conv2"},
                                                         {"b", "a"}};
    for (const auto& [first, second] : names) {
        CAPTURE(first);
        const FoundWeights weights = found(layers_of(model, first, second));
        REQUIRE(weights.weights == model.weights);
        REQUIRE_FALSE(weights.filters);
        REQUIRE_FALSE(weights.input_order);
        REQUIRE(weights.notes.empty());
    }
    std::vector<TestTensor> layers = layers_of(model, "x", "y");
    layers[0].name = "w1";
    layers[1].name = "b1";
    layers[2].name = "w2";
    layers[3].name = "b2";
    std::ranges::reverse(layers);
    REQUIRE(found(layers).weights == model.weights);
}

TEST_CASE("layers may be transposed and have sides of 1, and biases may be missing") {
    const Model model = example();
    const std::vector<TestTensor> layers = layers_of(model, "fc0", "fc1");
    std::vector<TestTensor> convolutions = layers;
    convolutions[0].shape = {128, 48, 1, 1};
    convolutions[1].shape = {1, 128, 1, 1};
    convolutions[2].shape = {16, 128, 1, 1};
    REQUIRE(found(convolutions).weights == model.weights);

    std::vector<TestTensor> kernels = layers;
    kernels[0] = transposed(layers[0]);
    kernels[0].shape = {1, 1, 48, 128};
    kernels[2] = transposed(layers[2]);
    REQUIRE(found(kernels).weights == model.weights);

    const FoundWeights without = found({layers[0], layers[2]});
    REQUIRE_FALSE(without.weights.has_output_bias());
    const ConstWeightsView view = without.weights.view();
    for (std::size_t i = 0; i < b1_size; ++i) REQUIRE(view.b1[i] == 0);
    REQUIRE(std::equal(view.w2, view.w2 + w2_size, model.weights.view().w2));
}

TEST_CASE("fixed filters that come along are the rule's, and tell the order of inputs") {
    const std::vector<TestTensor> layers = layers_of(example(), "fc0", "fc1");
    const auto filters = notebook_rule().rotated(30).filters;
    std::vector<Filter> by_channel, by_filter;
    for (int i = 0; i < perception; ++i) {
        by_channel.push_back(filters[std::size_t(i % filter_count)]);
        by_filter.push_back(filters[std::size_t(i / channels)]);
    }
    const FoundWeights channel = found(layers + filters_tensor("perceive.weight", by_channel));
    REQUIRE(channel.filters == filters);
    REQUIRE(channel.input_order == InputOrder::channel);
    const FoundWeights filter =
        found(layers + filters_tensor("perceive.weight", by_filter) + zeros("perceive.bias", {48}));
    REQUIRE(filter.filters == filters);
    REQUIRE_FALSE(filter.input_order);  // a convolution of 16 groups would be something else

    const FoundWeights three =
        found(layers + filters_tensor("kernel", {filters.begin(), filters.end()}));
    REQUIRE(three.filters == filters);
    REQUIRE_FALSE(three.input_order);

    std::vector<Filter> learnt = by_channel;
    learnt[7][3] += 1;
    REQUIRE_THAT(
        refused(layers + filters_tensor("perceive.weight", learnt)),
        ContainsSubstring("\"perceive.weight\" [48, 1, 3, 3]: these are not three filters"));
    TestTensor bias = zeros("perceive.bias", {48});
    bias.values[40] = 1;
    REQUIRE_THAT(refused(layers + bias), ContainsSubstring("\"perceive.bias\" [48]"));
}

TEST_CASE("single filters are recognised by their values") {
    const std::vector<TestTensor> layers = layers_of(example(), "fc0", "fc1");
    const Rule rule;
    const auto single = [](const std::string& name, const Filter& filter) {
        return TestTensor{name, {3, 3}, {filter.begin(), filter.end()}};
    };
    const FoundWeights pair =
        found(layers + single("dy", rule.filters[2]) + single("dx", rule.filters[1]));
    REQUIRE(pair.filters == rule.filters);
    REQUIRE(pair.notes ==
            std::vector<std::string>{"the filters are those of \"dy\" [3, 3], \"dx\" [3, 3]"});
    const FoundWeights repeated =
        found(layers + filters_tensor("sobel_y", std::vector(16, rule.filters[2])) +
              filters_tensor("sobel_x", std::vector(16, rule.filters[1])) +
              filters_tensor("identity", std::vector(16, rule.filters[0])));
    REQUIRE(repeated.filters == rule.filters);
    REQUIRE_THAT(refused(layers + single("dx", rule.filters[1])), ContainsSubstring("\"dx\""));
    Filter laplacian = {1, 2, 1, 2, -12, 2, 1, 2, 1};
    REQUIRE_THAT(refused(layers + single("dx", rule.filters[1]) + single("dy", rule.filters[2]) +
                         single("lap", laplacian)),
                 ContainsSubstring("\"lap\" [3, 3]"));
}

TEST_CASE("what cannot be told apart, or is no automaton of this size, is listed") {
    const Model model = example();
    const std::vector<TestTensor> layers = layers_of(model, "fc0", "fc1");
    REQUIRE_THAT(refused(layers + zeros("ema.fc0.weight", {128, 48})),
                 ContainsSubstring("\"fc0.weight\" [128, 48], \"ema.fc0.weight\" [128, 48] cannot "
                                   "be told apart"));
    REQUIRE_THAT(refused(layers + zeros("norm.weight", {128})),
                 ContainsSubstring("unknown") && ContainsSubstring("\"norm.weight\" [128]"));
    // A vector that is no bias by its name, where there is none.
    REQUIRE_THAT(refused({layers[0], layers[2], zeros("norm.weight", {128})}),
                 ContainsSubstring("\"norm.weight\" [128]"));
    REQUIRE_THAT(refused({layers[0], layers[2], zeros("seed", {1, 16, 1, 1})}),
                 ContainsSubstring("\"seed\" [1, 16, 1, 1]"));
    REQUIRE_THAT(refused(layers + zeros("a.bias", {48}) + zeros("b.bias", {48})),
                 ContainsSubstring("cannot be told apart"));
    // A normalisation without a bias, beside layers without one
    for (const std::int64_t size : {hidden, channels, perception}) {
        REQUIRE_THAT(refused({layers[0], layers[2], zeros("norm.weight", {size})}),
                     ContainsSubstring("unknown beside the two layers of an automaton: "
                                       "\"norm.weight\" ["));
    }
    REQUIRE_THAT(refused(layers + zeros("embedding", {10, 32})),
                 ContainsSubstring("\"embedding\" [10, 32]"));
    REQUIRE_THAT(refused({}), ContainsSubstring("its tensors are: none"));
    REQUIRE_THAT(refused({layers[0]}), ContainsSubstring("\"fc0.weight\" [128, 48]"));
    REQUIRE_THAT(refused({zeros("state.0.exp_avg", {128, 48})}),
                 ContainsSubstring("its tensors are: none but those of an optimiser"));
    std::vector<ForeignTensor> integers = foreign(layers);
    for (ForeignTensor& tensor : integers) tensor.type = NumberType::other;
    REQUIRE_THAT(
        message_of<FormatError>([&] { find_weights(integers, "m", OtherTensors::refused); }),
        ContainsSubstring("\"fc0.weight\" [128, 48] of integers or 8-bit numbers"));
    REQUIRE_THAT(refused({zeros("a", {64, 36}), zeros("b", {12, 64})}),
                 ContainsSubstring("an automaton of 12 channels, 3 filters and 64 hidden units"));
    REQUIRE_THAT(refused({zeros("a", {1, 1, 64, 128}), zeros("b", {1, 1, 128, 16})}),
                 ContainsSubstring("of 16 channels, 4 filters and 128 hidden units"));
    REQUIRE_THAT(refused({zeros("a", {10, 20}), zeros("b", {30, 40})}),
                 !ContainsSubstring("hidden units"));
    // Many matrices cost no time, and many filters no reading.
    std::vector<TestTensor> matrices, kernels = layers;
    for (int i = 0; i < 20'000; ++i) matrices.push_back({std::to_string(i), {5, 7}, {}});
    for (int i = 0; i < 100; ++i) kernels.push_back({"k" + std::to_string(i), {3, 3}, {}});
    REQUIRE_THAT(refused(matrices), ContainsSubstring("lacks the two layers"));
    REQUIRE_THAT(refused(kernels), ContainsSubstring("not three filters"));
    std::vector<TestTensor> many;
    for (int i = 0; i < 500; ++i) many.push_back(zeros(std::string(90, char('a' + i % 26)), {7}));
    const std::string message = refused(many);
    REQUIRE(message.size() < 400);
    REQUIRE_THAT(message, ContainsSubstring("more"));
}

TEST_CASE("what training keeps, integers and single values are left out with a note") {
    const Model model = example();
    std::vector<ForeignTensor> tensors =
        foreign(layers_of(model, "net.0", "net.2") + zeros("adam.m.net.0.weight", {128, 48}) +
                zeros("optimizer.state.0.exp_avg", {128, 48}) + zeros("fire_rate", {}));
    tensors.push_back({"batches", {16}, NumberType::other, [] { return std::vector<float>(); }});
    tensors[0].type = NumberType::bfloat16;
    const FoundWeights weights = find_weights(tensors, "m", OtherTensors::refused);
    REQUIRE(weights.weights == model.weights);
    REQUIRE(weights.notes.size() == 3);
    REQUIRE_THAT(weights.notes[0], ContainsSubstring("bfloat16"));
    REQUIRE_THAT(weights.notes[1], ContainsSubstring("exp_avg"));
    REQUIRE_THAT(weights.notes[2], ContainsSubstring("\"fire_rate\" [], \"batches\" [16]"));
}

TEST_CASE("weights that are not finite are refused by name and place") {
    std::vector<TestTensor> layers = layers_of(example(), "fc0", "fc1");
    layers[2].values[5] = std::numeric_limits<float>::infinity();
    REQUIRE_THAT(refused(layers),
                 ContainsSubstring("tensor \"fc1.weight\" has the value inf at index 5"));
}

TEST_CASE("numbers of every type become the float that they mean") {
    const auto converted = [](NumberType type, const auto& stored) {
        std::vector<std::uint8_t> bytes(sizeof stored);
        std::memcpy(bytes.data(), &stored, sizeof stored);
        float value = 0;
        convert_to_floats({&value, 1}, bytes, type);
        return value;
    };
    // All finite float16, against their definition.
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
        const int exponent = int(bits >> 10 & 31);
        const double fraction = double(bits & 1023) / 1024;
        double expected =
            exponent == 0 ? std::exp2(-14) * fraction : std::exp2(exponent - 15) * (1 + fraction);
        if (bits >= 0x8000) expected = -expected;
        const float value = converted(NumberType::float16, std::uint16_t(bits));
        CAPTURE(bits);
        if (exponent == 31) {
            REQUIRE_FALSE(std::isfinite(value));
        } else {
            REQUIRE(value == expected);
        }
    }
    REQUIRE(converted(NumberType::bfloat16, std::uint16_t{0x3fc0}) == 1.5F);
    REQUIRE(converted(NumberType::bfloat16, std::uint16_t{0xc2f7}) == -123.5F);
    REQUIRE(converted(NumberType::float64, 0.1) == 0.1F);
    REQUIRE(converted(NumberType::float32, -7.25F) == -7.25F);
}
