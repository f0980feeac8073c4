// SPDX-License-Identifier: MIT
// What engines promise to the bit, and what they refuse.
#include <nca/engine.hpp>
#include <nca/error.hpp>
#include <nca/model.hpp>

#include "tests/support/cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/compare.hpp"
#include "tests/support/engine_runs.hpp"
#include "tests/support/engines.hpp"

#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

// Address sanitizer ends the program at an allocation that malloc would refuse, unless told not to.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }

using namespace nca;
using test::Case;
using test::CaseOptions;
using test::Start;

namespace {

// Enough rows for seven threads, and a pattern that does not divide evenly among them.
Case uneven_case() {
    return test::random_case(
        {.height = 37, .width = 29, .batch = 3, .steps = 9, .empty_alpha = 0.2F}, 1);
}

Case one_sample(const Case& all, int sample) {
    Case one = all;
    one.batch = 1;
    const auto part = [&](const std::vector<float>& values) {
        const std::size_t size = values.size() / all.batch;
        return std::vector<float>(values.begin() + sample * size,
                                  values.begin() + (sample + 1) * size);
    };
    one.state = part(all.state);
    one.grad_last = part(all.grad_last);
    one.options.key.first_sample += sample;
    return one;
}

}  // namespace

TEST_CASE("one, two and seven threads give the same bits") {
    for (const CaseOptions& options :
         {CaseOptions{.height = 37, .width = 29, .batch = 3, .steps = 9, .empty_alpha = 0.2F},
          CaseOptions{.height = 64,
          .width = 11,
          .batch = 1,
          .steps = 6,
          .edges = Edges::zero,
          .life = Life::pre_and_post,
          .start = Start::random},
          CaseOptions{.height = 20, .width = 20, .batch = 8, .steps = 12, .start = Start::seed}}) {
        const Case example = test::random_case(options, 1);
        const auto one = test::run_rollout(*make_engine(Device::cpu(1)), example);
        REQUIRE(test::largest_magnitude(one.gradients.weights) > 0);
        REQUIRE((test::run_rollout(*make_engine(Device::cpu(2)), example) == one));
        REQUIRE((test::run_rollout(*make_engine(Device::cpu(7)), example) == one));
    }
}

TEST_CASE("two runs give the same bits") {
    const Case example = uneven_case();
    for (const auto& engine : test::make_engines_to_test()) {
        INFO(engine->description());
        const auto first = test::run_rollout(*engine, example);
        REQUIRE((test::run_rollout(*engine, example) == first));
        REQUIRE(test::run_advance(*engine, example) == test::run_advance(*engine, example));
    }
}

TEST_CASE("a batch of three gives the states and state gradients of three batches of one") {
    const Case example = uneven_case();
    for (const auto& engine : test::make_engines_to_test()) {
        INFO(engine->description());
        const auto all = test::run_rollout(*engine, example);
        for (int sample = 0; sample < 3; ++sample) {
            const Case one = one_sample(example, sample);
            const auto single = test::run_rollout(*engine, one);
            const std::size_t size = one.state.size();
            const auto part = [&](const std::vector<float>& values) {
                return std::vector<float>(values.begin() + sample * size,
                                          values.begin() + (sample + 1) * size);
            };
            REQUIRE(part(all.states.back()) == single.states.back());
            REQUIRE(part(all.gradients.first) == single.gradients.first);
        }
    }
}

TEST_CASE("steps split in two by first_step are the same steps") {
    const Case example = uneven_case();
    for (const auto& engine : test::make_engines_to_test()) {
        INFO(engine->description());
        const auto whole = test::run_rollout(*engine, example);
        Case head = example, tail = example;
        head.options.steps = 4;
        tail.options.steps = 5;
        tail.options.key.first_step += 4;
        tail.state = test::run_rollout(*engine, head).states.back();
        const auto second = test::run_rollout(*engine, tail);
        REQUIRE(second.states.back() == whole.states.back());
        head.grad_last = second.gradients.first;
        REQUIRE(test::run_rollout(*engine, head).gradients.first == whole.gradients.first);

        head.state = test::run_advance(*engine, head);
        head.options = tail.options;
        REQUIRE(test::run_advance(*engine, head) == test::run_advance(*engine, example));
    }
}

