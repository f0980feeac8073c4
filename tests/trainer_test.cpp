// SPDX-License-Identifier: MIT
// Whole iterations: against the double reference, and that their bits do not depend on threads or
// on where a run was resumed.
#include "tests/support/trainer.hpp"
#include "host/iteration/loss_steps.hpp"
#include "host/iteration/pool.hpp"
#include "host/reference/adam.hpp"
#include "host/reference/rollout.hpp"
#include "tests/support/cases.hpp"
#include "tests/support/compare.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

using namespace nca;
using namespace nca::test;

namespace {

// Where the tolerances come from: see engine_test.cpp. Rounding one operation errs by at most unit,
// relatively, and the errors in a sum of n terms are as good as independent.
constexpr double unit = 0x1p-24;
double rounding(double terms) { return std::sqrt(terms) * unit; }
const double step_terms = 9 + perception + hidden + 1;

// The batch that an iteration starts from, as the paper's program makes it: sorted by loss, the
// worst replaced, circles cut out of the best. The draws are the trainer's (pool_test.cpp).
std::vector<reference::SampleState<double>> batch_states(const Checkpoint& before) {
    const TrainingConfig& config = before.config;
    auto states = start_states(config);
    if (config.pool == 0) return states;
    const std::uint32_t seed = fire_seed(config, before.progress.recoveries);
    const auto samples = sample_pool(seed, before.progress.iteration, config.pool, config.batch);
    const auto circles = draw_damage(config, seed, before.progress.iteration);
    std::multimap<float, int> by_loss;  // equal ones in the order in which they came
    for (int i = 0; i < config.batch; ++i) by_loss.emplace(before.pool.loss(samples[i]), i);
    int rank = 0;
    for (const auto& [loss, i] : by_loss) {
        if (rank == config.batch - 1) break;  // stays the start cell
        const std::vector<float> state = dense(before.pool, samples[i]);
        states[i].values.assign(state.begin(), state.end());
        for (int cell = 0; cell < states[i].cells() && rank < config.damaged; ++cell) {
            const double dy = cell / config.grid() - double(circles[rank].y);
            const double dx = cell % config.grid() - double(circles[rank].x);
            if (std::hypot(dy, dx) < circles[rank].radius) {
                std::fill_n(states[i].cell(cell), channels, 0.0);
            }
        }
        ++rank;
    }
    return states;
}

// Whether a cell may live, or a hidden unit be on, in floats and not in double, or the other way
// round: within a float32 error. That of a pre-activation is relative to the sum of its terms'
// magnitudes. One that is exactly zero is so in floats, too.
bool near_a_kink(const Rule& rule, const reference::WeightValues<double>& weights,
                 const std::vector<reference::SampleTape<double>>& rollouts) {
    const auto magnitude = [](auto& values) {
        for (auto& value : values) value = std::abs(value);
    };
    Rule positive_rule = rule;
    for (Filter& filter : positive_rule.filters) magnitude(filter);
    auto positive_weights = weights;
    magnitude(positive_weights.all);

    test::Margins found;
    for (const auto& rollout : rollouts) {
        for (int t = 0; t < rollout.steps(); ++t) {
            const auto& state = rollout.states[t];
            found.look_at(state, rule.edges);
            found.look_at(reference::update(rule, weights, state, rollout.fire[t]), rule.edges);
            auto positive_state = state;
            magnitude(positive_state.values);
            const auto perceived = reference::perceive(rule, state);
            const auto magnitudes = reference::perceive(positive_rule, positive_state);
            for (std::size_t cell = 0; cell < std::size_t(state.cells()); ++cell) {
                if (!rollout.fire[t][cell]) continue;
                const auto a = reference::network(weights, &perceived[cell * perception]).a;
                const auto scale =
                    reference::network(positive_weights, &magnitudes[cell * perception]).a;
                for (int j = 0; j < hidden; ++j) {
                    if (a[j] != 0) found.relu = std::min(found.relu, std::abs(a[j]) / scale[j]);
                }
            }
        }
    }
    return found.alpha < 3e-6 || found.relu < 1e-6;
}

reference::WeightValues<double> to_double(const std::vector<float>& values, bool output_bias) {
    reference::WeightValues<double> result(output_bias);
    result.all.assign(values.begin(), values.end());
    return result;
}

// The weights and moments after an update, and how far a float32 trainer may be from them.
struct Updated {
    reference::WeightValues<double> weights, first_moments, second_moments;
};

Updated update(const Parameters& before, reference::WeightValues<double> gradients,
               const AdamOptions& options) {
    const bool output_bias = before.weights.has_output_bias();
    Updated after{reference::WeightValues<double>(before.weights),
                  to_double(before.first_moments, output_bias),
                  to_double(before.second_moments, output_bias)};
    reference::adam(after.weights, after.first_moments, after.second_moments, gradients, options);
    return after;
}

// How far each value may be from the expected one: as far as the gradients' errors move it, and
// some roundings of the value itself.
std::vector<double> allowed(const std::vector<double>& expected, const std::vector<double>& low,
                            const std::vector<double>& high, double roundings) {
    std::vector<double> result;
    for (std::size_t i = 0; i < expected.size(); ++i) {
        result.push_back(std::max(std::abs(low[i] - expected[i]), std::abs(high[i] - expected[i])) +
                         roundings * unit * std::abs(expected[i]));
    }
    return result;
}

// The largest error as a share of its tolerance; infinite where a value is not finite.
double worst_share(std::span<const float> actual, const std::vector<double>& expected,
                   const std::vector<double>& tolerance) {
    double worst = 0;
    if (actual.size() != expected.size()) worst = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < std::min(actual.size(), expected.size()); ++i) {
        if (actual[i] == expected[i]) continue;
        const double share = std::abs(actual[i] - expected[i]) / tolerance[i];
        worst = share <= worst      ? worst
                : std::isnan(share) ? std::numeric_limits<double>::infinity()
                                    : share;
    }
    return worst;
}

