// SPDX-License-Identifier: MIT
// Iterations that fail, and how a training goes back to its anchor.
#include "tests/support/trainer.hpp"

#include <nca/error.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

using namespace nca;
using namespace nca::test;
using Catch::Matchers::ContainsSubstring;

namespace {

bool all_finite(std::span<const float> values) {
    return std::ranges::all_of(values, [](float value) { return std::isfinite(value); });
}

}  // namespace

TEST_CASE("training with a learning rate of 10 recovers until it works", "[long]") {
    for (const Device& device : devices_to_train_on()) {
        for (const char* name : both_presets) {
            TrainingConfig config = small_config(name);
            config.learning_rate = 10;
            config.fewest_steps = 12;
            config.most_steps = 16;
            Trainer trainer(small_picture(), config, device);
            INFO(trainer.engine().description() << ", " << name);
            double first = 0, last = 0;
            int recoveries = 0;
            for (int i = 0; i < 200; ++i) {
                const IterationReport report = trainer.iterate();
                REQUIRE(report.iteration == i);
                const double scheduled =
                    10 * (config.schedule == Schedule::exponential ? std::pow(0.9999, i) : 1);
                REQUIRE(std::abs(report.learning_rate / scheduled * std::ldexp(1, recoveries) -
                                 1) <= 1e-12);
                recoveries += !report.recovery.empty();
                REQUIRE(all_finite(trainer.model().weights.all()));
                if (i < 1) first += report.loss;
                if (i >= 190) last += report.loss / 10;
            }
            REQUIRE(recoveries >= 5);
            REQUIRE(last <= 0.5 * first);
        }
    }
}

namespace {

TrainingConfig all_fire_config() {
    TrainingConfig config = small_config("growing");
    config.rule.fire_rate = 1;
    return config;
}

// Nothing changes and the loss is an ordinary one. But a hidden unit has this value at the start
// cell, and with it the gradients of the second layer are large.
Weights with_large_gradient(float value) {
    Weights weights(true);
    weights.view().w1[visible_channels * filter_count] = value;
    return weights;
}

}  // namespace

TEST_CASE("an iteration that fails in any way is noticed, reported and recovered from") {
    const std::pair<Weights, std::string> bad[] = {
        {adding(alpha_channel, -10), "every sample of the batch died"},
        {adding(0, 1e30F), "the loss is not finite"},
        {adding(0, 100), "the loss is"},
        {with_large_gradient(1e25F), "the gradient's norm is"},
        {with_large_gradient(3e38F), "the gradient's norm is"},
    };
    for (const Device& device : devices_to_train_on()) {
        for (const auto& [weights, reason] : bad) {
            Prepared run(all_fire_config(), device, weights);
            const Parameters& anchor = run.checkpoint.anchor;
            const IterationReport report = run.iterate();
            INFO(run.trainer.engine().description() << ": " << report.recovery);
            REQUIRE_THAT(report.recovery, ContainsSubstring(reason) &&
                                              ContainsSubstring("last good weights") &&
                                              ContainsSubstring("learning rate times 0.5"));
            REQUIRE((report.dead == 2) == (reason == bad[0].second));
            REQUIRE(run.trainer.iteration() == 1);

            const Checkpoint after = inside(run.trainer);
            REQUIRE(after.current.weights == anchor.weights);
            REQUIRE(after.current.first_moments == anchor.first_moments);
            REQUIRE(after.current.second_moments == anchor.second_moments);
            REQUIRE(after.current.updates == anchor.updates);
            REQUIRE(after.progress.recent_losses == run.checkpoint.progress.recent_losses);
            REQUIRE(after.progress.recoveries == 1);
            REQUIRE(after.progress.failures == 1);
            REQUIRE(run.trainer.model().weights == anchor.weights);

            const IterationReport next = run.trainer.iterate();
            REQUIRE(next.recovery.empty());
            REQUIRE(next.learning_rate == report.learning_rate / 2);
        }
    }
}

TEST_CASE("an update that makes a weight infinite is taken back at once") {
    TrainingConfig config = small_config("notebook");
    config.learning_rate = 3e38F;
    Trainer trainer(small_picture(), config, any_device());
    const Weights start = trainer.model().weights;
    REQUIRE_THAT(trainer.iterate().recovery, ContainsSubstring("a weight that is not finite"));
    REQUIRE(trainer.model().weights == start);
    REQUIRE(inside(trainer).current.weights == start);
}

