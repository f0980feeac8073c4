// SPDX-License-Identifier: MIT
#pragma once

#include <time.h>

#include <atomic>
#include <csignal>
#include <cstdint>

// Stops training by a signal.
namespace nca::tool {

// The signal that came; 0 before. All training threads read it.
inline std::atomic<int> stop_signal = 0;
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler writes it");

// When it came, in nanoseconds of the monotonic clock.
inline std::atomic<std::int64_t> stop_time = 0;
static_assert(std::atomic<std::int64_t>::is_always_lock_free, "a signal handler writes it");

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

// The first signal asks training to stop and to save. A Ctrl-C 0.2 seconds or more later kills
// the process. Other signals do not: a terminal that is closed sends several at once. A signal that
// is already ignored (nohup) stays ignored. Training continues when stderr is closed (SIGPIPE).
inline void catch_signals() {
    struct sigaction action {};
    action.sa_handler = take_signal;
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
        struct sigaction old {};
        sigaction(signal, nullptr, &old);
        if (old.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);
    }
    std::signal(SIGPIPE, SIG_IGN);
}

}  // namespace nca::tool
