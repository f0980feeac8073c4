// SPDX-License-Identifier: MIT
#include "host/tool/training_report.hpp"

#include "host/files/atomic_file.hpp"

#include <nca/version.hpp>

#include <fmt/chrono.h>

#include <cmath>
#include <ctime>
#include <exception>
#include <utility>

namespace nca::tool {
namespace {

constexpr std::size_t rate_window = 100;  // iterations

std::string time_now() {
    return fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", fmt::gmtime(std::time(nullptr)));
}

}  // namespace

void TrainingReport::add_earlier(std::span<const IterationReport> earlier, double seconds) {
    for (const IterationReport& report : earlier) note(report);
    earlier_seconds_ = seconds;
}

void TrainingReport::add(const IterationReport& report) {
    note(report);
    marks_.push_back({now() - pace_.spent(), marks_.back().steps + report.steps});
    if (marks_.size() > rate_window + 1) marks_.pop_front();
}

void TrainingReport::note(const IterationReport& report) {
    if (!noted_) {
        history_.first_iteration = report.iteration;
        noted_ = true;
    }
    if (report.loss > 0 && std::isfinite(report.loss)) {
        history_.losses.push_back({report.iteration, report.loss});
    }
    if (!report.recovery.empty()) {
        history_.recoveries.push_back({report.iteration, report.recovery});
    }
    history_.dead += report.dead;
    history_.reset += report.reset;
}

std::string TrainingReport::update(const Trainer& trainer) {
    return pace_.due(now()) ? write(trainer, RunState::running, "") : "";
}

std::string TrainingReport::finish(const Trainer& trainer, RunState state,
                                   const std::string& error) {
    return write(trainer, state, error);
}

TrainingPage TrainingReport::page(const Trainer& trainer, RunState state,
                                  const std::string& error) const {
    const TrainingConfig& config = trainer.config();
    const TrainingHistory trained = trainer.model().history;
    const double seconds = std::max(marks_.back().seconds - marks_.front().seconds, 1e-9);
    const double cells = double(config.batch) * config.grid() * config.grid();
    return {
        .state = state,
        .error = error,
        .target = trained.target,
        .init = trained.init,
        .engine = trainer.engine().description(),
        .version = NCA_VERSION,
        .written = time_now(),
        .config = config,
        .done = trainer.iteration(),
        .wanted = arguments_.iterations,
        .loss = trained.loss,
        .seconds = earlier_seconds_ + now(),
        .iterations_per_second = double(marks_.size() - 1) / seconds,
        .cell_steps_per_second =
            cells * double(marks_.back().steps - marks_.front().steps) / seconds,
        .own_share = pace_.spent() / std::max(now(), 1e-9),
        .refresh_seconds = int(std::ceil(pace_.pause())),
    };
}

std::string TrainingReport::write(const Trainer& trainer, RunState state,
                                  const std::string& error) {
    const double began = now();
    std::string problem;
    // Tries each of the following, also where another one fails.
    const auto attempt = [&](auto action) {
        try {
            action();
        } catch (const std::exception& failure) {
            problem = problem.empty() ? failure.what() : problem;
        }
    };
    if (marks_.size() > 1) {  // there is nothing to see before the first iteration
        attempt([&] { pictures_ = take_pictures(trainer, arguments_.device); });
    }
    if (!arguments_.report.empty()) {
        attempt([&] {
            write_text(arguments_.report, html_page(page(trainer, state, error), history_,
                                                    pictures_ ? &*pictures_ : nullptr));
        });
    }
    if (!arguments_.pictures.empty() && pictures_) {
        attempt([&] { save_pictures(arguments_.pictures, *pictures_); });
    }
    pace_.made(began, now());
    const bool was_failing = std::exchange(failing_, !problem.empty());
    return was_failing ? "" : problem;
}

}  // namespace nca::tool
