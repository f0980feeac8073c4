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

namespace nca::tool {

// For people, in a line.
std::string description(const TrainingConfig& config);

// Throws UsageError where a file that the training writes is another of its files, or the target.
void require_different_files(const TrainArguments& arguments, const std::filesystem::path& target);
// Throws IoError where one of them cannot be written, but for pictures.
void require_writable_files(const TrainArguments& arguments);

// A Trainer, kept informed about, logged, checkpointed and stopped on request.
class Training {
public:
    // Checks everything that can be checked before hours of work. Throws Error and UsageError.
    Training(const TrainArguments& arguments, Progress::Training progress);

    const Trainer& trainer() const { return trainer_; }
    // Says so where the target is likely to be hard to grow.
    void check_target();

    // To the end or a signal, and whether it is done or stopped; saves what there is. Throws Error
    // where it failed.
    RunState run();
    // Whether a training that was stopped has saved what it needs to go on.
    bool can_go_on() const { return saved_; }

private:
    Trainer start();
    std::string engine_and_form() const;
    RunState train_and_save();
    int iterations_at_most() const;
    void iterate();
    void finish();
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
    bool saved_ = false;              // everything, when it was stopped
    std::int64_t checkpointed_ = -1;  // the iteration of this run's last checkpoint
};

}  // namespace nca::tool
