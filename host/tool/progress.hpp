// SPDX-License-Identifier: MIT
#pragma once

#include "host/core/median.hpp"
#include "host/tool/console.hpp"
#include "host/tool/signals.hpp"

#include <nca/trainer.hpp>

#include <unistd.h>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace nca::tool {

// Counts finished iterations and measures how fast they are.
class Pace {
public:
    using Clock = std::chrono::steady_clock;

    // window: how many of the last iterations the rate is a mean of.
    Pace(std::int64_t wanted, std::int64_t window) : wanted_(wanted), window_(window) {}

    // Adds finished iterations. Those of an earlier run are not measured.
    void advance(std::int64_t iterations, bool measured = true) {
        done_ += iterations;
        measured_ += measured ? iterations : 0;
        marks_.push_back({measured_, Clock::now()});
        while (marks_.size() > 2 && marks_[1].measured <= measured_ - window_) marks_.pop_front();
    }
    // Lowers the number of wanted iterations, because a training ended early.
    void drop(std::int64_t iterations) { wanted_ -= iterations; }

    std::int64_t done() const { return done_; }
    std::int64_t wanted() const { return wanted_; }
    // Iterations per second; 0 before the first are measured.
    double rate() const {
        if (marks_.empty()) return 0;
        const double seconds =
            std::chrono::duration<double>(marks_.back().time - marks_.front().time).count();
        return double(measured_ - marks_.front().measured) / std::max(seconds, 1e-9);
    }
    // Whether `pause` has passed since this was last true.
    bool due(Clock::duration pause) {
        if (rate() <= 0 || marks_.back().time - shown_ < pause) return false;
        shown_ = marks_.back().time;
        return true;
    }

private:
    struct Mark {
        std::int64_t measured;
        Clock::time_point time;
    };

    std::int64_t wanted_;
    std::int64_t window_;
    std::int64_t done_ = 0;
    std::int64_t measured_ = 0;
    std::deque<Mark> marks_;
    Clock::time_point shown_ = Clock::now();
};

// Shows the progress of trainings on stderr: on a terminal one live line for all of them, otherwise
// a plain line about each every ten seconds, nothing when quiet. After SIGUSR1 a plain line about
// each that runs, also when quiet. The trainings may run on several threads.
class Progress {
public:
    // names: printed before each training's messages. A single training needs none.
    Progress(const std::vector<std::string>& names, std::int64_t iterations, bool quiet)
        : all_(iterations * std::int64_t(names.size()), window * std::int64_t(names.size())),
          quiet_(quiet),
          live_(isatty(STDERR_FILENO) != 0) {
        for (const std::string& name : names) {
            trainings_.push_back({name, Pace(iterations, window), {}, false, false});
        }
    }
    ~Progress() { clear(); }
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;

    // The progress of one training.
    class Training {
    public:
        void add(const IterationReport& report) { progress_->add(index_, report); }
        // Sets how many iterations are done, first those of an earlier run. An engine that queues
        // iterations finishes several at a time.
        void reach(std::int64_t done) { progress_->reach(index_, done); }
        // The training ends, perhaps before all iterations are done.
        void end() { progress_->end(index_); }
        // Prints a message on stderr, also when quiet.
        void say(std::string_view message) { progress_->say(index_, message); }
        template <class Value, class... Values>
        void say(fmt::format_string<Value, Values...> message, Value&& value, Values&&... values) {
            say(fmt::format(message, std::forward<Value>(value), std::forward<Values>(values)...));
        }
        // Prints a result on stdout.
        void print(std::string_view text) { progress_->print(text); }

    private:
        friend class Progress;
        Training(Progress& progress, std::size_t index) : progress_(&progress), index_(index) {}

        Progress* progress_;
        std::size_t index_;
    };

    Training of(std::size_t index) { return {*this, index}; }

    void say(std::string_view message) {
        const std::scoped_lock lock(mutex_);
        clear();
        tool::say(message);
    }

private:
    static constexpr std::int64_t window = 100;  // iterations in the means of rate and loss

    struct State {
        std::string name;
        Pace pace;
        std::deque<double> losses;  // finite ones of the last iterations
        bool begun = false;         // after the first reach(), which has an earlier run's
        bool ended = false;

