// SPDX-License-Identifier: MIT
// Every precision and form of rollout that a CUDA device can have, on a device. Each has test cases
// and a tag of its own, such as [fast-bands], so that it can be run in a process of its own: a
// kernel that hangs or faults stops no other tests. The executor's tests of them are in
// tensor_engine_test.cpp.
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
#include <string_view>
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

struct Variant {
    std::string_view text;
    Precision precision;
    RolloutForm form;
};

Device device_of(const Variant& variant) {
    Device device = Device::cuda();
    device.precision = variant.precision;
    device.rollout = variant.form;
    return device;
}

// Why the variant cannot run such a batch on this machine; empty where it can.
std::string obstacle(const Variant& variant, int batch, int height, int width) {
    try {
        const Device device = device_of(variant);
        const ChosenForm chosen = make_engine(device)->rollout_form(batch, height, width);
        return chosen.form == device.rollout ? "" : chosen.text;
    } catch (const Error& error) {
        return error.what();
    }
}

// Runs work where the variant can be had, for any of so many grids; says that it is skipped where
// it can for none.
class Grids {
public:
    explicit Grids(const Variant& variant) : variant_(variant) {}
    template <class Work>
    void run(int batch, int height, int width, Work work) {
        const std::string problem = obstacle(variant_, batch, height, width);
        if (!problem.empty()) {
            problem_ = problem;
            return;
        }
        any_ = true;
        INFO(variant_.text << ", " << batch << "x" << height << "x" << width);
        work(device_of(variant_));
    }
    void done() const {
        if (!any_) WARN("skipped: " << variant_.text << " cannot be had here: " << problem_);
    }

private:
    const Variant& variant_;
    bool any_ = false;
    std::string problem_;
};

template <class Values>
double error_of(const Values& actual, const std::vector<double>& expected, double tolerance) {
    REQUIRE(test::largest_magnitude(expected) > 0);
    return test::worst_error(actual, expected,
                             {tolerance * test::largest_magnitude(expected), tolerance});
}

void agrees_with_the_reference(const Variant& variant) {
    Grids grids(variant);
    const Tolerances tolerances = tolerances_of(variant.precision);
    for (const CaseOptions& options : cases()) {
        grids.run(options.batch, options.height, options.width, [&](const Device& device) {
            const Drawn drawn = draw(options);
            const Case& example = drawn.example;
            std::vector<double> grad_first;
            for (const auto& grid : drawn.expected.grad_first) {
                grad_first.insert(grad_first.end(), grid.values.begin(), grid.values.end());
            }
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
        });
    }
    grids.done();
}

// Steps forward of grids of several strips and segments, in which some rows are large, against
// exact. Here and there a cell lives by its rounding, and another does not.
void streams_as_exact_steps(const Variant& variant) {
    Grids grids(variant);
    const CaseOptions options = {.height = 150,
                                 .width = 130,
                                 .batch = 2,
                                 .steps = 3,
                                 .life = Life::pre_and_post,
                                 .start = Start::random,
                                 .empty_alpha = 0.3F};
    grids.run(options.batch, options.height, options.width, [&](const Device& device) {
        for (const Edges edges : {Edges::circular, Edges::zero}) {
            Case example = test::random_case(options, 3);
            example.rule.edges = edges;
            const std::size_t row = std::size_t(options.width) * channels;
            for (std::size_t i = 0; i < example.state.size(); ++i) {
                if (i / row % 40 == 7 && i % channels > alpha_channel) example.state[i] *= 100;
            }
            Device exact = device;
            exact.precision = Precision::exact;
            const auto expected = test::run_advance(*make_engine(exact), example);
            const auto engine = make_engine(device);
            const auto result = test::run_advance(*engine, example);
            REQUIRE(test::run_advance(*engine, example) == result);
            REQUIRE(result != expected);
            const double most = variant.precision == Precision::fast ? 1e-2 : 1e-3;
            REQUIRE(test::relative_error(result, expected) <= most);
        }
    });
    grids.done();
}

void repeats_to_the_bit(const Variant& variant) {
    Grids grids(variant);
    for (const CaseOptions& options : cases()) {
        grids.run(options.batch, options.height, options.width, [&](const Device& device) {
            const Case example = test::random_case(options, 1);
            Device shared = device;
            shared.engines_on_device = 16;
            const auto first = test::run_rollout(*make_engine(device), example);
            REQUIRE((test::run_rollout(*make_engine(device), example) == first));
            REQUIRE((test::run_rollout(*make_engine(shared), example) == first));
        });
    }
    grids.done();
}

void trains_repeatably(const Variant& variant) {
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
    Grids grids(variant);
    grids.run(config.batch, config.grid(), config.grid(), [&](const Device& device) {
        Device exact_device = Device::cuda();
        exact_device.precision = Precision::exact;
        const auto exact = losses_and_weights(exact_device);
        const auto result = losses_and_weights(device);
        REQUIRE(losses_and_weights(device) == result);
        for (int i = 0; i < 4; ++i) {
            INFO("iteration " << i);
            REQUIRE(std::abs(result[i] - exact[i]) <= 0.02 * exact[i]);
        }
    });
    grids.done();
}

}  // namespace

#define NCA_TEST_VARIANT(precision, form)                                                         \
    TEST_CASE(#precision "/" #form " agrees with the reference",                                  \
              "[cuda][gradients][" #precision "-" #form "]") {                                    \
        agrees_with_the_reference(                                                                \
            {#precision "/" #form, Precision::precision, RolloutForm::form});                     \
    }                                                                                             \
    TEST_CASE(#precision "/" #form " repeats to the bit, alone or as one of sixteen",             \
              "[cuda][" #precision "-" #form "]") {                                               \
        repeats_to_the_bit({#precision "/" #form, Precision::precision, RolloutForm::form});      \
    }                                                                                             \
    TEST_CASE(#precision "/" #form " trains to the same bits again and follows the exact engine", \
              "[cuda][" #precision "-" #form "]") {                                               \
        trains_repeatably({#precision "/" #form, Precision::precision, RolloutForm::form});       \
    }

TEST_CASE("precise/steps streams as exact steps", "[cuda][precise-steps]") {
    streams_as_exact_steps({"precise/steps", Precision::precise, RolloutForm::steps});
}
TEST_CASE("fast/steps streams as exact steps", "[cuda][fast-steps]") {
    streams_as_exact_steps({"fast/steps", Precision::fast, RolloutForm::steps});
}

NCA_TEST_VARIANT(exact, steps)
NCA_TEST_VARIANT(precise, steps)
NCA_TEST_VARIANT(precise, bands)
NCA_TEST_VARIANT(fast, steps)
NCA_TEST_VARIANT(fast, bands)
