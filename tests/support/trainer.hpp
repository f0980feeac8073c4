// SPDX-License-Identifier: MIT
#pragma once

// What the tests of the trainer share: parts of an iteration by hand, and trainings that start from
// a state that the test has chosen.

#include "host/iteration/pool.hpp"
#include "host/reference/rollout.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/engines.hpp"
#include "tests/support/training.hpp"

#include <nca/trainer.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace nca::test {

inline constexpr const char* both_presets[] = {"notebook", "growing"};

// After a recovery the fire masks are those of another seed.
inline std::uint32_t fire_seed(const TrainingConfig& config, int recoveries) {
    return config.seed + 0x9e3779b9U * std::uint32_t(recoveries);
}

inline Weights initial(const TrainingConfig& config) {
    return Trainer(small_picture(), config, any_device()).model().weights;
}

// Uniform in +-bound: every value within, both ends nearly reached, mean and variance as they are
// to be within five standard errors.
inline void require_uniform(std::span<const float> values, double bound) {
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

inline std::vector<reference::SampleState<double>> start_states(const TrainingConfig& config) {
    reference::SampleState<double> grid(config.grid(), config.grid());
    std::vector<Place> places = config.start_cells;
    if (places.empty()) places.push_back({config.grid() / 2, config.grid() / 2});
    for (const Place& place : places) {
        double* cell = grid.cell(place.y * config.grid() + place.x);
        cell[alpha_channel] = 1;
        if (config.rule.start_cell == StartCell::alpha_and_hidden)
            std::fill(cell + visible_channels, cell + channels, 1.0);
    }
    return std::vector<reference::SampleState<double>>(std::size_t(config.batch), grid);
}

inline std::vector<float> dense(const StatePool& pool, int index) {
    std::vector<float> state(std::size_t(pool.cells()) * channels);
    pool.read(state, index);
    return state;
}

// Of a state in floats, by hand.
inline double plain_loss(const std::vector<float>& state, const std::vector<float>& target) {
    double squares = 0;
    for (std::size_t k = 0; k < target.size(); ++k) {
        const double value = state[k / visible_channels * channels + k % visible_channels];
        squares += (value - target[k]) * (value - target[k]);
    }
    return squares / double(target.size());
}

inline bool plain_living(const std::vector<float>& state) {
    for (std::size_t k = alpha_channel; k < state.size(); k += channels) {
        if (state[k] > 0.1F) return true;
    }
    return false;
}

// What an iteration left in the pool: at the places of its samples what it ended with, or the start
// cell where that is dead or exploded, and all else as it was.
inline void require_pool_after(const Trainer& trainer, const IterationReport& report,
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

// A training with these weights. Where its next iteration fails, it goes back to the anchor: the
// weights that it began with.
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

// Weights of the growing preset that add this to one channel of every cell that fires.
inline Weights adding(int channel, float value) {
    Weights weights(true);
    weights.view().b2[channel] = value;
    return weights;
}

}  // namespace nca::test
