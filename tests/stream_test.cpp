// SPDX-License-Identifier: MIT
// Steps that stream, executed on a CPU: grids of any size and state, with strips divided in many
// ways among the warps.
#include "cuda/rule/model.hpp"
#include "cuda/step/stream_plan.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/precision_errors.hpp"
#include "tests/support/tensor_device.hpp"

#include <nca/engine.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

using namespace nca;
using executor::Interleaving;
using executor::Order;
using test::BlockSchedule;
using test::Case;
using test::CaseOptions;
using test::cuda_device;
using test::relative_error;
using test::Start;
using test::TensorDevice;

namespace {

constexpr Precision streamed[] = {Precision::precise, Precision::fast};

std::string describe(const CaseOptions& options, Precision precision) {
    return std::to_string(options.batch) + " x " + std::to_string(options.height) + " x " +
           std::to_string(options.width) + ", " + std::string(name(precision));
}

// With and without a tape, against double.
void require_right(const Case& drawn, Precision precision) {
    const auto engine = make_engine(cuda_device(precision, RolloutForm::steps));
    const test::RolloutResult result = test::run_rollout(*engine, drawn);
    const double error = test::errors_of(result, drawn).states;
    INFO("relative error " << error);
    REQUIRE(error <= test::tolerance(precision, drawn.options.steps));
    REQUIRE(test::run_advance(*engine, drawn) == result.states.back());
}

// A case whose states are times a number, in some rows of a grid or in all.
Case scaled_case(const CaseOptions& options, float factor, bool all_rows) {
    Case drawn = test::random_case(options, 4);
    const auto row = static_cast<std::size_t>(options.width) * channels;
    for (std::size_t i = 0; i < drawn.state.size(); ++i) {
        if (all_rows || i / row % 7 == 3) drawn.state[i] *= factor;
    }
    return drawn;
}

}  // namespace

TEST_CASE("streamed grids of every size agree with double") {
    const TensorDevice device(3);
    int number = 0;
    for (const int width : {1, 2, 3, 5, 26, 27, 28, 29, 30, 31, 32, 33, 40, 56, 57, 60}) {
        for (const int height : {1, 2, 3, 5, 9, 40}) {
            if (height * width > 600) continue;
            ++number;
            CaseOptions options = {.height = height, .width = width, .batch = 1 + number % 2};
            options.steps = 1 + number % 3;
            options.edges = number % 2 == 0 ? Edges::circular : Edges::zero;
            options.life = number / 2 % 2 == 0 ? Life::post : Life::pre_and_post;
            options.start = number % 5 == 0 ? Start::patch : Start::random;
            options.output_bias = number % 3 != 0;
            options.empty_alpha = number % 4 == 0 ? 0.2F : 0.02F;
            const Case drawn = test::random_case(options, static_cast<std::uint32_t>(number));
            for (const Precision precision : streamed) {
                INFO(describe(options, precision));
                require_right(drawn, precision);
            }
        }
    }
}

TEST_CASE("streamed states of every kind agree with double") {
    const TensorDevice device(2);
    const std::vector<CaseOptions> cases = {
        {.height = 23, .width = 61, .steps = 3, .fire_rate = 1, .step_size = 0.5F},
        {.height = 23, .width = 61, .steps = 3, .fire_rate = 0},
        {.height = 23, .width = 61, .steps = 4, .fire_rate = 0.03F, .start = Start::random},
        {.height = 18, .width = 59, .steps = 4, .start = Start::empty, .empty_alpha = 0.2F},
        {.height = 18,
         .width = 59,
         .steps = 5,
         .edges = Edges::zero,
         .life = Life::pre_and_post,
         .start = Start::empty,
         .empty_alpha = 0.3F},
        {.height = 31, .width = 58, .steps = 6, .life = Life::pre_and_post, .start = Start::seed},
        {.height = 31,
         .width = 58,
         .batch = 2,
         .steps = 3,
         .edges = Edges::zero,
         .life = Life::pre_and_post,
         .fire_rate = 0.9F,
         .start = Start::random,
         .output_scale = 0.2F}};
    for (const CaseOptions& options : cases) {
        const Case drawn = test::random_case(options, 9);
        for (const Precision precision : streamed) {
            INFO(describe(options, precision) << ", fire rate " << options.fire_rate);
            require_right(drawn, precision);
        }
    }
}