TEST_CASE("the dead of a batch are counted, and some do not stop the training") {
    TrainingConfig config = small_config("growing");
    config.seed = 2;
    config.batch = 8;
    config.fewest_steps = 1;
    config.most_steps = 2;
    const std::uint32_t middle = std::uint32_t(config.grid() / 2 * (config.grid() + 1));
    for (const Device& device : devices_to_train_on()) {
        for (const int recoveries : {0, 1}) {
            Prepared run(config, device, adding(alpha_channel, -10));
            run.checkpoint.progress.recoveries = recoveries;
            const FireKey key{fire_seed(config, recoveries)};
            int expected = 0;
            for (std::uint32_t sample = 0; sample < 8; ++sample) {
                expected += fires(key, 0.5F, 0, sample, middle);
            }
            REQUIRE(expected > 0);
            REQUIRE(expected < 8);
            const IterationReport report = run.iterate();
            REQUIRE(report.dead == expected);
            REQUIRE(report.recovery.empty());
        }
    }
}

TEST_CASE("training that fails thirteen times in a row gives up and keeps good weights") {
    const Weights killing = adding(alpha_channel, -10);
    for (const Device& device : devices_to_train_on()) {
        Prepared run(all_fire_config(), device, killing);
        run.checkpoint.anchor = run.checkpoint.current;
        REQUIRE_FALSE(run.iterate().recovery.empty());
        for (int i = 1; i < 12; ++i) REQUIRE_FALSE(run.trainer.iterate().recovery.empty());
        for (int again = 0; again < 2; ++again) {
            REQUIRE_THAT(message_of<Error>([&] { run.trainer.iterate(); }),
                         ContainsSubstring("every sample of the batch died") &&
                             ContainsSubstring("iteration 12") &&
                             ContainsSubstring("lower learning rate"));
            REQUIRE(all_finite(run.trainer.model().weights.all()));
        }
    }
}

TEST_CASE("training whose every update explodes gives up, and its model is the last good one") {
    for (const char* name : both_presets) {
        TrainingConfig config = small_config(name);
        config.rule.step_size = 1e12F;
        Trainer trainer(small_picture(), config, any_device());
        const Weights start = trainer.model().weights;
        int recoveries = 0;
        const std::string message = message_of<Error>([&] {
            for (int i = 0; i < 100; ++i) recoveries += !trainer.iterate().recovery.empty();
        });
        REQUIRE_THAT(message,
                     ContainsSubstring("failed 13 times") && ContainsSubstring("the loss is"));
        REQUIRE(recoveries == 12);
        REQUIRE(trainer.model().weights == start);
    }
}

namespace {

// The loss of an empty grid, for the growing preset and the small picture.
double blank_loss() {
    const auto target = make_target(small_picture(), small_config("growing"));
    return plain_loss(std::vector<float>(target.size() / visible_channels * channels), target);
}

}  // namespace

TEST_CASE("a hundred good iterations make earlier failures forgiven, and not one fewer") {
    for (const bool learnt : {false, true}) {
        const int enough = learnt ? 100 : 600;
        for (const int good : {enough - 2, enough - 1}) {
            Prepared run(small_config("growing"), any_device(), Weights(true));
            run.checkpoint.progress.learnt = learnt;
            run.checkpoint.progress.recent_losses.assign(
                99,
                0.7 * blank_loss());  // neither stuck nor learnt
            run.checkpoint.progress.failures = 12;
            run.checkpoint.progress.good_iterations = good;
            REQUIRE(run.iterate().recovery.empty());
            REQUIRE(inside(run.trainer).progress.failures == (good == enough - 1 ? 0 : 12));
        }
    }
}

TEST_CASE("a loss that stays at a blank image's is noticed, in time and not before") {
    for (const Device& device : devices_to_train_on()) {
        for (const bool learnt : {false, true}) {
            for (const int warmup : {0, 50}) {
                for (const bool in_time : {false, true}) {
                    TrainingConfig config = small_config("persistent");
                    config.warmup = warmup;
                    config.rule.fire_rate = 0;
                    Prepared run(config, device, adding(5, 0.125F));
                    run.checkpoint.anchor = Parameters(adding(6, 0.5F));
                    run.checkpoint.progress.learnt = learnt;
                    run.checkpoint.progress.recent_losses.assign(100, 0.9);
                    run.checkpoint.progress.failures = 3;
                    run.checkpoint.progress.good_iterations =
                        warmup + (learnt ? 99 : 499) - !in_time;
                    const IterationReport report = run.iterate();
                    const Checkpoint after = inside(run.trainer);
                    INFO(report.recovery);
                    REQUIRE(after.progress.recoveries == in_time);
                    REQUIRE(after.progress.failures == 3 + in_time);
                    REQUIRE(run.trainer.iteration() == 1);
                    if (!in_time) {
                        REQUIRE(report.recovery.empty());
                        REQUIRE(after.current.weights == run.checkpoint.current.weights);
                        continue;
                    }
                    REQUIRE_THAT(report.recovery, ContainsSubstring("that of a blank image is") &&
                                                      ContainsSubstring(learnt ? "last good weights"
                                                                               : "new weights") &&
                                                      ContainsSubstring("a pool of start cells"));
                    REQUIRE(report.reset == config.pool);
                    REQUIRE(after.progress.good_iterations == 0);
                    // Back to good weights, or on with new ones.
                    if (learnt) {
                        REQUIRE(after.current.weights == run.checkpoint.anchor.weights);
                    } else {
                        require_uniform(after.current.weights.all().subspan(0, w1_size),
                                        std::sqrt(6.0 / (48 + 128)));
                        REQUIRE(after.current.weights != initial(config));
                    }
                    REQUIRE(after.current.updates == 0);
                }
            }
        }
    }
}

