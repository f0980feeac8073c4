// SPDX-License-Identifier: MIT
#pragma once

// The pool of the persistent and regenerating regimes: states that training continues from (Distill
// 2020, experiments 2 and 3). These functions decide what an iteration draws on every engine.

#include <nca/training_config.hpp>

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace nca {

// A circle in which damage kills all cells. In cells.
struct DamageCircle {
    float y = 0;
    float x = 0;
    float radius = 0;

    // Whether the centre of this cell is inside.
    bool covers(int cell_y, int cell_x) const {
        const float dy = float(cell_y) - y;
        const float dx = float(cell_x) - x;
        return dy * dy + dx * dx < radius * radius;
    }
};

// The indices of the pool's states that are an iteration's batch: `batch` different ones out of
// `pool`. All subsets in all orders are equally likely. 1 <= batch <= pool.
std::vector<int> sample_pool(std::uint32_t seed, std::int64_t iteration, int pool, int batch);

// Draws the config.damaged circles of an iteration: the centre uniform in +-damage_centre, the
// radius uniform in smallest_damage .. largest_damage. In these units the middles of the grid's
// first and last cell are at -1 and 1.
std::vector<DamageCircle> draw_damage(const TrainingConfig& config, std::uint32_t seed,
                                      std::int64_t iteration);

// Ranks the samples of a batch by the losses of their states before the rollout: 0 is the lowest
// loss. Of equal losses the earlier one ranks lower. The last rank becomes the start cell, the
// first ranks are damaged, rank r by circle r.
std::vector<int> ranks(std::span<const float> losses);

// A pool in host memory. Most cells of a state are zero, so only the others are stored.
class StatePool {
public:
    StatePool() = default;           // no states
    StatePool(int size, int cells);  // all states are zero, with loss 0

    int size() const { return int(entries_.size()); }
    int cells() const { return cells_; }  // in each state

    // The loss that the state had when it was written.
    float loss(int index) const { return entries_[std::size_t(index)].loss; }
    // Overwrites state, [cells, 16].
    void read(std::span<float> state, int index) const;
    void write(int index, std::span<const float> state, float loss);
    // A state as stored: its cells that are not zero, ascending, and their values [n, 16].
    struct Entry {
        std::vector<std::uint32_t> cells;
        std::vector<float> values;
        float loss = 0;

        bool operator==(const Entry&) const = default;
    };
    const Entry& entry(int index) const { return entries_[std::size_t(index)]; }
    void set_entry(int index, Entry entry) { entries_[std::size_t(index)] = std::move(entry); }

    bool operator==(const StatePool&) const = default;

private:
    int cells_ = 0;
    std::vector<Entry> entries_;
};

}  // namespace nca
