// SPDX-License-Identifier: MIT
// Every engine against the double reference.
#include <nca/engine.hpp>
#include <nca/model.hpp>

#include "host/reference/adam.hpp"
#include "tests/support/cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/compare.hpp"
#include "tests/support/engine_runs.hpp"
#include "tests/support/engines.hpp"

#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

using namespace nca;
using test::Case;
using test::CaseOptions;
using test::Start;

namespace {

// Where the tolerances come from. Rounding one operation errs by at most u = 2^-24, relatively. The
// errors in a sum of n terms are as good as independent, so that it errs by about sqrt(n) * u times
// the magnitude of its terms, where the worst case is n * u (Higham and Mary, "A new approach to
// probabilistic rounding error analysis", 2019).
constexpr double unit = 0x1p-24;
double rounding(double terms) { return std::sqrt(terms) * unit; }

// The terms that a value of the next state hangs on one after the other: 9 neighbours, 48
// perceptions, 128 hidden units and the old state. A step back goes along the same chain, and
// forward once more to compute it again. These cases hardly amplify an error from step to step, so
// that a rollout is one long chain.
const double step_terms = 9 + perception + hidden + 1;

// Relative to the largest value of the rollout so far.
test::Tolerance state_tolerance(int steps, double largest) {
    const double relative = rounding(steps * step_terms);
    return {relative * largest, relative};
}

// A weight's gradient sums over all cells and steps besides.
test::Tolerance gradient_tolerance(const Case& drawn, double largest) {
    const double rows = double(drawn.view().cells()) * drawn.options.steps;
    const double relative = rounding(2 * drawn.options.steps * step_terms + rows);
    return {relative * largest, relative};
}

// The largest float32 error of these states and pre-activations, with room; closer to a kink the
// reference may turn the other way.
const test::Margins least_margins = {3e-6, 1e-6};

struct Drawn {
    Case example;
    test::Expected expected;
};

Drawn draw(const CaseOptions& options) {
    for (std::uint32_t seed = 1; seed < 100; ++seed) {
        Case example = test::random_case(options, seed);
        if (auto expected = test::expected_of(example, least_margins)) {
            return {std::move(example), std::move(*expected)};
        }
    }
    FAIL("no seed keeps this case away from the kinks");
    std::abort();
}

std::string describe(const CaseOptions& options) {
    return "batch " + std::to_string(options.batch) + ", " + std::to_string(options.height) +
           " x " + std::to_string(options.width) + ", " + std::to_string(options.steps) +
           " steps, start " + std::to_string(int(options.start)) + ", fire rate " +
           std::to_string(options.fire_rate) + ", empty alpha " +
           std::to_string(options.empty_alpha) +
           (options.edges == Edges::circular ? ", circular" : ", zero") +
           (options.life == Life::post ? ", post" : ", pre and post") +
           (options.output_bias ? ", b2" : ", no b2") +
           (options.own_filters ? ", own filters" : "");
}

void require_gradients_agree(const test::Gradients& gradients, const Drawn& drawn) {
    const bool output_bias = drawn.example.weights.has_output_bias();
    for (const ParameterTensor& tensor : parameter_tensors(output_bias)) {
        INFO("gradient of " << tensor.name);
        const auto actual = std::span(gradients.weights).subspan(tensor.offset, tensor.size);
        const auto expected =
            std::span(drawn.expected.grad_weights.all).subspan(tensor.offset, tensor.size);
        const auto tolerance = gradient_tolerance(drawn.example, test::largest_magnitude(expected));
        REQUIRE(test::worst_error(actual, expected, tolerance) <= 1);
    }
    INFO("gradient of the first state");
    std::vector<double> expected;
    for (const auto& grid : drawn.expected.grad_first) {
        expected.insert(expected.end(), grid.values.begin(), grid.values.end());
    }
    const auto tolerance =
        state_tolerance(2 * drawn.example.options.steps, test::largest_magnitude(expected));
    REQUIRE(test::worst_error(gradients.first, expected, tolerance) <= 1);
}

// forward with all its states, advance and backward, on every engine.
void require_agreement(const CaseOptions& options,
                       const std::vector<std::unique_ptr<Engine>>& engines) {
    INFO(describe(options));
    const Drawn drawn = draw(options);
    for (const auto& engine : engines) {
        INFO(engine->description());
        const auto result = test::run_rollout(*engine, drawn.example);
        REQUIRE(int(result.states.size()) == options.steps + 1);
        REQUIRE(result.states[0] == drawn.example.state);
        double largest = 0;
        for (int step = 0; step <= options.steps; ++step) {
            INFO("after step " << step);
            const auto expected = test::state_after(drawn.expected, step);
            largest = std::max(largest, test::largest_magnitude(expected));
            const auto tolerance = state_tolerance(step, largest);
            REQUIRE(test::worst_error(result.states[step], expected, tolerance) <= 1);
            if (step < options.steps) continue;
            INFO("advance");
            REQUIRE(test::worst_error(test::run_advance(*engine, drawn.example), expected,
                                      tolerance) <= 1);
        }
        require_gradients_agree(result.gradients, drawn);
    }
}

// Sixteen rules: both edges, both life rules, with and without b2, Sobel and other filters.
CaseOptions with_rule(CaseOptions options, int variant) {
    options.edges = variant & 1 ? Edges::zero : Edges::circular;
    options.life = variant & 2 ? Life::pre_and_post : Life::post;
    options.output_bias = variant & 4;
    options.own_filters = variant & 8;
    return options;
}

bool any_nonzero(std::span<const double> values) { return test::largest_magnitude(values) > 1e-3; }

}  // namespace

