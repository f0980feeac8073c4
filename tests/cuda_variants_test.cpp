// SPDX-License-Identifier: MIT
// Every precision and form of rollout that a CUDA device can have, on a device. The executor's
// tests of them are in tensor_engine_test.cpp.
#include <nca/engine.hpp>
#include <nca/trainer.hpp>

#include "tests/support/cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/compare.hpp"
#include "tests/support/engine_runs.hpp"
#include "tests/support/engines.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

using namespace nca;
using test::Case;
using test::CaseOptions;
using test::Start;

namespace {

// Relative to the largest value of a kind, after a few steps: operands have 24, 22 or 11 bits.
struct Tolerances {
    double states;
    double grad_weights;
    // A hidden unit as close to zero as its rounding may turn the other way, and is one of 128
    // through which a cell's gradient goes, where that of the weights sums over all cells.
    double grad_first;
};

Tolerances tolerances_of(Precision precision) {
    switch (precision) {
        case Precision::exact:
            return {1e-5, 2e-5, 2e-5};
        case Precision::precise:
            return {2e-5, 1e-4, 1e-4};
        case Precision::fast:
        case Precision::half:
            break;
    }
    return {3e-3, 1e-2, 0.1};
}

// Sizes that no tile divides, both kinds of edges, and the notebook's grid.
std::vector<CaseOptions> cases() {
    return {{.height = 19, .width = 21, .batch = 2, .steps = 3, .empty_alpha = 0.2F},
            {.height = 18,
             .width = 10,
             .batch = 3,
             .steps = 4,
             .edges = Edges::zero,
             .life = Life::pre_and_post,
             .start = Start::random},
            {.height = 40, .width = 40, .steps = 2, .output_bias = false, .start = Start::random}};
}

struct Drawn {
    Case example;
    test::Expected expected;
};

// No cell's life hangs on less than what the coarsest precision errs by, no hidden unit on less
// than the most exact ones.
Drawn draw(const CaseOptions& options) {
    const test::Margins least = {3e-3, 1e-6};
    for (std::uint32_t seed = 1; seed < 300; ++seed) {
        Case example = test::random_case(options, seed);
        if (auto expected = test::expected_of(example, least)) {
            return {std::move(example), std::move(*expected)};
        }
    }
    FAIL("no seed keeps this case away from the kinks");
    std::abort();
}

std::string describe(const Device& device, const Case& example) {
    const auto engine = make_engine(device);
    return engine->description() + ", " +
           engine->rollout_form(example.batch, example.height, example.width);
}

bool skipped() {
    const std::string reason = test::why_no_cuda();
    if (!reason.empty()) WARN("skipped: no CUDA engine: " << reason);
    return !reason.empty();
}

template <class Values>
double error_of(const Values& actual, const std::vector<double>& expected, double tolerance) {
    REQUIRE(test::largest_magnitude(expected) > 0);
    return test::worst_error(actual, expected,
                             {tolerance * test::largest_magnitude(expected), tolerance});
}

}  // namespace

TEST_CASE("every precision and form of a device agrees with the reference", "[cuda]") {
    if (skipped()) return;
    for (const CaseOptions& options : cases()) {
        const Drawn drawn = draw(options);
        const Case& example = drawn.example;
        std::vector<double> grad_first;
        for (const auto& grid : drawn.expected.grad_first) {
            grad_first.insert(grad_first.end(), grid.values.begin(), grid.values.end());
        }
        for (const Device& device :
             test::cuda_variants(example.batch, example.height, example.width)) {
            INFO(describe(device, example));
            const Tolerances tolerances = tolerances_of(device.precision);
            const auto engine = make_engine(device);
            const auto result = test::run_rollout(*engine, example);
            for (int step = 1; step <= options.steps; ++step) {
                INFO("after step " << step);
                REQUIRE(error_of(result.states[step], test::state_after(drawn.expected, step),
                                 tolerances.states) <= 1);
            }
            REQUIRE(error_of(result.gradients.weights, drawn.expected.grad_weights.all,
                             tolerances.grad_weights) <= 1);
            REQUIRE(error_of(result.gradients.first, grad_first, tolerances.grad_first) <= 1);
            REQUIRE(test::run_advance(*engine, example) == result.states.back());
        }
    }
}

TEST_CASE("all forms of a precision give the same bits, alone or as one of sixteen", "[cuda]") {
    if (skipped()) return;
    for (const CaseOptions& options : cases()) {
        const Case example = test::random_case(options, 1);
        for (const Device& device :
             test::cuda_variants(example.batch, example.height, example.width)) {
            INFO(describe(device, example));
            Device by_steps = device, shared = device;
            by_steps.rollout = RolloutForm::steps;
            shared.sharers = 16;
            const auto first = test::run_rollout(*make_engine(device), example);
            REQUIRE((test::run_rollout(*make_engine(device), example) == first));
            REQUIRE((test::run_rollout(*make_engine(by_steps), example) == first));
            REQUIRE((test::run_rollout(*make_engine(shared), example) == first));
        }
    }
}

TEST_CASE("trainings in every precision and form repeat to the bit and follow the exact one",
          "[cuda]") {
    if (skipped()) return;
    TrainingConfig config = preset("growing");
    config.batch = 3;
    config.fewest_steps = 6;
    config.most_steps = 9;
    config.target_size = 14;
    config.padding = 3;
    Image target = {14, 14, std::vector<std::uint8_t>(14 * 14 * 4), true};
    for (std::size_t i = 0; i < target.pixels.size(); ++i) {
        target.pixels[i] = static_cast<std::uint8_t>(i % 4 == 3 ? 255 : i * 37);
    }
    const auto losses_and_weights = [&](const Device& device) {
        Trainer trainer(target, config, device);
        std::vector<float> result;
        for (int i = 0; i < 4; ++i) result.push_back(float(trainer.iterate().loss));
        const Model model = trainer.model();
        result.insert(result.end(), model.weights.all().begin(), model.weights.all().end());
        return result;
    };
    const auto exact = losses_and_weights(Device::cuda());
    for (const Device& device : test::cuda_variants(config.batch, config.grid(), config.grid())) {
        INFO(name(device.precision) << ", form " << int(device.rollout));
        const auto result = losses_and_weights(device);
        REQUIRE(losses_and_weights(device) == result);
        for (int i = 0; i < 4; ++i) {
            INFO("iteration " << i);
            REQUIRE(std::abs(result[i] - exact[i]) <= 0.02 * exact[i]);
        }
    }
}
