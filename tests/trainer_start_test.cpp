// SPDX-License-Identifier: MIT
// How a training starts: its weights, and the steps and learning rates of its iterations.
#include "tests/support/trainer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

using namespace nca;
using Catch::Matchers::ContainsSubstring;
using namespace nca::test;

namespace {

void require_zero(std::span<const float> values) {
    REQUIRE(std::ranges::all_of(values, [](float value) { return value == 0; }));
}

}  // namespace

TEST_CASE("the notebook preset starts from PyTorch's weights and a second layer of zeros") {
    const Weights weights = initial(small_config("notebook"));
    REQUIRE_FALSE(weights.has_output_bias());
    const auto all = weights.all();
    const double bound = 1 / std::sqrt(48.0);
    require_uniform(all.subspan(0, w1_size), bound);
    require_uniform(all.subspan(w1_size, b1_size), bound);
    require_zero(all.subspan(w1_size + b1_size));
}

TEST_CASE("the growing preset starts from Glorot's weights and biases and second layer of zeros") {
    const Weights weights = initial(small_config("growing"));
    REQUIRE(weights.has_output_bias());
    const auto all = weights.all();
    require_uniform(all.subspan(0, w1_size), std::sqrt(6.0 / (48 + 128)));
    require_zero(all.subspan(w1_size));
}

TEST_CASE("the seed decides the initial weights, and neighbours are independent") {
    TrainingConfig config = small_config("notebook");
    const Weights first = initial(config);
    REQUIRE(initial(config) == first);
    config.seed = 1;
    const Weights second = initial(config);
    double products = 0, shifted = 0;
    const auto a = first.all(), b = second.all();
    for (std::size_t i = 0; i + 1 < w1_size; ++i) {
        products += double(a[i]) * b[i] * perception * 3;
        shifted += double(a[i]) * a[i + 1] * perception * 3;
    }
    // Correlations of so many independent values, five standard errors.
    REQUIRE(std::abs(products / double(w1_size)) <= 5 / std::sqrt(double(w1_size)));
    REQUIRE(std::abs(shifted / double(w1_size)) <= 5 / std::sqrt(double(w1_size)));
}

TEST_CASE("steps are uniform in 64 to 95 and learning rates follow their schedules") {
    for (const char* name : both_presets) {
        TrainingConfig config = preset(name);
        config.target_size = 8;
        config.padding = 0;
        config.batch = 1;
        config.rule.fire_rate = 0;  // nothing to compute
        // The host draws both, and the CPU engine skips what does not fire.
        Trainer trainer(small_picture(), config, Device::cpu(1));
        const Weights start = trainer.model().weights;
        std::map<int, int> drawn;
        constexpr int iterations = 2100;
        for (int i = 0; i < iterations; ++i) {
            if (i % 400 == 399) {  // before it is taken for stuck, which it is
                Checkpoint checkpoint = inside(trainer);
                checkpoint.progress.good_iterations = 0;
                resume_from(trainer, checkpoint);
            }
            const IterationReport report = trainer.iterate();
            REQUIRE(report.iteration == i);
            REQUIRE(report.recovery.empty());
            ++drawn[report.steps];
            const double expected = config.schedule == Schedule::exponential
                                        ? 2e-3 * std::pow(0.9999, i)
                                        : (i < 2000 ? 2e-3 : 2e-4);
            // 2e-3 is a float.
            REQUIRE(std::abs(report.learning_rate / expected - 1) <= 1e-7);
        }
        REQUIRE(trainer.iteration() == iterations);
        REQUIRE(trainer.model().weights == start);
        REQUIRE(drawn.size() == 32);
        REQUIRE(drawn.begin()->first == 64);
        REQUIRE(drawn.rbegin()->first == 95);
        double chi_squared = 0;
        for (const auto& [steps, count] : drawn) {
            chi_squared += std::pow(count - iterations / 32.0, 2) / (iterations / 32.0);
        }
        REQUIRE(chi_squared <= 31 + 5 * std::sqrt(2 * 31.0));
    }
}

TEST_CASE("a warm-up lets the steps rise from an eighth to their full number") {
    TrainingConfig config = small_config("growing");
    config.fewest_steps = 64;
    config.most_steps = 65;
    config.warmup = 8;
    config.rule.fire_rate = 0;
    Trainer trainer(small_picture(), config, any_device());
    for (const int expected : {8, 15, 22, 29, 36, 43, 50, 57, 64, 64}) {
        REQUIRE(trainer.iterate().steps == expected);
    }
    // It begins again after a recovery.
    Checkpoint checkpoint = inside(trainer);
    checkpoint.progress.good_iterations = 0;
    resume_from(trainer, checkpoint);
    REQUIRE(trainer.iterate().steps == 8);
}

TEST_CASE("every sample and every state of the pool starts from the cells that are given") {
    for (const Device& device : devices_to_train_on()) {
        for (const std::string_view name : {"growing", "regenerating", "notebook"}) {
            TrainingConfig config = small_config(name);
            for (const auto& cells : std::vector<std::vector<Place>>{
                     {}, {{3, 4}}, {{0, 0}, {11, 11}, {5, 6}, {5, 7}, {11, 0}}}) {
                config.start_cells = cells;
                const Trainer trainer(small_picture(), config, device);
                const std::vector<double> start = start_states(config)[0].values;
                std::vector<float> expected;
                for (int i = 0; i < config.batch; ++i) {
                    expected.insert(expected.end(), start.begin(), start.end());
                }
                REQUIRE(trainer.states_before() == expected);
                for (int i = config.batch; i < config.pool; ++i) {
                    expected.insert(expected.end(), start.begin(), start.end());
                }
                if (config.pool > 0) REQUIRE(trainer.pool_states(config.pool) == expected);
            }
        }
    }
}

TEST_CASE("the middle named is the middle, and the order of start cells does not matter") {
    for (const Device& device : devices_to_train_on()) {
        for (const std::string_view name : {"growing", "regenerating"}) {
            const auto trained = [&](const std::vector<Place>& cells) {
                TrainingConfig config = small_config(name);
                config.start_cells = cells;
                Trainer trainer(small_picture(), config, device);
                for (int i = 0; i < 3; ++i) trainer.iterate();
                return std::pair(trainer.model().weights, trainer.states_after());
            };
            const auto in_the_middle = trained({});
            REQUIRE((trained({{6, 6}}) == in_the_middle));
            const auto of_two = trained({{4, 5}, {7, 7}});
            REQUIRE((trained({{7, 7}, {4, 5}}) == of_two));
            REQUIRE((of_two != in_the_middle));
        }
    }
}
