// SPDX-License-Identifier: MIT
// Predictions are close to what was measured, and change with sizes, clock and form.
#include "benchmarks/prediction.hpp"

#include "tests/support/catch.hpp"

#include <cmath>
#include <string>

using namespace nca;
using namespace nca::bench;

namespace {

const Gpu h200;

RolloutCase rollout_of(int side, double rows, Precision precision, RolloutForm form) {
    return {.batch = 8,
            .height = side,
            .width = side,
            .steps = 80,
            .precision = precision,
            .form = form,
            .forward_rows = rows,
            .backward_rows = rows};
}

// After 500 iterations on data/lizard.png, rows of a step by the operations that bench_step
// counted.
RolloutCase notebook(Precision precision, RolloutForm form) {
    return rollout_of(40, 1480, precision, form);
}
RolloutCase growing(Precision precision, RolloutForm form) {
    return rollout_of(72, 1550, precision, form);
}

bool is_near(double seconds, double measured_ms, double part) {
    return std::abs(seconds * 1e3 / measured_ms - 1) <= part;
}

}  // namespace

TEST_CASE("predictions are what an H200 took") {
    constexpr auto steps = RolloutForm::steps, bands = RolloutForm::bands;
    constexpr auto exact = Precision::exact, precise = Precision::precise, fast = Precision::fast;
    const struct {
        const char* what;
        RolloutCase rollout;
        double training_ms;
        double forward_ms;  // 0: not measured in this form
    } measured[] = {
        {"notebook, exact, steps", notebook(exact, steps), 2.72, 0.901},
        {"notebook, fast, steps", notebook(fast, steps), 1.29, 0},
        {"growing, exact, steps", growing(exact, steps), 3.04, 1.149},
        {"growing, fast, steps", growing(fast, steps), 2.15, 0},
        {"notebook, precise, bands", notebook(precise, bands), 0.551, 0},
        {"notebook, fast, bands", notebook(fast, bands), 0.424, 0},
        {"growing, precise, bands", growing(precise, bands), 0.676, 0},
        {"growing, fast, bands", growing(fast, bands), 0.513, 0},
    };
    for (const auto& m : measured) {
        INFO(m.what);
        REQUIRE(is_near(predicted_training(h200, m.rollout), m.training_ms, 0.02));
        if (m.forward_ms == 0) continue;
        REQUIRE(is_near(predicted_forward(h200, m.rollout), m.forward_ms, 0.02));
    }
    const RolloutCase large = {
        .height = 4096, .width = 4096, .precision = exact, .forward_rows = 4096.0 * 4096 / 2};
    REQUIRE(is_near(predicted_forward(h200, large), 6.12, 0.02));
}

TEST_CASE("a step of large grids takes as long as its bytes or its instructions") {
    constexpr double cells = 4096.0 * 4096;
    constexpr double slow_copy = 1e9, endless_copy = 1e30;
    constexpr double launch = 4e-6;
    const Gpu slow = {.clock = h200.clock / 2};
    for (const Precision precision : all_precisions) {
        // Memory decides, and no clock.
        for (const Gpu& gpu : {h200, slow}) {
            const double moving = predicted_step(gpu, cells, precision, slow_copy);
            REQUIRE(std::abs(moving - (cells * 16 * 4 * 2 / slow_copy + launch)) <= 1e-9);
        }
        // The issue of instructions decides: four a cycle and multiprocessor.
        const double issuing = predicted_step(h200, cells, precision, endless_copy);
        const double warp_instructions = step_instructions(precision) * cells / 128;
        REQUIRE(std::abs(issuing - (warp_instructions / (132 * 4 * 1.98e9) + launch)) <= 1e-9);
        REQUIRE(std::abs(predicted_step(slow, cells, precision, endless_copy) -
                         (2 * issuing - launch)) <= 1e-9);
    }
    REQUIRE(step_instructions(Precision::fast) < step_instructions(Precision::precise));
    REQUIRE(step_instructions(Precision::precise) < step_instructions(Precision::exact));
}

TEST_CASE("a step of a large grid in exact takes longer than its instructions") {
    const double measured = 6.12e-3, copy_rate = 3.906e12;  // of an H200
    const double predicted = predicted_step(h200, 4096.0 * 4096, Precision::exact, copy_rate);
    REQUIRE(predicted < measured);
    REQUIRE(predicted > measured / 2);
}

TEST_CASE("more clusters than the device holds wait for a second wave") {
    RolloutCase rollout = notebook(Precision::precise, RolloutForm::bands);
    const auto forward_of = [&](int batch) {
        rollout.forward_rows *= double(batch) / rollout.batch;
        rollout.batch = batch;
        return predicted_forward(h200, rollout);
    };
    const double one = forward_of(1);
    REQUIRE(std::abs(forward_of(15) / one - 1) <= 1e-9);
    REQUIRE(forward_of(16) / one > 1.8);
    REQUIRE(std::abs(forward_of(30) / forward_of(16) - 1) <= 1e-9);
}

TEST_CASE("a grid of fewer rows has fewer bands, and more such clusters fit") {
    RolloutCase rollout = notebook(Precision::fast, RolloutForm::bands);
    rollout.height = 24;  // eight bands of three rows
    const double whole = predicted_training(h200, rollout);
    rollout.height /= 2;  // four bands
    rollout.forward_rows /= 2;
    rollout.backward_rows /= 2;
    REQUIRE(std::abs(predicted_training(h200, rollout) / whole - 1) <= 1e-9);
    const auto forward_of = [&](int batch) {
        rollout.forward_rows *= double(batch) / rollout.batch;
        rollout.batch = batch;
        return predicted_forward(h200, rollout);
    };
    const double one = forward_of(1);
    REQUIRE(std::abs(forward_of(30) / one - 1) <= 1e-9);
    REQUIRE(forward_of(31) / one > 1.8);
}

TEST_CASE("engines side by side count their part of the device each") {
    RolloutCase rollout = notebook(Precision::precise, RolloutForm::bands);
    const double alone = predicted_training(h200, rollout);
    rollout.engines_on_device = 16;
    const double shared = predicted_training(h200, rollout);
    REQUIRE(shared < 0.6 * alone);
    REQUIRE(shared > 8.0 / 15 * (alone - 50e-6));
}

TEST_CASE("more cells, more rows or a slower clock take longer") {
    for (const RolloutForm form : {RolloutForm::steps, RolloutForm::bands}) {
        for (const Precision precision : {Precision::precise, Precision::fast}) {
            const RolloutCase rollout = notebook(precision, form);
            const double usual = predicted_forward_backward(h200, rollout);
            RolloutCase alive = rollout, wide = rollout;
            alive.forward_rows = alive.backward_rows = 8 * 800;
            wide.width = 128;
            REQUIRE(predicted_forward_backward(h200, alive) > 1.1 * usual);
            REQUIRE(predicted_forward_backward(h200, wide) > 1.1 * usual);
            const double slow = predicted_forward_backward({.clock = h200.clock / 2}, rollout);
            REQUIRE(slow > 1.8 * usual);
            REQUIRE(slow <= 2 * usual);
        }
    }
}
