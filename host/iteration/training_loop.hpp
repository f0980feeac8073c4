// SPDX-License-Identifier: MIT
#pragma once

// How an engine runs training iterations.

#include <nca/random.hpp>
#include <nca/training_config.hpp>
#include <nca/weights.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "host/iteration/iteration.hpp"
#include "host/iteration/pool.hpp"

namespace nca {

// The weights and Adam's moments, each laid out as Weights::all().
struct Parameters {
    explicit Parameters(const Weights& initial)
        : weights(initial),
          first_moments(initial.all().size()),
          second_moments(initial.all().size()) {}

    Weights weights;
    std::vector<float> first_moments;
    std::vector<float> second_moments;
    std::int64_t updates = 0;  // number of Adam updates so far
};

struct IterationPlan {
    int steps = 0;
    std::vector<int> loss_steps = {};  // [batch] (host/iteration/loss_steps.hpp); none: the last
    FireKey key;
    float learning_rate = 0;
    std::int64_t update = 1;           // number of Adam's update, from 1
    bool set_anchor = false;           // the parameters before the update become the anchor
    std::vector<int> samples;          // config.batch indices of the pool; none without a pool
    std::vector<DamageCircle> damage;  // config.damaged circles
};

// One training run inside an engine. It keeps weights, moments, states, pool and target. It also
// keeps the good weights, which a forward pass has tried, and the anchor, the weights and moments
// that a recovery goes back to.
//
// The loss and its gradient are those of the states after the plan's loss_steps, or of the last
// states.
//
// With a pool, an iteration starts from the plan's samples. The sample with the highest loss in the
// pool becomes the start cell, those with the lowest losses are damaged (host/iteration/pool.hpp).
// After a good iteration its last states replace the samples in the pool; the start cell replaces
// those that died or whose loss exploded.
class TrainingLoop {
public:
    virtual ~TrainingLoop() = default;

    // How many plans one call of run takes at most.
    virtual int queue_length() const = 0;
    // Runs at most queue_length() plans in order, up to the first that fails, and waits for them.
    // Where it returns fewer outcomes than plans, the others were not started and changed nothing.
    virtual std::vector<IterationOutcome> run(std::span<const IterationPlan> plans) = 0;

    // The trainer counts updates; `updates` is 0 in these.
    virtual Parameters current() const = 0;
    virtual Parameters anchor() const = 0;
    virtual Weights good() const = 0;

    // Replaces all parameters.
    virtual void load(const Parameters& current, const Parameters& anchor, const Weights& good) = 0;
    // The anchor becomes the current parameters and the good weights.
    virtual void return_to_anchor() = 0;

    // The pool's first `count` states, at most config.pool.
    virtual StatePool pool(int count) const = 0;
    // pool has config.pool states.
    virtual void load_pool(const StatePool& pool) = 0;
    // All states of the pool become the start cell.
    virtual void reset_pool() = 0;

    // The states before and after the last iteration that ran, [batch, grid, grid, channels].
    // Before the first they are start cells and zero.
    virtual std::vector<float> states_before() const = 0;
    virtual std::vector<float> states_after() const = 0;
};

// A base class of engines that have a training loop of their own.
class HasTrainingLoop {
public:
    virtual ~HasTrainingLoop() = default;

    // target is [grid, grid, 4] in host memory.
    virtual std::unique_ptr<TrainingLoop> make_training_loop(const TrainingConfig& config,
                                                             std::span<const float> target) = 0;
};

}  // namespace nca