TEST_CASE("iterations that grow nothing do not make earlier failures forgiven") {
    for (const double loss : {1e-3, 0.9}) {
        TrainingConfig config = small_config("growing");
        config.warmup = 7;
        config.rule.fire_rate = 0;
        Prepared run(config, any_device(), Weights(true));
        run.checkpoint.progress.learnt = true;
        run.checkpoint.progress.recent_losses.assign(100, loss);
        run.checkpoint.progress.failures = 12;
        run.checkpoint.progress.good_iterations = 110;
        REQUIRE(run.iterate().recovery.empty());
        REQUIRE(inside(run.trainer).progress.failures == (loss == 1e-3 ? 0 : 12));
    }
}

TEST_CASE("a few batches that went wild are not taken for a run that is stuck") {
    for (const int wild : {48, 50}) {
        TrainingConfig config = small_config("growing");
        config.rule.fire_rate = 0;
        Prepared run(config, any_device(), Weights(true));
        run.checkpoint.progress.learnt = true;
        run.checkpoint.progress.recent_losses.assign(std::size_t(100), 1e-3);
        std::fill_n(run.checkpoint.progress.recent_losses.begin() + 1, wild, 900.0);
        run.checkpoint.progress.good_iterations = 4999;
        REQUIRE(run.iterate().recovery.empty() == (wild == 48));
    }
}

TEST_CASE("a run has learnt once a hundred losses lie clearly below a blank image's") {
    const double blank = blank_loss();
    for (const double share : {0.4, 0.6}) {
        for (const int good : {98, 99}) {
            TrainingConfig config = small_config("growing");
            config.rule.fire_rate = 0;
            Prepared run(config, any_device(), Weights(true));
            // The iteration to come adds the last one, about a blank image's loss.
            run.checkpoint.progress.recent_losses.assign(99, share * blank);
            run.checkpoint.progress.good_iterations = good;
            REQUIRE(run.iterate().recovery.empty());
            REQUIRE(inside(run.trainer).progress.learnt == (share == 0.4 && good == 99));
        }
    }
}

TEST_CASE("weights from a run that is losing what it had learnt do not become the anchor") {
    for (const double loss : {1e-3, 0.9}) {
        const Weights current = adding(5, 0.125F);
        Prepared run(small_config("growing"), any_device(), current);
        run.checkpoint.progress.learnt = true;
        run.checkpoint.progress.recent_losses.assign(100, loss);
        run.checkpoint.progress.good_iterations = 50;
        run.iterate();
        REQUIRE((inside(run.trainer).anchor.weights == current) == (loss == 1e-3));
    }
}

TEST_CASE("every fifty good iterations the anchor moves to the weights before the update") {
    for (const int good : {49, 50, 51, 100}) {
        const Weights current = adding(5, 0.125F);
        Prepared run(small_config("growing"), any_device(), current);
        run.checkpoint.progress.good_iterations = good;
        run.checkpoint.current.updates = 77;
        REQUIRE(run.iterate().recovery.empty());
        const Parameters anchor = inside(run.trainer).anchor;
        REQUIRE((anchor.weights == current) == (good % 50 == 0));
        REQUIRE((anchor.updates == 77) == (good % 50 == 0));
    }
}

TEST_CASE("a target that is all but transparent makes the batch die, and training says so") {
    Image nothing = small_picture();
    std::ranges::fill(nothing.pixels, std::uint8_t{0});
    nothing.pixel(0, 0)[3] = 30;  // far from the start cell, and hardly above the threshold
    Trainer trainer(nothing, small_config("growing"), any_device());
    std::string said;
    const std::string gave_up = message_of<Error>([&] {
        for (int i = 0; i < 300 && said.empty(); ++i) said = trainer.iterate().recovery;
    });
    REQUIRE_THAT(said + gave_up, ContainsSubstring("every sample of the batch died"));
}