TEST_CASE("accumulating adds to the weight gradients, and replacing does not read them") {
    for (const bool output_bias : {false, true}) {
        const Case example =
            test::random_case({.steps = 3, .output_bias = output_bias, .start = Start::random}, 2);
        for (const auto& engine : test::make_engines_to_test()) {
            const test::Uploaded on_engine(*engine, example);
            const Tape tape = engine->forward(example.rule, on_engine.weights,
                                              on_engine.state.view(), example.options);
            const auto fresh = test::run_backward(*engine, tape, example);
            const auto again =
                test::run_backward(*engine, tape, example, Accumulate::no, std::nanf(""));
            REQUIRE((again == fresh));
            auto added = test::run_backward(*engine, tape, example, Accumulate::yes, 0.5F);
            REQUIRE(added.first == fresh.first);
            // One more term in a sum of a few dozen rows.
            std::vector<float> expected = fresh.weights;
            for (float& value : expected) value += 0.5F;
            const double rounding = 1e-6 * test::largest_magnitude(expected);
            REQUIRE(test::worst_error(added.weights, expected, {rounding, 0}) <= 1);
        }
    }
}

TEST_CASE("the tape holds its own copy of rule, weights and state") {
    const Case example = uneven_case();
    for (const auto& engine : test::make_engines_to_test()) {
        const auto expected = test::run_rollout(*engine, example);
        Tape tape;
        {
            test::Uploaded on_engine(*engine, example);
            Rule rule = example.rule;
            tape =
                engine->forward(rule, on_engine.weights, on_engine.state.view(), example.options);
            rule = Rule{};
            const std::vector<float> other(parameter_count(true), 3);
            engine->copy_from_host(on_engine.weights_buffer.data(), other);
            engine->copy_from_host(on_engine.state.view().data,
                                   std::vector<float>(example.state.size(), 4));
        }
        REQUIRE((test::run_backward(*engine, tape, example) == expected.gradients));
        REQUIRE(test::download(*engine, tape.state(0)) == example.state);
    }
}

TEST_CASE("memory of old tapes does not show in new ones") {
    const std::vector<Case> examples = {
        uneven_case(),
        test::random_case({.height = 37,
                           .width = 29,
                           .batch = 3,
                           .steps = 9,
                           .edges = Edges::zero,
                           .life = Life::pre_and_post,
                           .start = Start::seed},
                          2),
        test::random_case({.height = 5, .width = 4, .batch = 2, .steps = 3}, 3),
        test::random_case(
            {.height = 37, .width = 29, .batch = 3, .steps = 4, .start = Start::empty}, 4),
        test::random_case({.height = 29, .width = 37, .batch = 3, .steps = 9, .start = Start::seed},
                          5),
        test::random_case({.height = 37, .width = 29, .batch = 1, .steps = 20}, 6)};
    for (const Device& device : test::engines_to_test()) {
        const auto reused = make_engine(device);
        for (int round = 0; round < 2; ++round) {
            for (const Case& example : examples) {
                const auto expected = test::run_rollout(*make_engine(device), example);
                REQUIRE((test::run_rollout(*reused, example) == expected));
            }
        }
    }
}

TEST_CASE("a tape in the caller's memory gives the bits of one in the engine's") {
    // Fewer steps than before, and more; another rule, and an empty state.
    const Case first = uneven_case();
    std::vector<Case> examples = {first};
    for (const int steps : {2, first.options.steps + 3, first.options.steps}) {
        CaseOptions options = {.height = first.height,
                               .width = first.width,
                               .batch = first.batch,
                               .steps = steps,
                               .start = steps == 2 ? test::Start::empty : test::Start::seed,
                               .empty_alpha = 0.2F,
                               .gradient_steps = {0, 1}};
        examples.push_back(test::random_case(options, std::uint32_t(steps)));
    }
    for (const Device& device : test::engines_to_test()) {
        for (const bool are_clean : {true, false}) {
            auto engine = make_engine(device);
            const test::CallersTape memory(*engine, first, first.options.steps + 3, are_clean);
            for (const Case& example : examples) {
                INFO(engine->description() << ", " << example.options.steps << " steps");
                const auto expected = test::run_rollout(*make_engine(device), example);
                REQUIRE((test::run_rollout(*engine, example, memory.buffers()) == expected));
                const test::Uploaded on_engine(*engine, example);
                const Tape opened = engine->open_tape(example.rule, on_engine.weights,
                                                      example.batch, example.height, example.width,
                                                      example.options, memory.buffers());
                REQUIRE((test::result_of(*engine, opened, example) == expected));
            }
        }
    }
}

