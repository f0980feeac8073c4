// SPDX-License-Identifier: MIT
#pragma once

// The pool of the persistent and regenerating regimes: states that training goes on with (Distill
// 2020, experiments 2 and 3). What an iteration draws is decided here, for every engine.

#include <nca/training_config.hpp>

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace nca {

// A circle that damage kills, in cells.
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

// Which states of the pool are an iteration's batch: `batch` different ones out of `pool`, each
// subset in each order equally likely. 1 <= batch <= pool.
std::vector<int> sample_pool(std::uint32_t seed, std::int64_t iteration, int pool, int batch);

// The circles of an iteration, config.damaged of them: the centre uniform in +-damage_centre, the
// radius uniform in smallest_damage .. largest_damage, in coordinates that run from -1 to 1 between
// the middles of the grid's first and last cell.
std::vector<DamageCircle> draw_damage(const TrainingConfig& config, std::uint32_t seed,
                                      std::int64_t iteration);

// What becomes of each sample of a batch, by the losses of its states before the rollout: 0 for the
// lowest loss. Of equal ones the earlier has the lower rank. The last rank becomes the start cell,
// the first ones are damaged, rank r by circle r.
std::vector<int> ranks(std::span<const float> losses);

// A pool in host memory. Most cells of a state are zero: each state is kept as those that are not.
class StatePool {
public:
    StatePool() = default;           // of no states
    StatePool(int size, int cells);  // of states that are all zero, with loss 0

    int size() const { return int(entries_.size()); }
    int cells() const { return cells_; }  // of a state

    // The loss that the state had when it was written.
    float loss(int index) const { return entries_[std::size_t(index)].loss; }
    // Overwrites state [cells, 16].
    void read(std::span<float> state, int index) const;
    void write(int index, std::span<const float> state, float loss);
    // As stored: the cells that are not zero, ascending, and [cells, 16] values of them.
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