TEST_CASE("a row of 65537 columns and a column of 2000 rows are streamed") {
    const TensorDevice device(8);
    const auto exact = make_engine(cuda_device(Precision::exact, RolloutForm::steps));
    const CaseOptions wide = {.height = 1, .width = 65537, .steps = 1, .start = Start::random};
    const CaseOptions high = {
        .height = 2000, .width = 1, .steps = 1, .edges = Edges::zero, .start = Start::random};
    for (const CaseOptions& options : {wide, high}) {
        const Case drawn = test::random_case(options, 1);
        const std::vector<float> expected = test::run_advance(*exact, drawn);
        for (const Precision precision : streamed) {
            INFO(describe(options, precision));
            const auto engine = make_engine(cuda_device(precision, RolloutForm::steps));
            REQUIRE(relative_error(test::run_advance(*engine, drawn), expected) <=
                    test::tolerance(precision, 1));
        }
    }
}

TEST_CASE("streamed states may be large or small") {
    const TensorDevice device(2);
    const CaseOptions options = {
        .height = 25, .width = 37, .steps = 1, .life = Life::pre_and_post, .start = Start::random};
    for (const bool all_rows : {true, false}) {
        for (const float factor : {1e-5F, 1e-3F, 0.5F, 100.0F, 3000.0F, 60000.0F}) {
            const Case drawn = scaled_case(options, factor, all_rows);
            INFO("times " << factor << (all_rows ? "" : " in some rows"));
            for (const Precision precision : streamed) require_right(drawn, precision);
        }
        for (const float factor : {1e6F, 1e20F, 1e30F}) {
            INFO("times " << factor << (all_rows ? "" : " in some rows"));
            require_right(scaled_case(options, factor, all_rows), Precision::precise);
        }
    }
}

TEST_CASE("streamed bits do not depend on who has a strip") {
    CaseOptions options = {.height = 33,
                           .width = 62,
                           .batch = 2,
                           .steps = 2,
                           .life = Life::pre_and_post,
                           .start = Start::random};
    for (const float factor : {1.0F, 1000.0F}) {
        const Case drawn = scaled_case(options, factor, false);
        for (const Precision precision : streamed) {
            INFO(describe(options, precision) << ", some rows times " << factor);
            const auto run = [&](int multiprocessors) {
                const TensorDevice device(multiprocessors);
                const auto engine = make_engine(cuda_device(precision, RolloutForm::steps));
                return test::run_advance(*engine, drawn);
            };
            const std::vector<float> expected = run(1);
            REQUIRE(run(13) == expected);
            for (const Order order : {Order::forward, Order::reverse}) {
                const BlockSchedule schedule(order, Interleaving::as_far_as_possible);
                REQUIRE(run(2) == expected);
            }
            const BlockSchedule schedule(Order::forward, Interleaving::random, 5);
            REQUIRE(run(2) == expected);
        }
    }
}

namespace {

// One row of full strips and a bit more, in which one element is as given.
Case case_with(float element) {
    Case drawn = test::random_case(
        {.height = 9, .width = 64, .steps = 1, .fire_rate = 1, .start = Start::random}, 2);
    drawn.state[(4 * 64 + 30) * channels + 7] = element;
    return drawn;
}

}  // namespace

TEST_CASE("what is large or not finite in a streamed state changes nothing far from it") {
    const TensorDevice device(2);
    for (const Precision precision : streamed) {
        const auto engine = make_engine(cuda_device(precision, RolloutForm::steps));
        const std::vector<float> expected = test::run_advance(*engine, case_with(0.5F));
        for (const float element :
             {std::nanf(""), std::numeric_limits<float>::infinity(), 1e30F, 1e6F, 6e4F, 70.0F}) {
            const std::vector<float> states = test::run_advance(*engine, case_with(element));
            REQUIRE(states != expected);
            for (int cell = 0; cell < 9 * 64; ++cell) {
                if (std::max(std::abs(cell / 64 - 4), std::abs(cell % 64 - 30)) < 3) continue;
                const auto first = static_cast<std::size_t>(cell) * channels;
                for (std::size_t c = first; c < first + channels; ++c) {
                    REQUIRE(states[c] == expected[c]);
                }
            }
        }
    }
}

