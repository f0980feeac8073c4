// SPDX-License-Identifier: MIT
#pragma once

#include <nca/engine.hpp>
#include <nca/export.hpp>
#include <nca/image.hpp>
#include <nca/model.hpp>
#include <nca/training_config.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace nca {

// The target as a training run sees it: [grid, grid, 4] floats in 0..1, scaled, centred, padded,
// premultiplied where the rule says so. Throws FormatError where nothing visible is left of it.
NCA_API std::vector<float> make_target(const Image& image, const TrainingConfig& config);

// What one call of iterate did.
struct IterationReport {
    std::int64_t iteration = 0;  // the number of the finished iteration, from 0
    int steps = 0;
    double loss = 0;
    double learning_rate = 0;
    double gradient_norm = 0;  // L2 norm over all tensors, before normalisation
    int dead = 0;              // samples without a living cell at the end
    // States of the pool that became the start cell: the worst of the batch, those that died or
    // exploded, after a recovery all.
    int reset = 0;
    std::string recovery;  // not empty: training failed and this was done about it
};

// Trains one automaton. Deterministic: the same target, configuration and engine give the same
// bits.
class NCA_API Trainer {
public:
    // Throws InvalidArgument for a bad configuration and whatever make_engine throws.
    Trainer(const Image& target, const TrainingConfig& config,
            const Device& device = Device::automatic());
    ~Trainer();
    Trainer(Trainer&&) noexcept;
    Trainer& operator=(Trainer&&) noexcept;

    // One update of the weights; waits for it. When training fails - the loss is not finite or
    // explodes, every sample died, or the loss stays at a blank image's - it goes back to the last
    // good weights and to start cells, halves the learning rate, begins the warm-up again, and says
    // so in the report. Where the loss never left a blank image's it takes new weights. When that
    // has happened 13 times without 100 good iterations in between (600 in a run that has learnt
    // nothing yet; a warm-up's do not count) it throws Error.
    IterationReport iterate();
    // Up to so many, as many as the engine does best without the host looking on: one on the CPU,
    // up to 32 on CUDA. Fewer where one failed. Waits for them; gives a report for each.
    std::vector<IterationReport> iterate(int most);

    // How many iterations are done.
    std::int64_t iteration() const;
    const TrainingConfig& config() const;
    Engine& engine() const;
    // The target on the grid, [grid, grid, 4] floats.
    const std::vector<float>& target() const;
    // The loss of an empty grid.
    double blank_loss() const;
    // What the last iteration started from and ended with, [batch, grid, grid, channels] floats;
    // zero before the first; of no meaning where one failed. These copy from the device and wait.
    std::vector<float> states_before() const;
    std::vector<float> states_after() const;
    // The first so many states of the pool, fewer where it has fewer: [count, grid, grid,
    // channels].
    std::vector<float> pool_states(int count) const;
    // The weights of the last iteration that went well, with their rule and history: the last that
    // a forward pass has tried, so without that iteration's update; after resume those of the
    // checkpoint. Always finite.
    Model model() const;
    // Goes into the history of the models that it saves.
    void set_target_name(std::string name);

    // Everything that is needed to go on bit for bit. Throws IoError.
    void save_checkpoint(const std::filesystem::path& path) const;
    // Goes on from a checkpoint of the same configuration and target; throws FormatError naming the
    // first difference otherwise.
    void resume(const std::filesystem::path& path);

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace nca