        std::optional<double> loss() const {
            double sum = 0;
            for (const double value : losses) sum += value / double(losses.size());
            return losses.empty() ? std::nullopt : std::optional(sum);
        }
    };

    void add(std::size_t index, const IterationReport& report) {
        const std::scoped_lock lock(mutex_);
        std::deque<double>& losses = trainings_[index].losses;
        if (std::isfinite(report.loss)) losses.push_back(report.loss);
        if (losses.size() > std::size_t{window}) losses.pop_front();
    }

    void reach(std::size_t index, std::int64_t done) {
        const std::scoped_lock lock(mutex_);
        State& training = trainings_[index];
        const std::int64_t more = done - training.pace.done();
        training.pace.advance(more, training.begun);
        all_.advance(more, training.begun);
        training.begun = true;
        if (asked_for_progress.exchange(false)) answer();
        if (!quiet_) show(training);
    }

    void end(std::size_t index) {
        const std::scoped_lock lock(mutex_);
        State& training = trainings_[index];
        const std::int64_t left = training.pace.wanted() - training.pace.done();
        training.pace.drop(left);
        all_.drop(left);
        training.ended = true;
    }

    void say(std::size_t index, std::string_view message) {
        const std::string& name = trainings_[index].name;
        say(name.empty() ? std::string(message) : fmt::format("{}: {}", name, message));
    }

    void print(std::string_view text) {
        const std::scoped_lock lock(mutex_);
        clear();
        tool::print(text);
    }

    void clear() {
        if (drawn_) {
            std::fputs("\r\033[K", stderr);
            drawn_ = false;
        }
    }

    void show(State& training) {
        std::string text;
        if (live_ && all_.due(std::chrono::milliseconds(200))) {
            const bool several = trainings_.size() > 1;
            text = fmt::format("\r{}{}\033[K",
                               several ? fmt::format("{} automata: ", trainings_.size()) : "",
                               line(all_, several ? "median loss" : "loss", median_loss()));
            drawn_ = true;
        } else if (!live_ && training.pace.due(std::chrono::seconds(10))) {
            text = plain_line(training);
        }
        std::fwrite(text.data(), 1, text.size(), stderr);
    }

    // Of several trainings also says how many there are.
    void answer() {
        clear();
        std::string text;
        std::size_t ended = 0;
        std::size_t waiting = 0;
        for (const State& training : trainings_) {
            if (training.ended) {
                ++ended;
            } else if (!training.begun) {
                ++waiting;
            } else {
                text += plain_line(training);
            }
        }
        if (trainings_.size() > 1) {
            text +=
                fmt::format("{} trainings: {} ended, {} running, {} waiting\n", trainings_.size(),
                            ended, trainings_.size() - ended - waiting, waiting);
        }
        std::fwrite(text.data(), 1, text.size(), stderr);
    }

    static std::string plain_line(const State& training) {
        const std::string about =
            training.name.empty() ? "" : fmt::format("{}: ", without_controls(training.name));
        return fmt::format("{}{}\n", about, line(training.pace, "loss", training.loss()));
    }

    static std::string line(const Pace& pace, const char* loss_name, std::optional<double> loss) {
        const std::string done = fmt::format("iteration {}/{}", pace.done(), pace.wanted());
        if (pace.rate() <= 0) return done + "  this run has done no iteration yet";
        return fmt::format("{}  {:.3g} it/s  {} {}  {} left", done, pace.rate(), loss_name,
                           loss ? fmt::format("{:.3e}", *loss) : "not finite",
                           duration(double(pace.wanted() - pace.done()) / pace.rate()));
    }

    // The median of the trainings' losses; nothing before the first.
    std::optional<double> median_loss() const {
        std::vector<double> losses;
        for (const State& training : trainings_) {
            if (const std::optional<double> loss = training.loss()) losses.push_back(*loss);
        }
        if (losses.empty()) return std::nullopt;
        return median(losses);
    }

    std::mutex mutex_;
    std::vector<State> trainings_;
    Pace all_;
    bool quiet_;
    bool live_;
    bool drawn_ = false;  // the live line is on the screen
};

}  // namespace nca::tool
