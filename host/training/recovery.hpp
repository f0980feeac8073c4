// SPDX-License-Identifier: MIT
#pragma once

// When training has failed, and what is done about it: docs/architecture.md, "Training that fails".

#include <nca/training_config.hpp>

#include <cstdint>
#include <vector>

namespace nca {

// How far a run is and how it went. Checkpoints keep it.
struct TrainingProgress {
    std::int64_t iteration = 0;              // how many are done
    int recoveries = 0;                      // how often the learning rate was halved
    int failures = 0;                        // without enough good iterations in between
    int good_iterations = 0;                 // since the last recovery, or since the run began
    bool learnt = false;                     // the loss has been clearly below a blank image's
    std::vector<double> recent_losses = {};  // of the last good iterations, at most 100

    bool operator==(const TrainingProgress&) const = default;
};

// Decides about a run. It takes note of each iteration and changes nothing but its progress.
class Recovery {
public:
    // blank_loss: the loss of an empty grid.
    Recovery(const TrainingConfig& config, double blank_loss)
        : config_(config), blank_loss_(blank_loss) {}

    const TrainingProgress& progress() const { return progress_; }
    void set_progress(TrainingProgress progress) { progress_ = std::move(progress); }

    // A new seed after each recovery, so that what failed is not drawn again.
    std::uint32_t seed() const;
    // The schedule's rate, halved by each recovery.
    double learning_rate(std::int64_t iteration) const;

    // These are for the iteration that comes `ahead` good ones after the next.
    int steps(int ahead) const;
    // Whether its weights, before the update, become the anchor.
    bool sets_anchor(int ahead) const;
    // How many iterations may be queued: a queue that ends at the next anchor does what its
    // iterations would do one by one.
    int iterations_to_anchor() const;

    // The mean of the recent losses; not a number where there is none.
    double recent_loss() const;
    // Their median, which single batches that went wild do not move; 0 where there is none.
    double usual_loss() const;
    double blank_loss() const { return blank_loss_; }

    void add_good(double loss);
    // Whether the loss is a blank image's, and has been for long enough.
    bool stuck() const;
    // Counts a failure. False where it is one too many: training has to give up.
    bool add_failure();
    void next_iteration() { ++progress_.iteration; }

private:
    bool grows_nothing() const;

    TrainingConfig config_;
    double blank_loss_;
    TrainingProgress progress_;
};

}  // namespace nca
