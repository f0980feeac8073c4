// SPDX-License-Identifier: MIT
#pragma once

#include "host/tool/arguments/arguments.hpp"
#include "host/tool/training_page.hpp"

#include <nca/trainer.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>

namespace nca::tool {

// Decides when a report is due: soon at first, later every ten seconds, less often where reports
// would take more than `share` of the time. Times are in seconds since the start.
class ReportPace {
public:
    static constexpr double share = 0.02;
    static constexpr double longest_pause = 10;

    bool due(double now) const {
        if (count_ == 0) return true;
        // At first the pause is as long as the run so far, so that a short run has a report too.
        const double pause = std::clamp(last_, 1.0, longest_pause);
        return now >= last_ + pause && spent_ + spent_ / count_ <= share * now;
    }
    void made(double began, double ended) {
        last_ = ended;
        spent_ += ended - began;
        ++count_;
    }
    double spent() const { return spent_; }
    // The pause before the next report, if reports take as long as so far.
    double pause() const { return std::max(longest_pause, spent_ / std::max(count_, 1) / share); }

private:
    double last_ = 0;
    double spent_ = 0;
    int count_ = 0;
};

// Writes the page of --report and the folder of --pictures while training runs.
class TrainingReport {
public:
    explicit TrainingReport(const TrainArguments& arguments) : arguments_(arguments) {}

    // Adds the iterations of an earlier run that this one continues, and how long it took.
    void add_earlier(std::span<const IterationReport> earlier, double seconds);
    void add(const IterationReport& report);

    // Writes the report where it is due. Returns why it failed, once; empty: it did not.
    std::string update(const Trainer& trainer);
    // Writes the last page. error: why the run failed.
    std::string finish(const Trainer& trainer, RunState state, const std::string& error = "");

private:
    using Clock = std::chrono::steady_clock;
    struct Mark {
        double seconds = 0;      // of training, without reports
        std::int64_t steps = 0;  // of all iterations so far
    };

    double now() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
    void note(const IterationReport& report);
    TrainingPage page(const Trainer& trainer, RunState state, const std::string& error) const;
    std::string write(const Trainer& trainer, RunState state, const std::string& error);

    const TrainArguments& arguments_;
    RunHistory history_;
    bool noted_ = false;  // history_ has an iteration
    std::optional<TrainingPictures> pictures_;
    ReportPace pace_;
    Clock::time_point start_ = Clock::now();
    double earlier_seconds_ = 0;
    std::deque<Mark> marks_ = {Mark{}};  // the ends of the last iterations, for the rate
    bool failing_ = false;               // the last write failed
};

}  // namespace nca::tool
