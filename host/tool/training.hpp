// SPDX-License-Identifier: MIT
#pragma once

#include "host/tool/arguments.hpp"
#include "host/tool/progress.hpp"
#include "host/tool/training_log.hpp"
#include "host/tool/training_report.hpp"

#include <nca/trainer.hpp>

#include <cstdint>
#include <optional>
#include <string>

namespace nca::tool {

// A Trainer, kept informed about, logged, checkpointed and stopped on request.
class Training {
public:
    // Checks everything that can be checked before hours of work. Throws Error and UsageError.
    explicit Training(const TrainArguments& arguments);

    // To the end or a signal; an exit code.
    int run();

private:
    Trainer start();
    std::string engine_and_form() const;
    void describe() const;
    int train_and_save();
    int iterations_at_most() const;
    void iterate(Progress& progress);
    int finish();
    int stop();
    void finish_report(RunState state, const std::string& error = "");
    void report_log(bool failed, Progress& progress) const;
    void save_checkpoint(Progress& progress);
    std::string last_checkpoint() const;

    const TrainArguments& arguments_;
    TrainingConfig config_;
    Trainer trainer_;
    std::optional<TrainingLog> log_;
    std::optional<TrainingReport> report_;
    bool recovered_ = false;          // an iteration failed
    std::int64_t checkpointed_ = -1;  // the iteration of this run's last checkpoint
};

}  // namespace nca::tool