// Requires the weights and moments that an update with these gradients leaves. The gradients of a
// float32 trainer have this relative error.
void require_update(const Parameters& before, const Parameters& after,
                    const reference::WeightValues<double>& gradients, double relative,
                    const AdamOptions& options) {
    auto low = gradients, high = gradients;
    const auto& moments = before.first_moments;
    for (const ParameterTensor& tensor : parameter_tensors(before.weights.has_output_bias())) {
        const auto values = std::span(gradients.all).subspan(tensor.offset, tensor.size);
        const double scale = test::largest_magnitude(values);
        for (std::size_t i = tensor.offset; i < tensor.offset + tensor.size; ++i) {
            const double g = gradients.all[i];
            if (g == 0) continue;  // a sum of zeros in floats too
            // The rounding of the first moment is as good as one of the gradient.
            const double error = relative * (scale + std::abs(g)) +
                                 4 * unit * (std::abs(g) + 9 * std::abs(double(moments[i])));
            low.all[i] = g - error;
            high.all[i] = g + error;
        }
    }
    const Updated expected = update(before, gradients, options);
    const Updated lowest = update(before, low, options);
    const Updated highest = update(before, high, options);
    REQUIRE(worst_share(after.first_moments, expected.first_moments.all,
                        allowed(expected.first_moments.all, lowest.first_moments.all,
                                highest.first_moments.all, 4)) <= 1);
    REQUIRE(worst_share(after.second_moments, expected.second_moments.all,
                        allowed(expected.second_moments.all, lowest.second_moments.all,
                                highest.second_moments.all, 8)) <= 1);
    auto tolerance = allowed(expected.weights.all, lowest.weights.all, highest.weights.all, 1);
    std::size_t sharp = 0;
    for (std::size_t i = 0; i < tolerance.size(); ++i) {
        const double step = expected.weights.all[i] - double(before.weights.all()[i]);
        tolerance[i] += 16 * unit * std::abs(step);  // a dozen roundings
        sharp += tolerance[i] <= 1e-2 * options.learning_rate;
    }
    REQUIRE(worst_share(after.weights.all(), expected.weights.all, tolerance) <= 1);
    // Where the terms of a gradient cancel, Adam makes an update of rounding errors. That must be
    // rare.
    REQUIRE(sharp >= tolerance.size() * 9 / 10);
}

