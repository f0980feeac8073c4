// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <csignal>

// Stops training by a signal.
namespace nca::tool {

// The signal that came; 0 before. All training threads read it.
inline std::atomic<int> stop_signal = 0;
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler writes it");

// The first signal asks training to stop, a second one kills the process. A signal that is already
// ignored (nohup) stays ignored. Training continues when stderr is closed (SIGPIPE).
inline void catch_signals() {
    struct sigaction action {};
    action.sa_handler = [](int signal) { stop_signal = signal; };
    action.sa_flags = int(SA_RESETHAND);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
        struct sigaction old {};
        sigaction(signal, nullptr, &old);
        if (old.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);
    }
    std::signal(SIGPIPE, SIG_IGN);
}

}  // namespace nca::tool