TEST_CASE("what is not a number in a streamed state is not one where exact has none") {
    const TensorDevice device(2);
    const Case drawn = case_with(std::nanf(""));
    const auto exact = make_engine(cuda_device(Precision::exact, RolloutForm::steps));
    const std::vector<float> expected = test::run_advance(*exact, drawn);
    for (const Precision precision : streamed) {
        const auto engine = make_engine(cuda_device(precision, RolloutForm::steps));
        const std::vector<float> states = test::run_advance(*engine, drawn);
        int numbers = 0;
        for (std::size_t i = 0; i < states.size(); ++i) {
            REQUIRE(std::isnan(states[i]) == std::isnan(expected[i]));
            if (std::isnan(states[i])) continue;
            ++numbers;
            REQUIRE(std::abs(states[i] - expected[i]) <= 64 * test::tolerance(precision, 1));
        }
        REQUIRE(numbers == static_cast<int>(states.size()) - 1);
    }
}

TEST_CASE("filters that are rotated are streamed") {
    const TensorDevice device(2);
    const auto exact = make_engine(cuda_device(Precision::exact, RolloutForm::steps));
    for (const float angle : {30.0F, 90.0F, 225.0F}) {
        Case drawn = test::random_case(
            {.height = 19, .width = 35, .steps = 3, .life = Life::pre_and_post}, 1);
        drawn.rule = drawn.rule.rotated(angle);
        REQUIRE(cuda::has_sobel_filters(drawn.rule));
        const std::vector<float> in_exact = test::run_advance(*exact, drawn);
        for (const Precision precision : streamed) {
            require_right(drawn, precision);
            const auto engine = make_engine(cuda_device(precision, RolloutForm::steps));
            REQUIRE(test::run_advance(*engine, drawn) != in_exact);
        }
    }
}

TEST_CASE("filters that are not Sobel's are computed in exact whatever the precision") {
    const TensorDevice device(2);
    const Case drawn = test::random_case(
        {.height = 19, .width = 35, .steps = 3, .own_filters = true, .start = Start::random}, 1);
    const auto exact = make_engine(cuda_device(Precision::exact, RolloutForm::steps));
    const std::vector<float> expected = test::run_advance(*exact, drawn);
    for (const Precision precision : streamed) {
        const auto engine = make_engine(cuda_device(precision, RolloutForm::steps));
        REQUIRE(test::run_advance(*engine, drawn) == expected);
    }
}

TEST_CASE("a plan has every cell once, and no warp much more than others") {
    using cuda::BatchShape;
    using cuda::StreamPlan;
    for (const BatchShape& grid :
         {BatchShape{1, 1, 1}, BatchShape{1, 1, 65537}, BatchShape{1, 65537, 1},
          BatchShape{3, 40, 72}, BatchShape{64, 256, 256}, BatchShape{1, 4096, 4096},
          BatchShape{1, 16384, 16384}}) {
        for (const int warps : {1, 5, 132 * 10, 132 * 12}) {
            INFO(grid.batch << " x " << grid.height << " x " << grid.width << ", " << warps);
            const StreamPlan plan = cuda::plan_stream(grid, warps);
            REQUIRE(plan.strips == (grid.width + 27) / 28);
            REQUIRE((plan.segments - 1) * plan.rows < grid.height);
            REQUIRE(plan.segments * plan.rows >= grid.height);
            REQUIRE(plan.items == grid.batch * plan.strips * plan.segments);
        }
    }
    // All of an H200's warps have something to do, and little is done twice.
    const StreamPlan plan = cuda::plan_stream({1, 4096, 4096}, 132 * 12);
    const int turns = (plan.items + 132 * 12 - 1) / (132 * 12);
    REQUIRE(plan.items >= 0.9 * turns * 132 * 12);
    REQUIRE(plan.rows >= 100);
}