// Runs one iteration and compares all that it did with the double reference. The reference starts
// from the trainer's own weights and moments, so that no error of an earlier iteration is
// amplified. False, and nothing is checked, where the rollout comes near a kink.
bool iteration_agrees(Trainer& trainer) {
    const TrainingConfig& config = trainer.config();
    const Checkpoint before = inside(trainer);
    const IterationReport report = trainer.iterate();
    const Checkpoint after = inside(trainer);
    INFO(trainer.engine().description()
         << ", " << config.preset << ", iteration " << report.iteration);
    REQUIRE(report.iteration == before.progress.iteration);
    REQUIRE(report.steps >= config.fewest_steps);
    REQUIRE(report.steps < config.most_steps);
    REQUIRE(report.recovery.empty());
    REQUIRE(after.progress.iteration == before.progress.iteration + 1);
    REQUIRE(after.current.updates == before.current.updates + 1);
    REQUIRE(trainer.model().weights == before.current.weights);

    const reference::WeightValues<double> weights(before.current.weights);
    const auto starts = batch_states(before);
    std::vector<float> taken;
    for (const auto& state : starts) {
        taken.insert(taken.end(), state.values.begin(), state.values.end());
    }
    REQUIRE(trainer.states_before() == taken);
    const std::uint32_t seed = fire_seed(config, before.progress.recoveries);
    const reference::GradientCheck check(
        config.rule, weights, starts, make_target(small_picture(), config),
        {report.steps, {seed, std::uint32_t(report.iteration)}},
        draw_loss_steps(config, seed, report.iteration, report.steps));
    if (near_a_kink(config.rule, weights, check.tapes())) return false;

    double largest = 0;
    int dead = 0;
    for (const auto& rollout : check.tapes()) {
        for (const auto& state : rollout.states) {
            largest = std::max(largest, test::largest_magnitude(state.values));
        }
        dead += reference::count_living(rollout.last()) == 0;
    }
    REQUIRE(report.dead == dead);
    require_pool_after(trainer, report, before, after);
    const double cells = double(config.grid()) * config.grid();
    const double loss = check.loss();
    // The derivative of a mean of squares, by Cauchy and Schwarz, and the sum itself.
    REQUIRE(std::abs(report.loss - loss) <=
            2 * std::sqrt(loss) * rounding(report.steps * step_terms) * largest +
                rounding(cells * visible_channels) * loss);

    // A gradient sums over all cells and steps, each at the end of a chain there and back.
    const double rows = cells * config.batch * report.steps;
    const double relative = rounding(2 * report.steps * step_terms + rows);
    auto gradients = check.gradients().weights;
    const auto norms = reference::tensor_norms(gradients);
    double norm = 0;
    for (const double n : norms) norm = std::hypot(norm, n);
    REQUIRE(norm > 1e-4);
    REQUIRE(std::abs(report.gradient_norm - norm) <= relative * norm);

    if (config.normalise_gradients) reference::normalise(gradients);
    const AdamOptions options{.learning_rate = float(report.learning_rate),
                              .update = after.current.updates};
    require_update(before.current, after.current, gradients, relative, options);
    return true;
}

// Three iterations with some seed that keeps away from the kinks.
void require_three_iterations(TrainingConfig config, const Device& device) {
    bool agreed = false;
    while (!agreed && ++config.seed < 20) {
        Trainer trainer(small_picture(), config, device);
        agreed =
            iteration_agrees(trainer) && iteration_agrees(trainer) && iteration_agrees(trainer);
    }
    REQUIRE(agreed);
}

}  // namespace

TEST_CASE("three training iterations agree with the double reference") {
    for (const Device& device : test::engines_to_test()) {
        for (const std::string_view name : all_presets) {
            require_three_iterations(small_config(name), device);
        }
    }
}

TEST_CASE("iterations with losses at random steps agree with the double reference") {
    for (const Device& device : test::engines_to_test()) {
        for (const char* name : {"notebook", "regenerating"}) {
            require_three_iterations(with_loss_steps(small_config(name)), device);
        }
    }
}

TEST_CASE("iterations from several start cells agree with the double reference") {
    for (const Device& device : devices_to_train_on()) {
        TrainingConfig config = small_config("regenerating");
        config.start_cells = {{4, 3}, {8, 9}, {0, 11}};
        bool agreed = false;
        while (!agreed && ++config.seed < 20) {
            Trainer trainer(small_picture(), config, device);
            agreed = iteration_agrees(trainer) && iteration_agrees(trainer);
        }
        REQUIRE(agreed);  // else no seed keeps away from the kinks
    }
}

