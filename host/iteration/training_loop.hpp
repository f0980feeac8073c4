// SPDX-License-Identifier: MIT
#pragma once

// What an engine does in a training iteration, and what it tells the trainer of it.

#include <nca/random.hpp>
#include <nca/training_config.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "host/iteration/iteration.hpp"
#include "host/iteration/parameters.hpp"
#include "host/iteration/pool.hpp"

namespace nca {

struct IterationPlan {
    int steps = 0;
    FireKey key;
    float learning_rate = 0;
    std::int64_t update = 1;           // Adam's, from 1
    bool set_anchor = false;           // the parameters before the update become the anchor
    std::vector<int> samples;          // of the pool, config.batch of them; none without a pool
    std::vector<DamageCircle> damage;  // config.damaged circles
};

// One training run inside an engine. Weights, moments, states, pool and target stay in the engine's
// memory, and so do two copies of the weights: the good ones, which a forward pass has tried, and
// the anchor, which a recovery goes back to.
//
// An iteration with a pool takes the plan's samples out of it; the one that had the highest loss
// when it was put there becomes the start cell, those of lowest loss are damaged
// (host/iteration/pool.hpp). When the iteration is good the states after the rollout take the
// samples' places, the start cell where one died or its loss exploded.
class TrainingLoop {
public:
    virtual ~TrainingLoop() = default;

    // How many plans are best given to one call of run: the host looks at outcomes only after it.
    virtual int queue_length() const = 0;
    // Runs at most queue_length() plans in order, up to the first that fails; waits for them. Fewer
    // outcomes than plans: the others could not be started, and have changed nothing.
    virtual std::vector<IterationOutcome> run(std::span<const IterationPlan> plans) = 0;

    // The number of updates is the trainer's affair: 0 in what these return.
    virtual Parameters current() const = 0;
    virtual Parameters anchor() const = 0;
    virtual Weights good() const = 0;

    // Replaces everything; the good weights become the current ones.
    virtual void load(const Parameters& current, const Parameters& anchor) = 0;
    // The current parameters and the good weights become the anchor's.
    virtual void return_to_anchor() = 0;

    // The first so many states of the pool, at most config.pool.
    virtual StatePool pool(int count) const = 0;
    // pool has config.pool states.
    virtual void load_pool(const StatePool& pool) = 0;
    // All states of the pool become the start cell.
    virtual void reset_pool() = 0;

    // What the last run iteration started from and ended with, [batch, grid, grid, channels]; zero
    // before the first.
    virtual std::vector<float> states_before() const = 0;
    virtual std::vector<float> states_after() const = 0;
};

// An engine that has a training loop of its own is one of these as well.
class HasTrainingLoop {
public:
    virtual ~HasTrainingLoop() = default;

    // target is [grid, grid, 4] in host memory.
    virtual std::unique_ptr<TrainingLoop> make_training_loop(const TrainingConfig& config,
                                                             std::span<const float> target) = 0;
};

}  // namespace nca