TEST_CASE("a tape opens from a copy of its memory, on another engine") {
    const Case example = uneven_case();
    for (const Device& device : test::engines_to_test()) {
        auto engine = make_engine(device);
        const int steps = example.options.steps;
        const test::CallersTape memory(*engine, example, steps, false);
        const auto expected = test::run_rollout(*engine, example, memory.buffers());
        const auto other = make_engine(device);
        const test::CallersTape copy(*other, memory);
        test::run_rollout(*engine,
                          test::random_case({.height = example.height,
                                             .width = example.width,
                                             .batch = example.batch,
                                             .steps = steps},
                                            9),
                          memory.buffers());
        engine.reset();
        const test::Uploaded on_other(*other, example);
        const Tape opened =
            other->open_tape(example.rule, on_other.weights, example.batch, example.height,
                             example.width, example.options, copy.buffers());
        REQUIRE((test::result_of(*other, opened, example) == expected));
    }
}

TEST_CASE("the caller's memory is never an engine's own") {
    const Case example = uneven_case();
    for (const auto& engine : test::make_engines_to_test()) {
        const auto expected = test::run_rollout(*engine, example);
        std::vector<float> left;
        {
            const test::CallersTape memory(*engine, example, example.options.steps, false);
            const std::size_t size = std::size_t(example.options.steps + 1) * example.state.size();
            test::run_rollout(*engine, example, memory.buffers());
            left = test::download(*engine, memory.buffers().states, size);
            Case other = example;
            for (float& value : other.state) value *= 0.5F;
            test::run_rollout(*engine, other);
            REQUIRE(test::download(*engine, memory.buffers().states, size) == left);
        }
        REQUIRE((test::run_rollout(*engine, example) == expected));
    }
}

TEST_CASE("two tapes of one engine live side by side, and outlive it") {
    const Case first = uneven_case(), second = test::random_case({.steps = 4}, 8);
    for (const Device& device : test::engines_to_test()) {
        auto engine = make_engine(device);
        const auto expected_first = test::run_rollout(*engine, first);
        const auto expected_second = test::run_rollout(*engine, second);
        const test::Uploaded first_uploaded(*engine, first), second_uploaded(*engine, second);
        Tape a = engine->forward(first.rule, first_uploaded.weights, first_uploaded.state.view(),
                                 first.options);
        Tape b = engine->forward(second.rule, second_uploaded.weights, second_uploaded.state.view(),
                                 second.options);
        REQUIRE((test::run_backward(*engine, a, first) == expected_first.gradients));
        REQUIRE((test::run_backward(*engine, b, second) == expected_second.gradients));
        a = std::move(b);
        REQUIRE(test::download(*engine, a.last()) == expected_second.states.back());
        engine.reset();
        REQUIRE(a.steps() == 4);
    }
}

TEST_CASE("memory of an engine is zero at first") {
    for (const auto& engine : test::make_engines_to_test()) {
        State state = engine->make_state(2, 3, 5);
        REQUIRE(state.view().size() == 2 * 3 * 5 * channels);
        REQUIRE(state.view().space == engine->memory_space());
        REQUIRE(test::download(*engine, state.view()) == std::vector<float>(2 * 3 * 5 * channels));
        REQUIRE(engine->allocate(0).size() == 0);
        REQUIRE_THROWS_AS(engine->allocate(std::size_t{1} << 60), Error);
        // As many bytes as 2 floats have, where the product may wrap around.
        REQUIRE_THROWS_AS(engine->allocate((std::size_t{1} << 62) + 2), Error);
        REQUIRE_THROWS_AS(engine->make_state(0, 3, 5), InvalidArgument);
        REQUIRE_THROWS_AS(engine->make_state(1, -3, -5), InvalidArgument);
        constexpr int most = std::numeric_limits<int>::max();
        REQUIRE_THROWS_AS(engine->make_state(most, most, most), InvalidArgument);
        REQUIRE_THROWS_AS(engine->make_state(most, most, 1), Error);
        REQUIRE_THROWS_AS(engine->make_state(1, std::numeric_limits<int>::min(), 1),
                          InvalidArgument);
    }
}

