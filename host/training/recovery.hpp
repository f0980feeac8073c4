// SPDX-License-Identifier: MIT
#pragma once

// Detects failed training and decides what to do: docs/architecture.md, "Training that fails".

#include <nca/training_config.hpp>

#include <cstdint>
#include <utility>
#include <vector>

namespace nca {

// The state of a run. Checkpoints store it.
struct TrainingProgress {
    std::int64_t iteration = 0;              // number of finished iterations
    int recoveries = 0;                      // how often the learning rate was halved
    int failures = 0;                        // without enough good iterations between them
    int good_iterations = 0;                 // since the last recovery, or since the run began
    bool learnt = false;                     // the loss has been clearly below a blank image's
    std::vector<double> recent_losses = {};  // of the last good iterations, at most 100

    bool operator==(const TrainingProgress&) const = default;
};

// Decides how a run continues after each iteration. Changes nothing but its progress.
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

    // About iteration progress().iteration + ahead, if those before it are good.
    int steps(int ahead) const;
    // Whether its weights become the anchor before the update.
    bool sets_anchor(int ahead) const;
    // How many iterations may be queued. A queue that ends at the next anchor gives the same
    // results as single iterations.
    int iterations_to_anchor() const;

    // The mean of the recent losses; not a number where there is none.
    double recent_loss() const;
    // Their median, which single bad batches do not move; 0 where there is none.
    double usual_loss() const;
    double blank_loss() const { return blank_loss_; }

    void add_good(double loss);  // the loss of a good iteration
    // Whether the loss has been a blank image's for too long.
    bool stuck() const;
    // Counts a failure. False where there were too many: training has to give up.
    bool add_failure();
    void next_iteration() { ++progress_.iteration; }

private:
    bool grows_nothing() const;

    TrainingConfig config_;
    double blank_loss_;
    TrainingProgress progress_;
};

}  // namespace nca