TEST_CASE("an engine for CUDA is there to be tested", "[cuda]") {
    const std::string reason = test::why_no_cuda();
    if (!reason.empty()) WARN("skipped: no CUDA engine: " << reason);
}

TEST_CASE("engines agree with the reference on small grids for every rule", "[gradients]") {
    const auto engines = test::make_engines_to_test();
    for (int variant = 0; variant < 16; ++variant) {
        for (const auto& [height, width] : {std::array{1, 1}, {3, 5}, {8, 8}}) {
            for (const Start start : {Start::random, Start::patch}) {
                const float empty_alpha = variant % 3 == 0 ? 0.3F : 0.02F;
                require_agreement(with_rule({.height = height,
                                             .width = width,
                                             .batch = 3,
                                             .steps = 17,
                                             .step_size = variant % 5 == 0 ? 0.7F : 1,
                                             .start = start,
                                             .empty_alpha = empty_alpha},
                                            variant),
                                  engines);
            }
        }
    }
}

TEST_CASE("engines agree with the reference on larger grids", "[slow][gradients]") {
    const auto engines = test::make_engines_to_test();
    for (const int variant : {0, 3, 5, 14}) {
        for (const CaseOptions& options :
             {CaseOptions{.height = 17, .width = 31, .batch = 3, .steps = 2},
              CaseOptions{.height = 17, .width = 31, .batch = 1, .steps = 17},
              CaseOptions{.height = 65, .width = 9, .batch = 1, .steps = 2},
              CaseOptions{.height = 9, .width = 65, .batch = 1, .steps = 2},
              CaseOptions{.height = 9, .width = 65, .batch = 3, .steps = 1, .start = Start::random},
              CaseOptions{.height = 6, .width = 131, .batch = 1, .steps = 2},
              CaseOptions{
                  .height = 40, .width = 40, .batch = 1, .steps = 2, .start = Start::random},
              CaseOptions{
                  .height = 40, .width = 40, .batch = 3, .steps = 17, .start = Start::seed}}) {
            require_agreement(with_rule(options, variant), engines);
        }
    }
}