TEST_CASE("forward and advance refuse bad arguments") {
    const Case example = test::random_case({.steps = 2}, 1);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (const auto& engine : test::make_engines_to_test()) {
        test::Uploaded on_engine(*engine, example);
        const auto refuse = [&](const Rule& rule, ConstWeightsView weights, StateView state,
                                int steps) {
            const RolloutOptions options = {.steps = steps, .key = {}};
            REQUIRE_THROWS_AS(engine->forward(rule, weights, state, options), InvalidArgument);
            REQUIRE_THROWS_AS(engine->advance(rule, weights, state, options), InvalidArgument);
        };
        const StateView state = on_engine.state.view();
        const ConstWeightsView weights = on_engine.weights;
        refuse(example.rule, weights, state, -1);

        Rule rule = example.rule;
        rule.fire_rate = nan;
        refuse(rule, weights, state, 1);
        rule.fire_rate = 1.5F;
        refuse(rule, weights, state, 1);
        rule = example.rule;
        rule.step_size = nan;
        refuse(rule, weights, state, 1);
        rule = example.rule;
        rule.filters[1][4] = std::numeric_limits<float>::infinity();
        refuse(rule, weights, state, 1);

        StateView wrong = state;
        wrong.space = state.space == MemorySpace::host ? MemorySpace::device : MemorySpace::host;
        refuse(example.rule, weights, wrong, 1);
        wrong = state;
        wrong.data = nullptr;
        refuse(example.rule, weights, wrong, 1);
        wrong = state;
        wrong.batch = 0;
        refuse(example.rule, weights, wrong, 1);
        wrong = state;
        wrong.width = -wrong.width;
        refuse(example.rule, weights, wrong, 1);

        // Sizes whose product overflows.
        constexpr int most = std::numeric_limits<int>::max();
        for (const auto& [batch, height, width] :
             {std::array{most, most, most}, {most, 1 << 15, 1 << 15}, {1, most, 3}}) {
            refuse(example.rule, weights, {state.data, batch, height, width, state.space}, 1);
        }
        refuse(example.rule, weights, state, most);

        refuse(example.rule, {}, state, 1);
    }
}

