// SPDX-License-Identifier: MIT
#include "host/iteration/pool.hpp"
#include "tests/support/catch.hpp"

#include <nca/trainer.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <vector>

using namespace nca;

TEST_CASE("the samples of an iteration are different states of the pool") {
    for (const auto& [pool, batch] : {std::pair(1, 1), {8, 8}, {9, 8}, {1024, 8}, {5000, 4096}}) {
        for (int iteration = 0; iteration < 50; ++iteration) {
            const std::vector<int> samples = sample_pool(3, iteration, pool, batch);
            const std::set<int> different(samples.begin(), samples.end());
            REQUIRE(samples.size() == std::size_t(batch));
            REQUIRE(different.size() == samples.size());
            REQUIRE(*different.begin() >= 0);
            REQUIRE(*different.rbegin() < pool);
        }
    }
}

TEST_CASE("every state of the pool is drawn equally often, at every place of the batch") {
    constexpr int pool = 20, batch = 8, draws = 20000;
    std::vector<std::vector<int>> count(batch, std::vector<int>(pool));
    std::vector<std::vector<int>> together(pool, std::vector<int>(pool));
    for (int iteration = 0; iteration < draws; ++iteration) {
        const std::vector<int> samples = sample_pool(11, iteration, pool, batch);
        for (int i = 0; i < batch; ++i) {
            ++count[i][samples[i]];
            for (int j = 0; j < i; ++j) {
                ++together[std::min(samples[i], samples[j])][std::max(samples[i], samples[j])];
            }
        }
    }
    // Within five standard deviations of a binomial distribution.
    const auto usual = [&](int times, double chance) {
        return std::abs(times - draws * chance) <= 5 * std::sqrt(draws * chance * (1 - chance));
    };
    for (const auto& place : count) {
        for (const int times : place) REQUIRE(usual(times, 1.0 / pool));
    }
    const double pair_chance = double(batch) * (batch - 1) / (double(pool) * (pool - 1));
    for (int i = 0; i < pool; ++i) {
        for (int j = i + 1; j < pool; ++j) REQUIRE(usual(together[i][j], pair_chance));
    }
}

TEST_CASE("samples and damage depend on seed and iteration, and on nothing else") {
    TrainingConfig config = preset("regenerating");
    REQUIRE(sample_pool(5, 7, 1024, 8) == sample_pool(5, 7, 1024, 8));
    REQUIRE(sample_pool(5, 7, 1024, 8) != sample_pool(6, 7, 1024, 8));
    REQUIRE(sample_pool(5, 7, 1024, 8) != sample_pool(5, 8, 1024, 8));
    const auto first = draw_damage(config, 5, 7);
    const auto radius = [&](std::uint32_t seed, int iteration) {
        return draw_damage(config, seed, iteration)[0].radius;
    };
    REQUIRE(radius(5, 7) == first[0].radius);
    REQUIRE(radius(6, 7) != first[0].radius);
    REQUIRE(radius(5, 8) != first[0].radius);
    // A batch that is larger begins with the smaller one, and so does damage.
    const auto larger = sample_pool(5, 7, 1024, 16);
    REQUIRE(std::vector<int>(larger.begin(), larger.begin() + 8) == sample_pool(5, 7, 1024, 8));
    config.damaged = 1;
    REQUIRE(draw_damage(config, 5, 7)[0].y == first[0].y);
}

