// SPDX-License-Identifier: MIT
// Losses at random steps: what is drawn, and that nothing else of a training depends on them.
#include "host/iteration/loss_steps.hpp"
#include "tests/support/trainer.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

using namespace nca;
using namespace nca::test;

namespace {

TrainingConfig with_range(TrainingConfig config, int earliest, int latest) {
    config.earliest_loss_step = earliest;
    config.latest_loss_step = latest;
    return config;
}

}  // namespace

TEST_CASE("without a range no step of the loss is drawn") {
    REQUIRE(draw_loss_steps(preset("growing"), 1, 2, 70).empty());
}

TEST_CASE("steps of the loss are drawn uniformly, for each sample anew") {
    const TrainingConfig config = with_range(preset("growing"), 48, 96);
    constexpr int draws = 20000;
    std::map<int, int> times;
    int equal = 0;
    for (int iteration = 0; iteration < draws / 8; ++iteration) {
        const std::vector<int> steps = draw_loss_steps(config, 5, iteration, 95);
        REQUIRE(steps.size() == 8);
        for (const int step : steps) ++times[step];
        for (std::size_t i = 1; i < steps.size(); ++i) equal += steps[i] == steps[i - 1];
    }
    // Within five standard deviations of a binomial distribution.
    const auto usual = [](int got, double all, double chance) {
        return std::abs(got - all * chance) <= 5 * std::sqrt(all * chance * (1 - chance));
    };
    REQUIRE(times.size() == 48);
    REQUIRE(times.begin()->first == 48);
    REQUIRE(times.rbegin()->first == 95);
    for (const auto& [step, got] : times) REQUIRE(usual(got, draws, 1.0 / 48));
    REQUIRE(usual(equal, draws * 7.0 / 8, 1.0 / 48));
}

TEST_CASE("steps of the loss depend on seed and iteration, and end with the rollout") {
    const TrainingConfig config = with_range(preset("growing"), 48, 96);
    REQUIRE(draw_loss_steps(config, 5, 7, 95) == draw_loss_steps(config, 5, 7, 95));
    REQUIRE(draw_loss_steps(config, 5, 7, 95) != draw_loss_steps(config, 6, 7, 95));
    REQUIRE(draw_loss_steps(config, 5, 7, 95) != draw_loss_steps(config, 5, 8, 95));
    std::vector<int> drawn;
    for (int iteration = 0; iteration < 100; ++iteration) {
        const std::vector<int> steps = draw_loss_steps(config, 5, iteration, 50);
        drawn.insert(drawn.end(), steps.begin(), steps.end());
    }
    REQUIRE(std::ranges::min(drawn) == 48);
    REQUIRE(std::ranges::max(drawn) == 50);
    // A warm-up may end the rollout before the range begins.
    REQUIRE(draw_loss_steps(config, 5, 7, 12) == std::vector<int>(8, 12));
}

TEST_CASE("losses after the last step are those of a training without a range, to the bit") {
    for (const Device& device : engines_to_test()) {
        for (const char* name : {"notebook", "regenerating"}) {
            TrainingConfig config = small_config(name);
            config.most_steps = config.fewest_steps + 1;
            Trainer without(small_picture(), config, device);
            Trainer with(small_picture(),
                         with_range(config, config.fewest_steps, config.most_steps), device);
            for (int i = 0; i < 3; ++i) {
                REQUIRE(with.iterate().loss == without.iterate().loss);
            }
            REQUIRE(with.model().weights == without.model().weights);
            REQUIRE(with.pool_states(99) == without.pool_states(99));
        }
    }
}

TEST_CASE("a training with losses at random steps is resumed with the same bits") {
    const TemporaryDirectory folder;
    for (const Device& device : engines_to_test()) {
        const TrainingConfig config = with_range(small_config("regenerating"), 2, 5);
        Trainer whole(small_picture(), config, device);
        for (int i = 0; i < 3; ++i) whole.iterate();
        whole.save_checkpoint(folder / "a.checkpoint");
        for (int i = 0; i < 3; ++i) whole.iterate();
        Trainer resumed(small_picture(), config, device);
        resumed.resume(folder / "a.checkpoint");
        for (int i = 0; i < 3; ++i) resumed.iterate();
        REQUIRE(resumed.model().weights == whole.model().weights);
        REQUIRE(resumed.pool_states(99) == whole.pool_states(99));
    }
}

TEST_CASE("the pool gets the last states, however early the loss is") {
    // The check of the pool in trainer_test.cpp holds for last states and losses of their own.
    for (const Device& device : engines_to_test()) {
        TrainingConfig config = small_config("persistent");
        config.earliest_loss_step = 1;
        config.latest_loss_step = 2;
        Trainer trainer(small_picture(), config, device);
        const Checkpoint before = inside(trainer);
        const IterationReport report = trainer.iterate();
        REQUIRE(report.steps >= config.fewest_steps);
        require_pool_after(trainer, report, before, inside(trainer));
    }
}