TEST_CASE("engines agree with the reference at fire rates 0 and 1", "[gradients]") {
    const auto engines = test::make_engines_to_test();
    for (const float fire_rate : {0.0F, 1.0F}) {
        for (const int variant : {1, 6}) {
            for (const Start start : {Start::random, Start::seed, Start::patch}) {
                require_agreement(with_rule({.height = 7,
                                             .width = 10,
                                             .batch = 2,
                                             .steps = 5,
                                             .fire_rate = fire_rate,
                                             .start = start},
                                            variant),
                                  engines);
            }
        }
    }
}

TEST_CASE("engines agree with the reference where empty space comes alive, and where it does not",
          "[gradients]") {
    const auto engines = test::make_engines_to_test();
    for (const float empty_alpha : {-0.2F, 0.02F, 0.2F}) {
        for (int variant = 0; variant < 8; ++variant) {
            for (const Start start : {Start::empty, Start::seed}) {
                require_agreement(with_rule({.height = 9,
                                             .width = 11,
                                             .batch = 2,
                                             .steps = 4,
                                             .step_size = 0.5F,
                                             .start = start,
                                             .empty_alpha = empty_alpha},
                                            variant),
                                  engines);
            }
        }
    }
}

TEST_CASE("engines agree with the reference where empty cells come alive", "[gradients]") {
    // So few fire that some do it far from all others, in every step: their rows of the weight
    // gradients differ in nothing but the gradient that comes in.
    const auto engines = test::make_engines_to_test();
    for (const int variant : {0, 1, 4, 5}) {
        require_agreement(with_rule({.height = 20,
                                     .width = 21,
                                     .batch = 2,
                                     .steps = 3,
                                     .fire_rate = 0.03F,
                                     .step_size = 0.5F,
                                     .start = Start::empty,
                                     .empty_alpha = 0.2F},
                                    variant),
                          engines);
    }
}

TEST_CASE("empty space comes alive in the cases that are meant to") {
    const CaseOptions spawning = {
        .height = 6, .width = 6, .start = Start::empty, .empty_alpha = 0.2F};
    REQUIRE(any_nonzero(test::state_after(draw(spawning).expected, 2)));
    CaseOptions dying = spawning;
    dying.life = Life::pre_and_post;
    REQUIRE_FALSE(any_nonzero(test::state_after(draw(dying).expected, 2)));
    dying = spawning;
    dying.empty_alpha = 0.02F;
    REQUIRE_FALSE(any_nonzero(test::state_after(draw(dying).expected, 2)));
}

TEST_CASE("empty cells of the first state get their gradient", "[gradients]") {
    // They lie beside the living patch, or come alive, or live on unfired: all take part in the
    // sum.
    const CaseOptions options = {
        .height = 8, .width = 9, .steps = 3, .start = Start::patch, .empty_alpha = 0.2F};
    const Drawn drawn = draw(options);
    int with_gradient = 0;
    const auto& first = drawn.expected.rollouts[0].first();
    for (int cell = 0; cell < first.cells(); ++cell) {
        const auto& gradient = drawn.expected.grad_first[0];
        if (any_nonzero(std::vector<double>(first.cell(cell), first.cell(cell) + channels)))
            continue;
        with_gradient +=
            any_nonzero(std::vector<double>(gradient.cell(cell), gradient.cell(cell) + channels));
    }
    REQUIRE(with_gradient > 10);
    for (const auto& engine : test::make_engines_to_test()) {
        require_gradients_agree(test::run_rollout(*engine, drawn.example).gradients, drawn);
    }
}

TEST_CASE("engines agree with the reference for weights that have not been trained yet",
          "[gradients]") {
    // W2 and b2 are zero, so that no fired cell moves, but W2 and b2 have gradients.
    CaseOptions options = {.height = 6, .width = 7, .batch = 2, .steps = 4, .start = Start::seed};
    options.output_scale = 0;
    options.empty_alpha = 0;
    const auto engines = test::make_engines_to_test();
    for (const int variant : {1, 4, 7}) require_agreement(with_rule(options, variant), engines);
}

