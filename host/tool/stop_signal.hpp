// SPDX-License-Identifier: MIT
#pragma once

#include <csignal>

// How a person ends a training early.
namespace nca::tool {

inline volatile std::sig_atomic_t stop_signal = 0;

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
