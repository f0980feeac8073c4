// SPDX-License-Identifier: MIT
#pragma once

#include <time.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <optional>

// What ends training early, a signal or the time limit, and the signal that asks how it goes.
namespace nca::tool {

// The signal that came; 0 before. All training threads read it.
inline std::atomic<int> stop_signal = 0;
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler writes it");

// When it came, in nanoseconds of the monotonic clock.
inline std::atomic<std::int64_t> stop_time = 0;
static_assert(std::atomic<std::int64_t>::is_always_lock_free, "a signal handler writes it");

// Whether SIGUSR1 came and nobody has answered yet.
inline std::atomic<bool> asked_for_progress = false;
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler writes it");

// The end of --time. Set before the training threads begin.
inline std::chrono::steady_clock::time_point deadline =
    std::chrono::steady_clock::time_point::max();

// May call only what is safe in a signal handler.
inline void take_signal(int signal) {
    constexpr std::int64_t second = 1'000'000'000;
    constexpr std::int64_t shortest_pause = second / 5;
    timespec clock{};
    clock_gettime(CLOCK_MONOTONIC, &clock);
    const std::int64_t now = clock.tv_sec * second + clock.tv_nsec;
    if (stop_signal == 0) {
        stop_time = now;
        stop_signal = signal;
    } else if (signal == SIGINT && now - stop_time >= shortest_pause) {
        std::signal(SIGINT, SIG_DFL);
        raise(SIGINT);
    }
}

inline void ask_for_progress(int) { asked_for_progress = true; }

// The first signal asks training to stop and to save. A Ctrl-C 0.2 seconds or more later kills
// the process. Other signals do not: a terminal that is closed sends several at once. SIGUSR1 asks
// for a line of progress; it interrupts no system call. A signal that is already ignored (nohup)
// stays ignored. Training continues when stderr is closed (SIGPIPE).
inline void catch_signals() {
    const auto set_handler = [](int signal, void (*handler)(int), int flags) {
        struct sigaction action {};
        action.sa_handler = handler;
        action.sa_flags = flags;
        struct sigaction old {};
        sigaction(signal, nullptr, &old);
        if (old.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);
    };
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) set_handler(signal, take_signal, 0);
    set_handler(SIGUSR1, ask_for_progress, SA_RESTART);
    std::signal(SIGPIPE, SIG_IGN);
}

// Training ends this long after now.
inline void limit_time(std::optional<std::chrono::seconds> time) {
    if (time) deadline = std::chrono::steady_clock::now() + *time;
}

inline bool must_stop() { return stop_signal != 0 || std::chrono::steady_clock::now() >= deadline; }

// The first words of a message about a training that must_stop() has ended.
inline const char* stopped_text() {
    return stop_signal == 0 && must_stop() ? "the time limit is reached, stopped" : "stopped";
}

}  // namespace nca::tool