TEST_CASE("a rollout of no steps is the state, and its gradient passes unchanged to the bit") {
    const Case example = test::random_case({.batch = 3, .steps = 0}, 1);
    for (const auto& engine : test::make_engines_to_test()) {
        const auto result = test::run_rollout(*engine, example);
        REQUIRE(result.states.size() == 1);
        REQUIRE(result.states[0] == example.state);
        REQUIRE(test::run_advance(*engine, example) == example.state);
        REQUIRE(result.gradients.first == example.grad_last);
        REQUIRE(test::largest_magnitude(result.gradients.weights) == 0);
    }
}

TEST_CASE("engines go back from each sample's own step", "[gradients]") {
    // From step t the way back is that of a rollout of t steps, to the bit: the sum over samples
    // has another order only, so that each is looked at alone.
    for (const auto& engine : test::make_engines_to_test()) {
        INFO(engine->description());
        for (const int variant : {0, 3}) {
            const Case drawn = test::random_case(
                with_rule({.height = 9, .width = 7, .batch = 4, .steps = 6}, variant), 5);
            const test::Uploaded on_engine(*engine, drawn);
            const Tape tape = engine->forward(drawn.rule, on_engine.weights, on_engine.state.view(),
                                              drawn.options);
            const std::vector<int> from_steps = {6, 1, 5, 3};
            const test::Gradients result = test::run_backward(*engine, tape, drawn, Accumulate::no,
                                                              1e30F, {.from_steps = from_steps});
            std::vector<double> sum(result.weights.size());
            const std::size_t floats = drawn.state.size() / 4;
            for (std::size_t sample = 0; sample < 4; ++sample) {
                RolloutOptions options = drawn.options;
                options.steps = from_steps[sample];
                const Tape shorter =
                    engine->forward(drawn.rule, on_engine.weights, on_engine.state.view(), options);
                Case only = drawn;  // the gradient of this sample alone
                for (std::size_t i = 0; i < only.grad_last.size(); ++i) {
                    if (i / floats != sample) only.grad_last[i] = 0;
                }
                const test::Gradients alone = test::run_backward(*engine, shorter, only);
                for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += alone.weights[i];
                const auto first = [&](const test::Gradients& of) {
                    return std::vector<float>(
                        of.first.begin() + std::ptrdiff_t(sample * floats),
                        of.first.begin() + std::ptrdiff_t((sample + 1) * floats));
                };
                if (engine->precision() == Precision::exact) {
                    REQUIRE(first(result) == first(alone));
                } else {
                    const std::vector<float> expected = first(alone);
                    const std::vector<double> values(expected.begin(), expected.end());
                    REQUIRE(test::relative_error(first(result), values) <= 1e-5);
                }
            }
            REQUIRE(test::relative_error(result.weights, sum) <= 1e-5);
            REQUIRE(test::run_backward(*engine, tape, drawn, Accumulate::no, 1e30F,
                                       {.from_steps = std::vector<int>(4, 6)}) ==
                    test::run_backward(*engine, tape, drawn));
            for (const std::vector<int>& bad :
                 {std::vector<int>{6, 1, 5}, std::vector<int>{6, 0, 5, 3},
                  std::vector<int>{6, 7, 5, 3}}) {
                REQUIRE_THROWS_AS(test::run_backward(*engine, tape, drawn, Accumulate::no, 1e30F,
                                                     {.from_steps = bad}),
                                  InvalidArgument);
            }
        }
    }
}