TEST_CASE("an iteration after recoveries agrees with the double reference") {
    for (const Device& device : devices_to_train_on()) {
        TrainingConfig config = small_config("regenerating");
        bool agreed = false;
        while (!agreed && ++config.seed < 20) {
            Trainer trainer(small_picture(), config, device);
            trainer.iterate();
            trainer.iterate();
            // Adam has made fewer updates than there were iterations.
            Checkpoint checkpoint = inside(trainer);
            checkpoint.progress.recoveries = 3;
            checkpoint.progress.iteration = 9;
            resume_from(trainer, checkpoint);
            agreed = iteration_agrees(trainer);
        }
        REQUIRE(agreed);  // else no seed keeps away from the kinks
    }
}

TEST_CASE("the check against the reference fails for one wrong value") {
    const std::vector<double> expected = {1, 2, 3};
    const auto tolerance = allowed(expected, {1, 2 - 1e-6, 3}, {1 + 1e-6, 2, 3}, 1);
    const auto share = [&](const std::vector<float>& actual) {
        return worst_share(actual, expected, tolerance);
    };
    REQUIRE(share({1, 2, 3}) == 0);
    REQUIRE(share({1, 2 - 0.9e-6F, 3}) <= 1);
    REQUIRE(share({1, 2 - 1.5e-6F, 3}) > 1);
    REQUIRE(share({1, 2, 3.000001F}) > 1);
    REQUIRE(share({1, 2}) > 1);
    REQUIRE(share({std::nanf(""), 2, 3}) > 1);
    REQUIRE(share({std::nanf(""), 2 - 0.9e-6F, 3}) > 1);
}

TEST_CASE("sixty iterations lower the loss of a small picture to less than half", "[long]") {
    for (const Device& device : devices_to_train_on()) {
        for (const std::string_view name : all_presets) {
            TrainingConfig config = small_config(name);
            config.fewest_steps = 12;
            config.most_steps = 16;
            Trainer trainer(small_picture(), config, device);
            double first = 0, last = 0;
            for (int i = 0; i < 60; ++i) {
                const IterationReport report = trainer.iterate();
                REQUIRE(report.recovery.empty());
                REQUIRE(report.dead <= config.damaged);
                if (i < 5) first += report.loss;
                if (i >= 55) last += report.loss;
            }
            INFO(trainer.engine().description() << ", " << name << ": " << first << ", " << last);
            REQUIRE(last <= 0.5 * first);
        }
    }
}

TEST_CASE("one seed gives one result on 1, 2 and 7 threads and in every run") {
    for (const std::string_view name : all_presets) {
        TrainingConfig config = small_config(name);
        config.target_size = 15;
        config.batch = 3;
        config.fewest_steps = 6;
        config.most_steps = 9;
        const auto train = [&](const Device& device) {
            Trainer trainer(small_picture(), config, device);
            std::vector<double> numbers;
            for (int i = 0; i < 4; ++i) {
                const IterationReport report = trainer.iterate();
                numbers.insert(numbers.end(), {report.loss, report.gradient_norm});
            }
            return std::pair(numbers, test::checkpoint_bytes(trainer));
        };
        const auto expected = train(any_device());
        for (const Device& device : test::engines_to_test()) {
            if (device.kind == any_device().kind) {
                REQUIRE(train(device) == expected);
            } else {
                REQUIRE(train(device) == train(device));
            }
        }
        ++config.seed;
        REQUIRE(train(any_device()) != expected);
    }
}

namespace {

// All regimes, one of them with a warm-up, one with two start cells, and one that keeps recovering.
std::vector<TrainingConfig> configs_to_resume() {
    std::vector<TrainingConfig> configs;
    for (const std::string_view name : all_presets) configs.push_back(small_config(name));
    configs[1].warmup = 12;
    configs[3].start_cells = {{4, 5}, {8, 7}};
    configs.push_back(small_config("regenerating"));
    configs.back().learning_rate = 10;
    return configs;
}

}  // namespace

