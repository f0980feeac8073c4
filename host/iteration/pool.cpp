// SPDX-License-Identifier: MIT
#include "host/iteration/pool.hpp"

#include <nca/random.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

namespace nca {
namespace {

// Uniform in low .. high.
float between(float low, float high, std::uint32_t word) {
    return float(low + (double(high) - low) * (word * 0x1p-32));
}

}  // namespace

// The first `batch` cards of a shuffled deck (Fisher and Yates).
std::vector<int> sample_pool(std::uint32_t seed, std::int64_t iteration, int pool, int batch) {
    std::vector<int> deck(std::size_t(pool), 0);
    std::iota(deck.begin(), deck.end(), 0);
    for (int i = 0; i < batch; ++i) {
        const auto words = philox(seed, Purpose::pool_sample,
                                  {std::uint32_t(i) / 4, 0, 0, std::uint32_t(iteration)});
        const std::uint64_t left = std::uint64_t(pool - i);
        const int other = i + int(words[std::size_t(i) % 4] * left >> 32);
        std::swap(deck[std::size_t(i)], deck[std::size_t(other)]);
    }
    deck.resize(std::size_t(batch));
    return deck;
}

std::vector<DamageCircle> draw_damage(const TrainingConfig& config, std::uint32_t seed,
                                      std::int64_t iteration) {
    // Cells per unit of the coordinates.
    const float unit = float(config.grid() - 1) / 2;
    const auto centre = [&](std::uint32_t word) {
        return (1 + between(-config.damage_centre, config.damage_centre, word)) * unit;
    };
    std::vector<DamageCircle> circles;
    for (int i = 0; i < config.damaged; ++i) {
        const auto words =
            philox(seed, Purpose::damage, {std::uint32_t(i), 0, 0, std::uint32_t(iteration)});
        circles.push_back(
            {centre(words[0]), centre(words[1]),
             between(config.smallest_damage, config.largest_damage, words[2]) * unit});
    }
    return circles;
}

std::vector<int> ranks(std::span<const float> losses) {
    std::vector<int> order(losses.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(
        order, [&](int a, int b) { return losses[std::size_t(a)] < losses[std::size_t(b)]; });
    std::vector<int> result(losses.size());
    for (std::size_t i = 0; i < order.size(); ++i) result[std::size_t(order[i])] = int(i);
    return result;
}

StatePool::StatePool(int size, int cells) : cells_(cells), entries_(std::size_t(size)) {}

void StatePool::read(std::span<float> state, int index) const {
    const Entry& from = entry(index);
    std::ranges::fill(state, 0.0F);
    for (std::size_t i = 0; i < from.cells.size(); ++i) {
        std::copy_n(&from.values[i * channels], channels,
                    &state[std::size_t(from.cells[i]) * channels]);
    }
}

void StatePool::write(int index, std::span<const float> state, float loss) {
    static constexpr std::array<float, channels> zero = {};
    Entry& to = entries_[std::size_t(index)];
    to.cells.clear();
    to.values.clear();
    to.loss = loss;
    for (int cell = 0; cell < cells_; ++cell) {
        const float* values = &state[std::size_t(cell) * channels];
        // Compares bits, because -0 is kept, too.
        if (std::memcmp(values, zero.data(), sizeof(zero)) == 0) continue;
        to.cells.push_back(std::uint32_t(cell));
        to.values.insert(to.values.end(), values, values + channels);
    }
}

}  // namespace nca