TEST_CASE("what comes behind the step where the way back begins takes no part") {
    // Weights that reach infinity within the rollout, and are finite after two steps.
    for (const auto& engine : test::make_engines_to_test()) {
        INFO(engine->description());
        Case drawn = test::random_case({.height = 6, .width = 6, .batch = 2, .steps = 9}, 7);
        for (float& value : drawn.weights.all()) value *= 3000;
        const test::Uploaded on_engine(*engine, drawn);
        const Tape tape =
            engine->forward(drawn.rule, on_engine.weights, on_engine.state.view(), drawn.options);
        const auto is_finite = [](const std::vector<float>& values) {
            return std::ranges::all_of(values, [](float v) { return std::isfinite(v); });
        };
        REQUIRE(is_finite(test::download(*engine, tape.state(2))));
        REQUIRE_FALSE(is_finite(test::download(*engine, tape.last())));
        const std::vector<int> from_steps = {2, 1};
        const test::Gradients result =
            test::run_backward(*engine, tape, drawn, Accumulate::no, 0, {.from_steps = from_steps});
        REQUIRE(is_finite(result.weights));
        REQUIRE(is_finite(result.first));
    }
}

TEST_CASE("gradients come in at any step, on every engine", "[gradients]") {
    const auto engines = test::make_engines_to_test();
    for (const int variant : {0, 3, 5, 6, 15}) {
        CaseOptions options = with_rule({.height = 10,
                                         .width = 18,
                                         .batch = 3,
                                         .steps = 5,
                                         .empty_alpha = variant % 2 == 0 ? 0.2F : 0.02F,
                                         .gradient_steps = {3, 0, 5, 1}},
                                        variant);
        require_agreement(options, engines);
        // A sample's begins at, behind and before a step with a gradient.
        options.from_steps = {5, 3, 2};
        require_agreement(options, engines);
        options.from_steps = {};
        options.only_step_gradients = true;
        for (const int step : {0, 2, 5}) {
            options.gradient_steps = {step};
            require_agreement(options, engines);
        }
    }
    // Several bands of rows on the CPU, and words of a row; tiles.
    require_agreement({.height = 52, .width = 66, .steps = 3, .gradient_steps = {0, 1, 2, 3}},
                      engines);
}

TEST_CASE("gradients of a state pass through a rollout of no steps") {
    Case drawn = test::random_case({.batch = 2, .steps = 0, .gradient_steps = {0}}, 1);
    std::vector<float> sum = drawn.grad_last;
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += drawn.step_gradients[0].values[i];
    for (const auto& engine : test::make_engines_to_test()) {
        const test::Gradients gradients = test::run_rollout(*engine, drawn).gradients;
        REQUIRE(gradients.first == sum);
        REQUIRE(test::largest_magnitude(gradients.weights) == 0);
    }
}

TEST_CASE("gradients of dead cells, and behind where the way back begins, take no part") {
    for (const auto& engine : test::make_engines_to_test()) {
        INFO(engine->description());
        for (const int variant : {0, 3}) {
            const Drawn finite = draw(with_rule({.height = 9,
                                                 .width = 11,
                                                 .batch = 2,
                                                 .steps = 4,
                                                 .start = Start::seed,
                                                 .from_steps = {4, 2},
                                                 .gradient_steps = {1, 3, 4}},
                                                variant));
            Case spoilt = finite.example;
            int dead = 0;
            for (test::CaseGradient& gradient : spoilt.step_gradients) {
                float* cell = gradient.values.data();
                for (int sample = 0; sample < 2; ++sample) {
                    const auto& life =
                        finite.expected.rollouts[sample].life[std::size_t(gradient.step) - 1];
                    for (const auto lives : life) {
                        if (!lives || gradient.step > spoilt.from_steps[sample]) {
                            cell[5] = std::nanf("");
                            ++dead;
                        }
                        cell += channels;
                    }
                }
            }
            REQUIRE(dead > 50);
            REQUIRE((test::run_rollout(*engine, spoilt).gradients ==
                     test::run_rollout(*engine, finite.example).gradients));
        }
    }
}