TEST_CASE("damage circles are uniform over the paper's ranges") {
    TrainingConfig config = preset("regenerating");
    const double half = (config.grid() - 1) / 2.0;
    std::vector<double> ys, xs, radii;
    for (int iteration = 0; iteration < 4000; ++iteration) {
        const auto circles = draw_damage(config, 1, iteration);
        REQUIRE(circles.size() == 3);
        for (const DamageCircle& circle : circles) {
            ys.push_back(circle.y / half - 1);
            xs.push_back(circle.x / half - 1);
            radii.push_back(circle.radius / half);
        }
    }
    const auto require_uniform = [](std::vector<double> values, double low, double high) {
        std::ranges::sort(values);
        REQUIRE(values.front() >= low - 1e-6);
        REQUIRE(values.back() <= high + 1e-6);
        // Kolmogorov and Smirnov: the chance of 1.95 / sqrt(n) is one in a thousand.
        double largest = 0;
        for (std::size_t i = 0; i < values.size(); ++i) {
            const double expected = (values[i] - low) / (high - low);
            largest = std::max(largest, std::abs(expected - double(i) / double(values.size())));
        }
        REQUIRE(largest <= 1.95 / std::sqrt(double(values.size())));
    };
    require_uniform(ys, -0.5, 0.5);
    require_uniform(xs, -0.5, 0.5);
    require_uniform(radii, 0.1, 0.4);
    double products = 0;
    for (std::size_t i = 0; i < ys.size(); ++i) products += ys[i] * xs[i] * 12;
    REQUIRE(std::abs(products / double(ys.size())) <= 5 / std::sqrt(double(ys.size())));
}

TEST_CASE("a circle covers the cells that the paper's mask does") {
    TrainingConfig config = preset("regenerating");
    for (const int size : {8, 9, 40}) {
        config.target_size = size;
        const int grid = config.grid();
        int covered = 0;
        for (int iteration = 0; iteration < 20; ++iteration) {
            for (const DamageCircle& circle : draw_damage(config, 2, iteration)) {
                // x and y run from -1 to 1; a cell is inside where ((x - cx) / r)^2 + .. < 1.
                const double half = (grid - 1) / 2.0;
                const double r = circle.radius / half;
                for (int cell = 0; cell < grid * grid; ++cell) {
                    const double y = (cell / grid / half - 1) - (circle.y / half - 1);
                    const double x = (cell % grid / half - 1) - (circle.x / half - 1);
                    const double inside = (y / r) * (y / r) + (x / r) * (x / r);
                    if (std::abs(inside - 1) < 1e-5) continue;  // rounding decides
                    REQUIRE(circle.covers(cell / grid, cell % grid) == (inside < 1));
                    covered += inside < 1;
                }
            }
        }
        REQUIRE(covered > 60);
    }
}

TEST_CASE("ranks go from the lowest loss to the highest, and ties from the first to the last") {
    REQUIRE(ranks(std::vector<float>{0.5F, 0.1F, 0.9F}) == std::vector<int>{1, 0, 2});
    REQUIRE(ranks(std::vector<float>{2, 1, 2, 1, 2}) == std::vector<int>{2, 0, 3, 1, 4});
    REQUIRE(ranks(std::vector<float>{7}) == std::vector<int>{0});
    REQUIRE(ranks(std::vector<float>(8, 0.25F)) == std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7});
}

TEST_CASE("a state comes out of the pool bit for bit as it went in") {
    constexpr int cells = 12;
    StatePool pool(3, cells);
    std::vector<float> state(cells * channels);
    state[0] = 0.1F;                                                  // the first cell
    state[5 * channels + 3] = std::numeric_limits<float>::min() / 4;  // denormal
    state[7 * channels] = -0.0F;
    state[8 * channels + 15] = std::numeric_limits<float>::infinity();
    state[12 * channels - 1] = -3;  // the last cell
    pool.write(1, state, 0.75F);
    REQUIRE(pool.loss(1) == 0.75F);
    REQUIRE(pool.entry(1).cells == std::vector<std::uint32_t>{0, 5, 7, 8, 11});
    std::vector<float> out(state.size(), 42.0F);
    pool.read(out, 1);
    REQUIRE(out == state);
    REQUIRE(std::signbit(out[7 * channels]));
    for (const int other : {0, 2}) {
        pool.read(out, other);
        REQUIRE(out == std::vector<float>(state.size()));
    }
    // A later state leaves nothing of the earlier one.
    pool.write(1, std::vector<float>(state.size()), 0.5F);
    pool.read(out, 1);
    REQUIRE(out == std::vector<float>(state.size()));
}
