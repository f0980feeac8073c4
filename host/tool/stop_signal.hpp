// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <csignal>

// How a person ends a training early.
namespace nca::tool {

// 0 as long as there was none. Trainings on several threads look at it.
inline std::atomic<int> stop_signal = 0;
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler writes it");

// The first signal asks the loop to stop, a second one kills as usual. A signal that the caller
// ignores (nohup) stays ignored. Nobody reading stderr any more is no reason to stop.
inline void catch_signals() {
    struct sigaction action {};
    action.sa_handler = [](int signal) { stop_signal = signal; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
        struct sigaction old {};
        sigaction(signal, nullptr, &old);
        if (old.sa_handler != SIG_IGN) {
            sigaction(signal, &action, nullptr);
        }
    }
    std::signal(SIGPIPE, SIG_IGN);
}

}  // namespace nca::tool