TEST_CASE("the cells that change in a step are those that fire") {
    // All weights are zero but an output bias on one hidden channel, so a fired cell counts up.
    Case example =
        test::random_case({.height = 9, .width = 67, .batch = 3, .steps = 3, .fire_rate = 0.3F}, 1);
    for (float& weight : example.weights.all()) weight = 0;
    example.weights.view().b2[9] = 0.25F;
    for (std::size_t i = 0; i < example.state.size(); ++i) {
        example.state[i] = i % channels == alpha_channel ? 1.0F : 0.0F;
    }
    example.options.key = {.seed = 77, .iteration = 1234, .first_step = 40, .first_sample = 6};
    const int cells = example.height * example.width;
    for (const auto& engine : test::make_engines_to_test()) {
        INFO(engine->description());
        const auto states = test::run_rollout(*engine, example).states;
        int different = 0;
        for (int step = 0; step < 3; ++step) {
            for (int sample = 0; sample < 3; ++sample) {
                for (int cell = 0; cell < cells; ++cell) {
                    const std::size_t index = (std::size_t(sample) * cells + cell) * channels + 9;
                    const bool changed = states[step + 1][index] != states[step][index];
                    different += changed != fires(example.options.key, 0.3F, step, sample, cell);
                }
            }
        }
        REQUIRE(different == 0);
        REQUIRE(test::run_advance(*engine, example) == states.back());
    }
}

TEST_CASE("loss, its gradient and the living cells agree with the reference", "[gradients]") {
    for (const auto& [batch, height, width] :
         {std::array{1, 1, 1}, {3, 3, 5}, {2, 17, 31}, {3, 40, 40}}) {
        Case example = test::random_case(
            {.height = height, .width = width, .batch = batch, .start = Start::patch}, 5);
        example.state.back() = 100;  // a hidden channel, which the loss must not see
        const auto states = reference::split_batch<double>(example.view());
        const std::span<const float> target = example.target;
        for (const auto& engine : test::make_engines_to_test()) {
            INFO(engine->description() << ", " << batch << " x " << height << " x " << width);
            const test::Uploaded on_engine(*engine, example);
            const Buffer target_buffer = test::upload(*engine, target);
            State grad_state = engine->make_state(batch, height, width);
            const std::vector<float> before(example.state.size(), 9);
            engine->copy_from_host(grad_state.view().data, before);
            const Buffer loss = test::upload(*engine, std::vector<float>(batch, 9));
            const Buffer living = test::upload(*engine, std::vector<float>(batch, 9));
            engine->loss(grad_state.view(), loss.data(), living.data(), on_engine.state.view(),
                         {target_buffer.data(), height, width});
            const auto losses = test::download(*engine, loss.data(), batch);
            const auto counts = test::download(*engine, living.data(), batch);
            std::vector<double> expected;
            for (int sample = 0; sample < batch; ++sample) {
                const double sample_loss = reference::loss(states[sample], target);
                // All terms are positive: the error is relative to the sum.
                const double relative = rounding(height * width * visible_channels) + 4 * unit;
                REQUIRE(std::abs(losses[sample] - sample_loss) <= relative * sample_loss);
                REQUIRE(sample_loss > 0);
                REQUIRE(counts[sample] == float(reference::count_living(states[sample])));
                const auto gradient = reference::loss_gradient(states[sample], target, batch);
                expected.insert(expected.end(), gradient.values.begin(), gradient.values.end());
            }
            const auto actual = test::download(*engine, grad_state.view());
            REQUIRE(test::worst_error(actual, expected, {0, 4 * unit}) <= 1);
        }
    }
}

