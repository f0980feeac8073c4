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

/// The target of a training run, [grid, grid, 4] floats in 0..1 in host memory: the image scaled to
/// config.target_size, centred and padded; colours are premultiplied where config.rule says so.
/// Where the scale is a whole number, as 2 of a sprite of 16 x 16 pixels on 32 x 32 cells, each
/// pixel becomes a square of cells; otherwise the image is resize()d.
/// Throws InvalidArgument for a bad image or configuration, FormatError where no pixel of the
/// scaled image has alpha above living_threshold.
NCA_API std::vector<float> make_target(const Image& image, const TrainingConfig& config);

/// What one iteration did.
struct IterationReport {
    std::int64_t iteration = 0;  ///< its number, from 0
    int steps = 0;               ///< of its rollout
    /// As Engine::loss has it, mean over the batch; after the last step of each sample, or after
    /// that which TrainingConfig::earliest_loss_step says.
    double loss = 0;
    double learning_rate = 0;  ///< that its update had
    double gradient_norm = 0;  ///< L2 norm over all tensors, before normalisation
    int dead = 0;  ///< samples without a cell of alpha above living_threshold where the loss is
    /// How many states of the pool became the start cell: the worst of the batch and those that
    /// died or exploded; after a recovery all.
    int reset = 0;
    std::string recovery;  ///< not empty: training failed; says why and what was done
};

/// What a checkpoint says of its run.
struct CheckpointInfo {
    TrainingConfig config;        ///< the configuration that the run was begun with
    std::string target;           ///< the target's name
    bool has_target = false;      ///< whether it holds the target itself; version 0.2.0 wrote none
    std::int64_t iterations = 0;  ///< how many are done
    std::int64_t wanted_iterations = 0;  ///< Trainer::set_wanted_iterations(); 0: not known
    std::string init;                    ///< as TrainingHistory::init
};

/// Reads the header of a checkpoint, so it takes no longer for a large one; what is behind it may
/// be damaged all the same. Throws IoError where the file cannot be read, FormatError where it is
/// no checkpoint.
NCA_API CheckpointInfo checkpoint_info(const std::filesystem::path& path);

/// Trains one automaton. The same target, configuration and engine give the same bits in every run.
/// A trainer must not be used by two threads at the same time. Functions that read or write values
/// of the device wait for it, and throw CudaError where it fails. Those of a trainer that was moved
/// from throw InvalidArgument; iterations also throw Error as Engine does, after a fork and where
/// threads cannot be made.
///
/// It does what the Distill article does (Mordvintsev et al., 2020): rollout, mean squared error of
/// the last state, gradients through all steps, one update by Adam.
class NCA_API Trainer {
public:
    /// Begins a run with new weights. Throws what make_target() and make_engine() throw, and Error
    /// where there is not enough memory.
    Trainer(const Image& target, const TrainingConfig& config,
            const Device& device = Device::automatic());
    /// Goes on with the run of a checkpoint: its target, configuration and name of the target are
    /// in the file. The bits are those of a run that never stopped. Throws IoError where it cannot
    /// be read, FormatError where it is no checkpoint or an earlier version wrote it, which did not
    /// save the target (then resume() takes the image), and what make_engine() throws.
    static Trainer from_checkpoint(const std::filesystem::path& path,
                                   const Device& device = Device::automatic());
    /// Ends the run; what was not saved is lost.
    ~Trainer();
    /// Takes over the run of another trainer.
    Trainer(Trainer&&) noexcept;
    /// Takes over the run of another trainer, and ends its own.
    Trainer& operator=(Trainer&&) noexcept;

    /// Takes the weights of a model in place of new ones, before the first iteration. Learning rate
    /// and Adam's moments are those of a new run, and the rule stays that of the configuration. The
    /// model may have been trained by another: rule and history may differ. A missing output bias
    /// becomes zeros. name: of the model's file, for TrainingHistory::init. A recovery that starts
    /// with new weights starts with these. Throws InvalidArgument after the first iteration, where
    /// a weight is not finite, and where the model has an output bias that is not zero and the
    /// configuration has none.
    void start_from(const Model& model, const std::string& name);

    /// Runs one iteration, which is one update of the weights, and waits for it.
    ///
    /// An iteration fails where a loss, gradient or weight is not finite or is much too large, or
    /// where every sample died; a run fails where the loss stays at that of an empty grid. The
    /// trainer then recovers: it goes back to the last good weights (to new ones, or those of
    /// start_from(), where nothing was learnt) and to start cells, halves the learning rate, begins
    /// the warm-up again, and says so in the report. It throws Error at the 13th failure without
    /// 100 good iterations in between (600 where nothing was learnt yet; those of a warm-up are not
    /// counted).
    IterationReport iterate();
    /// Runs at least one and at most `most` iterations, as many as the engine runs best in one
    /// call: one on the CPU, up to 32 on CUDA; it ends at one that fails. Waits for them and
    /// returns a report of each. Throws what iterate() throws, InvalidArgument where most is
    /// below 1.
    std::vector<IterationReport> iterate(int most);

    /// How many iterations are done.
    std::int64_t iteration() const;
    /// The configuration that the run was begun with.
    const TrainingConfig& config() const;
    /// The engine that it trains on.
    Engine& engine() const;
    /// The target on the grid, [grid, grid, 4] floats in host memory.
    const std::vector<float>& target() const;
    /// The losses of the last good iterations, at most 100, the newest last. After resume() those
    /// of the checkpoint come first. Valid until the next iteration or resume().
    const std::vector<double>& recent_losses() const;
    /// The loss of an empty grid.
    double blank_loss() const;
    /// A copy of the states that the last iteration started from, [batch, grid, grid, channels]
    /// floats. Start cells before the first iteration; of no meaning where it failed.
    std::vector<float> states_before() const;
    /// A copy of the states that the last iteration ended with, [batch, grid, grid, channels]
    /// floats. Zero before the first iteration; of no meaning where it failed.
    std::vector<float> states_after() const;
    /// Copies of the first `count` states of the pool, [count, grid, grid, channels] floats; of all
    /// where it has fewer.
    std::vector<float> pool_states(int count) const;
    /// The weights that the last good iteration's rollout used, without that iteration's update;
    /// after resume those of the checkpoint. Always finite. With rule and history.
    Model model() const;
    /// Sets the name that the history of models and checkpoints has for the target.
    void set_target_name(std::string name);
    /// Sets how many iterations the run is to have, in 1..2147483647; checkpoints keep it, for who
    /// goes on. Does not end the run. Throws InvalidArgument outside of this range.
    void set_wanted_iterations(std::int64_t iterations);

    /// Saves all that resume needs to continue training with the same bits. The old file stays
    /// until the new one is complete. Throws IoError.
    void save_checkpoint(const std::filesystem::path& path) const;
    /// Continues from a checkpoint. Throws IoError where it cannot be read, FormatError where it is
    /// no checkpoint or of another configuration or target; the message names the first difference,
    /// and the run is as it was.
    void resume(const std::filesystem::path& path);

private:
    struct Impl;
    explicit Trainer(std::unique_ptr<Impl> impl);
    Impl& impl() const;
    std::unique_ptr<Impl> impl_;
};

}  // namespace nca