TEST_CASE("a run resumed from any checkpoint ends with the bits of one that never stopped",
          "[long]") {
    constexpr int iterations = 20;
    for (const Device& device : devices_to_train_on()) {
        for (const TrainingConfig& config : configs_to_resume()) {
            const test::TemporaryDirectory folder;
            const auto checkpoint = [&](int i) { return folder / std::to_string(i); };
            Trainer straight(small_picture(), config, device);
            straight.set_target_name("leaf.png");
            std::vector<IterationReport> reports;
            std::map<int, Model> models;  // what the run would end with where it was saved
            int recoveries = 0;
            for (int i = 0; i < iterations; ++i) {
                if (i % 4 == 1) {
                    straight.save_checkpoint(checkpoint(i));
                    models[i] = straight.model();
                }
                reports.push_back(straight.iterate());
                recoveries += !reports.back().recovery.empty();
            }
            straight.save_checkpoint(checkpoint(iterations));
            models[iterations] = straight.model();
            REQUIRE((recoveries >= 4) == (config.learning_rate == 10));

            for (const auto& [i, model] : models) {
                INFO(straight.engine().description() << ", from iteration " << i);
                Trainer resumed(small_picture(), config, device);
                // What the trainer did before must not matter.
                if (i == 5) resumed.iterate();
                resumed.resume(checkpoint(i));
                REQUIRE(resumed.iteration() == i);
                REQUIRE(resumed.model().weights == model.weights);
                REQUIRE(resumed.model().history == model.history);
                while (resumed.iteration() < iterations) {
                    const IterationReport expected = reports[std::size_t(resumed.iteration())];
                    const IterationReport report = resumed.iterate();
                    REQUIRE(report.steps == expected.steps);
                    REQUIRE(report.loss == expected.loss);
                    REQUIRE(report.learning_rate == expected.learning_rate);
                    REQUIRE(report.gradient_norm == expected.gradient_norm);
                    REQUIRE(report.reset == expected.reset);
                    REQUIRE(report.recovery == expected.recovery);
                }
                resumed.save_checkpoint(folder / "resumed");
                REQUIRE(test::read_bytes(folder / "resumed") ==
                        test::read_bytes(checkpoint(iterations)));
                REQUIRE(resumed.model().weights == straight.model().weights);
                REQUIRE(resumed.model().history == straight.model().history);
                REQUIRE(resumed.recent_losses() == straight.recent_losses());
            }
        }
    }
}

TEST_CASE("a model's history tells how it came to be") {
    TrainingConfig config = small_config("growing");
    config.seed = 7;
    Trainer trainer(small_picture(), config, any_device());
    TrainingHistory untrained = trainer.model().history;
    REQUIRE(std::isnan(untrained.loss));  // there is none yet
    untrained.loss = 0;
    REQUIRE(untrained == TrainingHistory{"growing", "", 0, 12, 12, 2, 0, 7});
    trainer.set_target_name("leaf.png");
    std::vector<double> losses;
    for (int i = 0; i < 130; ++i) losses.push_back(trainer.iterate().loss);
    const TrainingHistory history = trainer.model().history;
    const double mean = std::accumulate(losses.end() - 100, losses.end(), 0.0) / 100;
    REQUIRE(trainer.recent_losses() == std::vector<double>(losses.end() - 100, losses.end()));
    REQUIRE(std::abs(history.loss / mean - 1) <= 1e-12);
    REQUIRE(history == TrainingHistory{"growing", "leaf.png", 130, 12, 12, 2, history.loss, 7});
    REQUIRE(trainer.model().rule == config.rule);
    config.start_cells = {{3, 4}, {5, 6}};
    REQUIRE(Trainer(small_picture(), config, any_device()).model().history.start_cells ==
            config.start_cells);
}

TEST_CASE("a trainer that was moved from refuses to train, and the other one goes on") {
    Trainer first(small_picture(), small_config("growing"), any_device());
    first.iterate();
    Trainer second = std::move(first);
    REQUIRE(second.iterate().iteration == 1);
    REQUIRE_THROWS_AS(first.iterate(), InvalidArgument);
    REQUIRE_THROWS_AS(first.iteration(), InvalidArgument);
    REQUIRE_THROWS_AS(first.model(), InvalidArgument);
    first = Trainer(small_picture(), small_config("growing"), any_device());
    REQUIRE(first.iterate().iteration == 0);
}