TEST_CASE("a loss over states that are not finite is not finite") {
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
        Case example = test::random_case({.batch = 2}, 5);
        example.state[2 * channels + 1] = bad;
        for (const auto& engine : test::make_engines_to_test()) {
            const test::Uploaded on_engine(*engine, example);
            const Buffer target = test::upload(*engine, example.target);
            State grad_state = engine->make_state(2, example.height, example.width);
            const Buffer loss = engine->allocate(2), living = engine->allocate(2);
            engine->loss(grad_state.view(), loss.data(), living.data(), on_engine.state.view(),
                         {target.data(), example.height, example.width});
            const auto losses = test::download(*engine, loss.data(), 2);
            REQUIRE_FALSE(std::isfinite(losses[0]));
            REQUIRE(std::isfinite(losses[1]));
        }
    }
}

TEST_CASE("Adam agrees with the reference over several updates") {
    for (const bool output_bias : {false, true}) {
        for (const bool normalise : {false, true}) {
            const std::size_t size = parameter_count(output_bias);
            for (const auto& engine : test::make_engines_to_test()) {
                INFO(engine->description() << (normalise ? ", normalised" : ""));
                test::Uniform uniform(3);
                Weights start(output_bias);
                for (float& value : start.all()) value = uniform(-1, 1);
                reference::WeightValues<double> weights(start), first(output_bias),
                    second(output_bias);
                const Buffer on_engine = test::upload(*engine, start.all());
                const Buffer engine_first = engine->allocate(size);
                const Buffer engine_second = engine->allocate(size);
                const Buffer norms = engine->allocate(4);
                for (int update = 1; update <= 5; ++update) {
                    Weights gradient(output_bias);
                    for (float& value : gradient.all()) value = uniform(-2, 1);
                    gradient.all()[update] = 0;
                    reference::WeightValues<double> expected(gradient);
                    const auto expected_norms = reference::tensor_norms(expected);
                    const AdamOptions options = {
                        .learning_rate = 0.01F, .normalise_gradients = normalise, .update = update};
                    reference::adam(weights, first, second, expected, options);
                    const Buffer grad_weights = test::upload(*engine, gradient.all());
                    engine->adam(on_engine.data(), engine_first.data(), engine_second.data(),
                                 grad_weights.data(), norms.data(), output_bias, options);

                    const auto host = [&](const Buffer& buffer) {
                        return test::download(*engine, buffer.data(), size);
                    };
                    // A norm sums up to 6,144 squares; 1 - beta2^update loses three digits.
                    const double of_norm = rounding(w1_size);
                    const double of_update = of_norm + 1e3 * unit;
                    const auto norms_found = test::download(*engine, norms.data(), 4);
                    for (int tensor = 0; tensor < (output_bias ? 4 : 3); ++tensor) {
                        REQUIRE(std::abs(norms_found[tensor] - expected_norms[tensor]) <=
                                of_norm * expected_norms[tensor]);
                    }
                    REQUIRE(test::worst_error(host(grad_weights), expected.all, {0, of_norm}) <= 1);
                    const double scale = normalise ? 0.1 : 2;
                    REQUIRE(test::worst_error(host(engine_first), first.all,
                                              {scale * of_norm, of_norm}) <= 1);
                    REQUIRE(test::worst_error(host(engine_second), second.all, {0, 2 * of_norm}) <=
                            1);
                    REQUIRE(test::worst_error(host(on_engine), weights.all,
                                              {update * (0.01 * of_update + unit), 0}) <= 1);
                }
            }
        }
    }
}

TEST_CASE("a model in host memory gives the same bits as its weights in engine memory") {
    const Case example = test::random_case({.batch = 2, .steps = 5}, 3);
    const Model model = {example.rule, example.weights, {}, {}};
    for (const auto& engine : test::make_engines_to_test()) {
        test::Uploaded on_engine(*engine, example);
        const Tape tape = engine->forward(model, on_engine.state.view(), example.options);
        const auto expected = test::run_rollout(*engine, example);
        REQUIRE(test::download(*engine, tape.last()) == expected.states.back());
        engine->advance(model, on_engine.state.view(), example.options);
        REQUIRE(test::download(*engine, on_engine.state.view()) ==
                test::run_advance(*engine, example));
    }
}
