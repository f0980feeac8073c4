// SPDX-License-Identifier: MIT
#pragma once

#include "host/tool/arguments/arguments.hpp"
#include "host/tool/progress.hpp"
#include "host/tool/training_log.hpp"
#include "host/tool/training_page.hpp"
#include "host/tool/training_report.hpp"

#include <nca/trainer.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace nca::tool {

// The configuration in one line, for messages. largest_grid: of several trainings that differ in
// their grids; config has the smallest.
std::string description(const TrainingConfig& config, int largest_grid = 0);

// Throws UsageError where the training would write two files to one path, or to the target or the
// model of --init.
void require_different_files(const TrainArguments& arguments, const std::filesystem::path& target);
// Throws UsageError where the name of an output is that of another kind of file, or a file is there
// that is of another kind.
void require_output_kinds(const TrainArguments& arguments);
// Throws UsageError where, without --overwrite, one of these files is of an earlier run that has
// done an iteration, the model has no history of iterations, or with --resume it or the checkpoint
// that will be written has more of them than the one that is resumed.
void require_no_earlier_run(const TrainArguments& arguments);
// Throws IoError where one of these files, pictures excepted, cannot be written.
void require_writable_files(const TrainArguments& arguments);

// Runs a Trainer with progress, log, report and checkpoints, until it must_stop().
class Training {
public:
    // Checks all that it can before hours of work, but for require_different_files. init: the model
    // whose weights are the first; null for new ones, and where there is a checkpoint. Throws Error
    // and UsageError.
    Training(const TrainArguments& arguments, Progress::Training progress,
             const Model* init = nullptr);

    const Trainer& trainer() const { return trainer_; }
    // Warns where the target is transparent at a start cell, or has parts that will not grow.
    void check_target();

    // Trains to the end or until it has to stop, and saves the results. Returns done or stopped, or
    // failed where only the model could not be written. Throws Error where training failed.
    RunState run();
    // Whether a training that is not done has saved a checkpoint to resume from.
    bool can_resume() const { return saved_; }

private:
    Trainer start();
    // The start cells where the target is transparent.
    std::vector<Place> starts_in_holes() const;
    // Where that is, and the nearest cell that is not, for messages.
    std::string hole_text(const Place& start) const;
    std::string way_out(const Place& start) const;
    std::string target_text() const;
    std::string engine_and_form() const;
    RunState train_and_save();
    bool is_finished() const;
    std::optional<double> loss_for_stop_at() const;
    int iterations_at_most() const;
    void iterate();
    RunState finish();
    void stop();
    void finish_report(RunState state, const std::string& error = "");
    void report_log(bool failed);
    void save_checkpoint();
    std::string last_checkpoint() const;

    const TrainArguments& arguments_;
    Progress::Training progress_;
    Trainer trainer_;
    std::optional<TrainingLog> log_;
    std::optional<TrainingReport> report_;
    bool recovered_ = false;          // an iteration failed
    bool saved_ = false;              // the checkpoint, at the end
    std::string save_error_;          // why the model could not be written
    std::int64_t checkpointed_ = -1;  // iteration of this run's last checkpoint; -1: none yet
};

}  // namespace nca::tool
