// SPDX-License-Identifier: MIT
#pragma once

#include "host/tool/console.hpp"

#include <nca/trainer.hpp>

#include <unistd.h>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <deque>
#include <string>

namespace nca::tool {

// What a person sees of a training run, on stderr: one live line on a terminal, a plain line every
// ten seconds otherwise, nothing when quiet.
class Progress {
public:
    using Clock = std::chrono::steady_clock;

    Progress(std::int64_t total, bool quiet)
        : total_(total), quiet_(quiet), live_(isatty(STDERR_FILENO) != 0) {}
    ~Progress() { clear(); }
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;

    void add(const IterationReport& report) {
        if (std::isfinite(report.loss)) {
            losses_.push_back(report.loss);
        }
        if (losses_.size() > window) {
            losses_.pop_front();
        }
    }

    // So many iterations are done by now. An engine that queues them finishes several at a time.
    void reach(std::int64_t done) {
        marks_.push_back({done, Clock::now()});
        while (marks_.size() > 2 && marks_[1].done <= done - std::int64_t{window}) {
            marks_.pop_front();
        }
        const auto pause = live_ ? std::chrono::milliseconds(200) : std::chrono::seconds(10);
        if (!quiet_ && marks_.back().time - shown_ >= pause && marks_.size() > 1) {
            shown_ = marks_.back().time;
            show();
        }
    }

    // A line among the progress, for warnings too: also when quiet.
    void say(std::string_view message) {
        clear();
        tool::say(message);
    }

private:
    static constexpr std::size_t window = 100;  // iterations that rate and loss are means of

    struct Mark {
        std::int64_t done;
        Clock::time_point time;
    };

    void clear() {
        if (drawn_) {
            std::fputs("\r\033[K", stderr);
            drawn_ = false;
        }
    }

    void show() {
        const auto [done, now] = marks_.back();
        double loss = 0;
        for (const double value : losses_) {
            loss += value / static_cast<double>(losses_.size());
        }
        const double seconds = std::chrono::duration<double>(now - marks_.front().time).count();
        const double rate =
            static_cast<double>(done - marks_.front().done) / std::max(seconds, 1e-9);
        const std::string line =
            fmt::format("iteration {}/{}  {:.3g} it/s  loss {}  {} left", done, total_, rate,
                        losses_.empty() ? "not finite" : fmt::format("{:.3e}", loss),
                        duration(static_cast<double>(total_ - done) / rate));
        const std::string text = live_ ? "\r" + line + "\033[K" : line + "\n";
        std::fwrite(text.data(), 1, text.size(), stderr);
        drawn_ = live_;
    }

    std::int64_t total_;
    bool quiet_;
    bool live_;
    bool drawn_ = false;  // the live line is on the screen
    std::deque<double> losses_;
    std::deque<Mark> marks_;
    Clock::time_point shown_ = Clock::now();
};

}  // namespace nca::tool
