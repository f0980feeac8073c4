// SPDX-License-Identifier: MIT
#include <nca/trainer.hpp>

#include "host/iteration/pool.hpp"
#include "host/reference/adam.hpp"
#include "host/reference/rollout.hpp"
#include "tests/support/cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/compare.hpp"
#include "tests/support/engines.hpp"
#include "tests/support/training.hpp"

#include <nca/error.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <vector>

using namespace nca;
using Catch::Matchers::ContainsSubstring;
using test::any_device;
using test::devices_to_train_on;
using test::inside;
using test::message_of;
using test::resume_from;
using test::small_config;
using test::small_picture;

namespace {

constexpr const char* both_presets[] = {"notebook", "growing"};
constexpr const char* all_presets[] = {"notebook", "growing", "persistent", "regenerating"};

bool all_finite(std::span<const float> values) {
    return std::ranges::all_of(values, [](float value) { return std::isfinite(value); });
}

// After a recovery the fire masks are those of another seed.
std::uint32_t fire_seed(const TrainingConfig& config, int recoveries) {
    return config.seed + 0x9e3779b9U * std::uint32_t(recoveries);
}

Weights initial(const TrainingConfig& config) {
    return Trainer(small_picture(), config, any_device()).model().weights;
}

// Uniform in +-bound: every value within, both ends nearly reached, mean and variance as they are
// to be within five standard errors.
void require_uniform(std::span<const float> values, double bound) {
    const auto [least, largest] = std::ranges::minmax(values);
    const auto count = double(values.size());
    REQUIRE(largest <= bound * (1 + 1e-7));
    REQUIRE(least >= -bound * (1 + 1e-7));
    REQUIRE(largest >= bound * (1 - 10 / count));
    REQUIRE(least <= -bound * (1 - 10 / count));
    double sum = 0, squares = 0;
    for (const double value : values) sum += value, squares += value * value;
    const double variance = bound * bound / 3;
    REQUIRE(std::abs(sum / count) <= 5 * std::sqrt(variance / count));
    // The square of a uniform value has the variance 4/45 bound^4.
    REQUIRE(std::abs(squares / count - variance) <=
            5 * bound * bound * std::sqrt(4.0 / 45 / count));
}

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

namespace {

// Where the tolerances come from: see engine_test.cpp. Rounding one operation errs by at most unit,
// relatively, and the errors in a sum of n terms are as good as independent.
constexpr double unit = 0x1p-24;
double rounding(double terms) { return std::sqrt(terms) * unit; }
const double step_terms = 9 + perception + hidden + 1;

std::vector<reference::Grid<double>> start_states(const TrainingConfig& config) {
    reference::Grid<double> grid(config.grid(), config.grid());
    double* cell = grid.cell(config.grid() / 2 * config.grid() + config.grid() / 2);
    cell[alpha_channel] = 1;
    if (config.rule.start_cell == StartCell::alpha_and_hidden)
        std::fill(cell + visible_channels, cell + channels, 1.0);
    return std::vector<reference::Grid<double>>(std::size_t(config.batch), grid);
}

std::vector<float> dense(const StatePool& pool, int index) {
    std::vector<float> state(std::size_t(pool.cells()) * channels);
    pool.read(state, index);
    return state;
}

// The batch that an iteration starts from, as the paper's program makes it: sorted by loss, the
// worst replaced, circles cut out of the best. The draws are the trainer's (pool_test.cpp).
std::vector<reference::Grid<double>> batch_states(const Checkpoint& before) {
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

// Of a state in floats, by hand.
double plain_loss(const std::vector<float>& state, const std::vector<float>& target) {
    double squares = 0;
    for (std::size_t k = 0; k < target.size(); ++k) {
        const double value = state[k / visible_channels * channels + k % visible_channels];
        squares += (value - target[k]) * (value - target[k]);
    }
    return squares / double(target.size());
}

bool plain_living(const std::vector<float>& state) {
    for (std::size_t k = alpha_channel; k < state.size(); k += channels) {
        if (state[k] > 0.1F) return true;
    }
    return false;
}

// What an iteration left in the pool: at the places of its samples what it ended with, or the start
// cell where that is dead or exploded, and all else as it was.
void require_pool_after(const Trainer& trainer, const IterationReport& report,
                        const Checkpoint& before, const Checkpoint& after) {
    const TrainingConfig& config = before.config;
    if (config.pool == 0) return;
    const auto samples = sample_pool(fire_seed(config, before.progress.recoveries),
                                     before.progress.iteration, config.pool, config.batch);
    const std::vector<float> ends = trainer.states_after();
    const auto size = std::ptrdiff_t(ends.size()) / config.batch;
    const std::vector<double> start = start_states(config)[0].values;
    int reset = 1;
    for (int i = 0; i < config.pool; ++i) {
        const auto sample = std::ranges::find(samples, i);
        if (sample == samples.end()) {
            REQUIRE((after.pool.entry(i) == before.pool.entry(i)));
            continue;
        }
        const auto first = ends.begin() + (sample - samples.begin()) * size;
        std::vector<float> expected(first, first + size);
        if (!plain_living(expected) || plain_loss(expected, trainer.target()) > 1000) {
            expected.assign(start.begin(), start.end());
            ++reset;
        }
        REQUIRE(dense(after.pool, i) == expected);
        const double loss = plain_loss(expected, trainer.target());
        REQUIRE(std::abs(after.pool.loss(i) - loss) <= 1e-6 * loss);
    }
    REQUIRE(report.reset == reset);
}

// Whether a float may decide otherwise than a double whether a cell lives or a hidden unit is on.
// Both are looked at with room for a float32 error; that of a pre-activation is relative to the sum
// of its terms' magnitudes. One that is exactly zero is so in floats, too.
bool near_a_kink(const Rule& rule, const reference::Parameters<double>& weights,
                 const std::vector<reference::Rollout<double>>& rollouts) {
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

reference::Parameters<double> to_double(const std::vector<float>& values, bool output_bias) {
    reference::Parameters<double> result(output_bias);
    result.all.assign(values.begin(), values.end());
    return result;
}

// The weights and moments after an update, and how far a float32 trainer may be from them.
struct Updated {
    reference::Parameters<double> weights, first_moments, second_moments;
};

Updated update(const Parameters& before, reference::Parameters<double> gradients,
               const AdamOptions& options) {
    const bool output_bias = before.weights.has_output_bias();
    Updated after{reference::Parameters<double>(before.weights),
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

// Runs one iteration and holds all that it did against the double reference, which starts from the
// trainer's own weights and moments: so three iterations that agree one by one agree as a whole,
// and no error is amplified. False, and nothing is checked, where the rollout comes near a kink.
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

    const reference::Parameters<double> weights(before.current.weights);
    const auto starts = batch_states(before);
    std::vector<float> taken;
    for (const auto& state : starts) {
        taken.insert(taken.end(), state.values.begin(), state.values.end());
    }
    REQUIRE(trainer.states_before() == taken);
    const reference::GradientCheck check(
        config.rule, weights, starts, make_target(small_picture(), config),
        {report.steps,
         {fire_seed(config, before.progress.recoveries), std::uint32_t(report.iteration)}});
    if (near_a_kink(config.rule, weights, check.rollouts())) return false;

    double largest = 0;
    int dead = 0;
    for (const auto& rollout : check.rollouts()) {
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
    auto gradients = check.gradients().parameters;
    const auto norms = reference::tensor_norms(gradients);
    double norm = 0;
    for (const double n : norms) norm = std::hypot(norm, n);
    REQUIRE(norm > 1e-4);
    REQUIRE(std::abs(report.gradient_norm - norm) <= relative * norm);

    if (config.normalise_gradients) reference::normalise(gradients);
    const AdamOptions options{.learning_rate = float(report.learning_rate),
                              .update = after.current.updates};
    auto low = gradients, high = gradients;
    const auto& moments = before.current.first_moments;
    for (const ParameterTensor& tensor : parameter_tensors(config.output_bias)) {
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
    const Updated expected = update(before.current, gradients, options);
    const Updated lowest = update(before.current, low, options);
    const Updated highest = update(before.current, high, options);
    REQUIRE(worst_share(after.current.first_moments, expected.first_moments.all,
                        allowed(expected.first_moments.all, lowest.first_moments.all,
                                highest.first_moments.all, 4)) <= 1);
    REQUIRE(worst_share(after.current.second_moments, expected.second_moments.all,
                        allowed(expected.second_moments.all, lowest.second_moments.all,
                                highest.second_moments.all, 8)) <= 1);
    auto tolerance = allowed(expected.weights.all, lowest.weights.all, highest.weights.all, 1);
    std::size_t sharp = 0;
    for (std::size_t i = 0; i < tolerance.size(); ++i) {
        const double step = expected.weights.all[i] - weights.all[i];
        tolerance[i] += 16 * unit * std::abs(step);  // a dozen roundings
        sharp += tolerance[i] <= 1e-2 * report.learning_rate;
    }
    REQUIRE(worst_share(after.current.weights.all(), expected.weights.all, tolerance) <= 1);
    // Adam makes an update of rounding errors where a gradient cancels; that must be rare.
    REQUIRE(sharp >= tolerance.size() * 9 / 10);
    return true;
}

}  // namespace

TEST_CASE("three training iterations agree with the double reference") {
    for (const Device& device : test::engines_to_test()) {
        for (const char* name : all_presets) {
            TrainingConfig config = small_config(name);
            bool agreed = false;
            while (!agreed && ++config.seed < 20) {
                Trainer trainer(small_picture(), config, device);
                agreed = iteration_agrees(trainer) && iteration_agrees(trainer) &&
                         iteration_agrees(trainer);
            }
            REQUIRE(agreed);  // else no seed keeps away from the kinks
        }
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
        for (const char* name : all_presets) {
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
    for (const char* name : all_presets) {
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

// All regimes, one of them with a warm-up, and one that keeps recovering.
std::vector<TrainingConfig> configs_to_resume() {
    std::vector<TrainingConfig> configs;
    for (const char* name : all_presets) configs.push_back(small_config(name));
    configs[1].warmup = 12;
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
            int recoveries = 0;
            for (int i = 0; i < iterations; ++i) {
                if (i % 4 == 1) straight.save_checkpoint(checkpoint(i));
                reports.push_back(straight.iterate());
                recoveries += !reports.back().recovery.empty();
            }
            straight.save_checkpoint(folder / "end");
            REQUIRE((recoveries >= 4) == (config.learning_rate == 10));

            for (int i = 1; i < iterations; i += 4) {
                INFO(straight.engine().description() << ", from iteration " << i);
                Trainer resumed(small_picture(), config, device);
                // What the trainer did before must not matter.
                if (i == 5) resumed.iterate();
                resumed.resume(checkpoint(i));
                REQUIRE(resumed.iteration() == i);
                REQUIRE(resumed.model().weights == load_checkpoint(checkpoint(i)).current.weights);
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
                REQUIRE(test::read_bytes(folder / "resumed") == test::read_bytes(folder / "end"));
                REQUIRE(resumed.model().weights == straight.model().weights);
                REQUIRE(resumed.model().history == straight.model().history);
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
    REQUIRE(std::abs(history.loss / mean - 1) <= 1e-12);
    REQUIRE(history == TrainingHistory{"growing", "leaf.png", 130, 12, 12, 2, history.loss, 7});
    REQUIRE(trainer.model().rule == config.rule);
}

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

// A run in which every cell fires, and which recovers to the anchor if the next iteration fails.
struct Prepared {
    Prepared(const TrainingConfig& config, const Device& device, const Weights& current)
        : trainer(small_picture(), config, device), checkpoint(inside(trainer)) {
        checkpoint.current = Parameters(current);
        checkpoint.progress.recent_losses = {0.25};
    }
    IterationReport iterate() {
        resume_from(trainer, checkpoint);
        return trainer.iterate();
    }
    Trainer trainer;
    Checkpoint checkpoint;
};

TrainingConfig all_fire_config() {
    TrainingConfig config = small_config("growing");
    config.rule.fire_rate = 1;
    return config;
}

// Weights of the growing preset that add this to one channel of every cell that fires.
Weights adding(int channel, float value) {
    Weights weights(true);
    weights.view().b2[channel] = value;
    return weights;
}

// Nothing changes and the loss is an ordinary one, but a hidden unit reads this of a channel that
// is one in the start cell, and the gradients of the second layer with it.
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

// Of an empty grid, for the growing preset and the small picture.
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
                    // Back to what was good, or to something else than where it began.
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
            // The last one is that of the iteration to come, about a blank image's.
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

TEST_CASE("a sample that dies or explodes leaves the start cell in the pool") {
    for (const Device& device : devices_to_train_on()) {
        for (const auto& [channel, value] : {std::pair(alpha_channel, -10.0F), {0, 600.0F}}) {
            TrainingConfig config = small_config("persistent");
            config.batch = 7;  // the whole pool
            config.fewest_steps = 1;
            config.most_steps = 2;
            config.rule.fire_rate = 0.1F;  // two cells that fire are enough to explode
            int reset = 0;
            while (reset < 2 && ++config.seed < 20) {
                Prepared run(config, device, adding(channel, value));
                const IterationReport report = run.iterate();
                INFO(run.trainer.engine().description() << ": " << report.recovery);
                if (!report.recovery.empty()) continue;  // all of them, or too much on average
                require_pool_after(run.trainer, report, run.checkpoint, inside(run.trainer));
                reset = report.reset;
                REQUIRE(report.reset < 7);
                REQUIRE((channel == alpha_channel ? report.reset == report.dead + 1
                                                  : report.dead == 0));
            }
            REQUIRE(reset >= 2);  // else no seed has one
        }
    }
}

TEST_CASE("a recovery resets the pool") {
    for (const Device& device : devices_to_train_on()) {
        Prepared run(small_config("regenerating"), device, adding(0, 1e30F));
        const StatePool fresh = run.checkpoint.pool;
        for (int i = 0; i < 7; ++i) {
            run.checkpoint.pool.set_entry(i, {{70, 78}, std::vector<float>(32, 0.5F), 0.25F});
        }
        const IterationReport report = run.iterate();
        REQUIRE_THAT(report.recovery, ContainsSubstring("a pool of start cells"));
        REQUIRE(report.reset == 7);
        REQUIRE((inside(run.trainer).pool == fresh));
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