TEST_CASE("tapes in memory that is not right are refused") {
    const Case example = test::random_case({.steps = 2}, 1);
    for (const auto& engine : test::make_engines_to_test()) {
        const test::Uploaded on_engine(*engine, example);
        const test::CallersTape memory(*engine, example, 2, true);
        const auto open = [&](const Rule& rule, ConstWeightsView weights, int width, int steps,
                              const TapeBuffers& buffers) {
            return engine->open_tape(rule, weights, 1, example.height, width,
                                     {.steps = steps, .key = {}}, buffers);
        };
        REQUIRE(open(example.rule, on_engine.weights, example.width, 2, memory.buffers()).steps() ==
                2);
        const auto refuse = [&](const TapeBuffers& buffers) {
            REQUIRE_THROWS_AS(engine->forward(example.rule, on_engine.weights,
                                              on_engine.state.view(), example.options, buffers),
                              InvalidArgument);
            REQUIRE_THROWS_AS(open(example.rule, on_engine.weights, example.width, 2, buffers),
                              InvalidArgument);
        };
        TapeBuffers wrong = memory.buffers();
        wrong.states = nullptr;
        refuse(wrong);
        wrong = memory.buffers();
        wrong.rest = nullptr;
        refuse(wrong);
        wrong = memory.buffers();
        wrong.rest += 8;
        refuse(wrong);
        const auto refuse_to_open = [&](const Rule& rule, ConstWeightsView weights, int width,
                                        int steps, const TapeBuffers& buffers) {
            REQUIRE_THROWS_AS(open(rule, weights, width, steps, buffers), InvalidArgument);
        };
        Rule bad = example.rule;
        bad.fire_rate = 2;
        refuse_to_open(example.rule, on_engine.weights, example.width, 2, {});
        refuse_to_open(bad, on_engine.weights, example.width, 2, memory.buffers());
        refuse_to_open(example.rule, {}, example.width, 2, memory.buffers());
        refuse_to_open(example.rule, on_engine.weights, 0, 2, memory.buffers());
        refuse_to_open(example.rule, on_engine.weights, example.width, -1, memory.buffers());

        const auto refuse_sizes = [&](int batch, int height, int width, int steps) {
            REQUIRE_THROWS_AS(engine->tape_bytes({}, batch, height, width, steps), InvalidArgument);
        };
        REQUIRE(engine->tape_bytes({}, 1, 1, 1, 0) > 0);
        refuse_sizes(0, 3, 5, 2);
        refuse_sizes(1, -3, -5, 2);
        refuse_sizes(1, 3, 5, -1);
        refuse_sizes(1, 3, 5, (1 << 24) + 1);
        refuse_sizes(1 << 11, 1 << 15, 1 << 15, 1 << 24);
    }
}

TEST_CASE("a model that was moved from is refused") {
    for (const bool output_bias : {false, true}) {
        const Case example = test::random_case({.output_bias = output_bias}, 1);
        Model model = {example.rule, example.weights, {}, {}};
        const Model taken = std::move(model);
        REQUIRE(model.weights.has_output_bias() == output_bias);
        REQUIRE(model.weights.view().w1 == nullptr);
        REQUIRE(model.weights.view().b1 == nullptr);
        REQUIRE(model.weights.view().w2 == nullptr);
        REQUIRE(model.weights.view().b2 == nullptr);
        REQUIRE(std::as_const(model).weights.view().w1 == nullptr);
        for (const auto& engine : test::make_engines_to_test()) {
            test::Uploaded on_engine(*engine, example);
            const StateView state = on_engine.state.view();
            const std::string message = "the model has 0 weights, expected " +
                                        std::to_string(parameter_count(output_bias)) +
                                        ": was it moved from?";
            REQUIRE_THROWS_AS(engine->advance(model, state, {}), InvalidArgument);
            REQUIRE_THROWS_WITH(engine->advance(model, state, {}), message);
            REQUIRE_THROWS_AS(engine->forward(model, state, {}), InvalidArgument);
            REQUIRE_THROWS_WITH(engine->forward(model, state, {}), message);
            REQUIRE_THROWS_AS(engine->forward(model.rule, model.weights.view(), state, {}),
                              InvalidArgument);
            REQUIRE(test::download(*engine, state) == example.state);
        }
        model = taken;
        REQUIRE(model.weights == example.weights);
    }
}

TEST_CASE("the CPU engine refuses to copy from and to memory that was moved from") {
    const auto engine = make_engine(Device::cpu(1));
    State state = engine->make_state(1, 1, 1);
    const State taken = std::move(state);
    std::vector<float> values(channels);
    REQUIRE_THROWS_AS(engine->copy_from_host(state.view().data, values), InvalidArgument);
    REQUIRE_THROWS_AS(engine->copy_to_host(values, state.view().data), InvalidArgument);
    engine->copy_from_host(nullptr, {});
    engine->copy_to_host({}, nullptr);
}

TEST_CASE("backward refuses bad arguments") {
    const Case example = test::random_case({.batch = 2, .steps = 2}, 1);
    for (const auto& engine : test::make_engines_to_test()) {
        const test::Uploaded on_engine(*engine, example);
        const Tape tape = engine->forward(example.rule, on_engine.weights, on_engine.state.view(),
                                          example.options);
        State grad_state = engine->make_state(2, example.height, example.width);
        const Buffer grad = engine->allocate(parameter_count(true));
        const WeightsView grad_weights = view_parameters(grad.data(), true);
        const auto refuse = [&](const Tape& from, StateView state, WeightsView gradients) {
            REQUIRE_THROWS_AS(engine->backward(from, state, gradients, Accumulate::no),
                              InvalidArgument);
        };
        refuse(Tape{}, grad_state.view(), grad_weights);
        StateView wrong = grad_state.view();
        wrong.batch = 1;
        refuse(tape, wrong, grad_weights);
        wrong = grad_state.view();
        std::swap(wrong.height, wrong.width);
        refuse(tape, wrong, grad_weights);
        wrong = grad_state.view();
        wrong.data = nullptr;
        refuse(tape, wrong, grad_weights);
        wrong = grad_state.view();
        wrong.space = wrong.space == MemorySpace::host ? MemorySpace::device : MemorySpace::host;
        refuse(tape, wrong, grad_weights);
        refuse(tape, grad_state.view(), {});
        refuse(tape, grad_state.view(), view_parameters(grad.data(), false));

        const State added = engine->make_state(2, example.height, example.width);
        const auto refuse_gradients = [&](std::vector<StepGradient> gradients) {
            REQUIRE_THROWS_AS(engine->backward(tape, {.step_gradients = gradients},
                                               grad_state.view(), grad_weights, Accumulate::no),
                              InvalidArgument);
        };
        const ConstStateView right = added.view();
        refuse_gradients({{-1, right}});
        refuse_gradients({{1, right}, {3, right}});
        refuse_gradients({{1, right}, {2, right}, {1, right}});
        refuse_gradients({{1, {}}});
        ConstStateView bad = right;
        bad.batch = 1;
        refuse_gradients({{1, bad}});
        bad = right;
        std::swap(bad.height, bad.width);
        refuse_gradients({{1, bad}});
        bad = right;
        bad.space = bad.space == MemorySpace::host ? MemorySpace::device : MemorySpace::host;
        refuse_gradients({{1, bad}});
        REQUIRE_THROWS_AS(Tape{}.steps(), InvalidArgument);
        REQUIRE_THROWS_AS(Tape{}.last(), InvalidArgument);
        REQUIRE_THROWS_AS(tape.state(3), InvalidArgument);
        REQUIRE_THROWS_AS(tape.state(-1), InvalidArgument);
    }
}

TEST_CASE("loss and Adam refuse bad arguments") {
    for (const auto& engine : test::make_engines_to_test()) {
        State state = engine->make_state(2, 3, 5), grad_state = engine->make_state(2, 3, 5);
        const Buffer loss = engine->allocate(2), living = engine->allocate(2);
        const Buffer target = engine->allocate(3 * 5 * visible_channels);
        const TargetView right = {target.data(), 3, 5};
        const auto refuse = [&](StateView gradient, float* losses, float* counts, StateView of,
                                TargetView wanted) {
            REQUIRE_THROWS_AS(engine->loss(gradient, losses, counts, of, wanted), InvalidArgument);
        };
        refuse(grad_state.view(), loss.data(), living.data(), state.view(), {target.data(), 5, 3});
        refuse(grad_state.view(), loss.data(), living.data(), state.view(), {nullptr, 3, 5});
        refuse(grad_state.view(), nullptr, living.data(), state.view(), right);
        refuse(grad_state.view(), loss.data(), nullptr, state.view(), right);
        StateView wrong = grad_state.view();
        wrong.batch = 1;
        refuse(wrong, loss.data(), living.data(), state.view(), right);

        const Buffer all = engine->allocate(parameter_count(true));
        float* p = all.data();
        const auto refuse_adam = [&](float* weights, const AdamOptions& options) {
            REQUIRE_THROWS_AS(engine->adam(weights, p, p, p, p, true, options), InvalidArgument);
        };
        refuse_adam(p, {.update = 0});
        refuse_adam(p, {.update = -1});
        refuse_adam(nullptr, {});
    }
}

TEST_CASE("a negative number of threads is refused") {
    REQUIRE_THROWS_AS(make_engine(Device::cpu(-1)), InvalidArgument);
}
