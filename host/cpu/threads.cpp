// SPDX-License-Identifier: MIT
#include "host/cpu/threads.hpp"

#include "host/core/throw_error.hpp"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cctype>
#include <cstdlib>
#include <mutex>
#include <string>
#include <system_error>
#include <vector>

namespace nca::cpu {
namespace {

// OpenMP keeps the threads of this thread's last region for the next one. It makes those that are
// missing and ends those that are too many. A region of one thread leaves them as they are.
thread_local int threads_of_last_region = 1;

// Whether this process is a child of fork, and OpenMP had threads in its parent.
std::atomic<bool> parent_had_threads = false;

// The stack of OpenMP's threads in bytes, where OMP_STACKSIZE says it: a number and a unit, which
// is kilobytes where there is none. 0: it is that of all threads.
std::size_t stack_size() {
    const char* text = std::getenv("OMP_STACKSIZE");
    if (text == nullptr) return 0;
    char* unit = nullptr;
    const std::size_t number = std::strtoull(text, &unit, 10);
    while (std::isspace(static_cast<unsigned char>(*unit))) ++unit;
    switch (std::tolower(static_cast<unsigned char>(*unit))) {
        case 'b':
            return number;
        case 'm':
            return number << 20;
        case 'g':
            return number << 30;
        default:
            return number << 10;
    }
}

// One of the threads that are made to see whether they can be.
struct Probe {
    std::mutex* gate = nullptr;  // closed until all are there
    pthread_t thread{};
    pid_t id = 0;
};

void* wait_for(void* argument) {
    Probe& probe = *static_cast<Probe*>(argument);
    probe.id = ::gettid();
    const std::scoped_lock lock(*probe.gate);
    return nullptr;
}

// Ends the thread. The system counts it for a moment longer than pthread_join waits for it, so this
// waits until there is no such thread, but not for ever: another one may get its number.
void end(const Probe& probe) {
    pthread_join(probe.thread, nullptr);
    constexpr int most_looks = 100'000;
    for (int i = 0; i < most_looks && ::tgkill(::getpid(), probe.id, 0) == 0; ++i) sched_yield();
}

// Makes `missing` threads, which all live at the same time, and ends them. Throws Error where the
// system makes fewer. `threads` is how many there would be with those that are there already.
void try_threads(int threads, int missing) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, stack_size());  // changes nothing where it is too small
    std::mutex gate;
    std::vector<Probe> probes(std::size_t(missing), Probe{&gate});
    int made = 0;
    int error = 0;
    {
        const std::scoped_lock closed(gate);
        for (; made < missing; ++made) {
            Probe& probe = probes[std::size_t(made)];
            error = pthread_create(&probe.thread, &attributes, wait_for, &probe);
            if (error != 0) break;
        }
    }
    for (int i = 0; i < made; ++i) end(probes[std::size_t(i)]);
    pthread_attr_destroy(&attributes);
    if (error != 0) {
        throw_error<Error>(
            "cannot compute on {} threads: the system made {} and refused the next one ({}): take "
            "fewer threads",
            threads, threads - missing + made, std::generic_category().message(error));
    }
}

void make_threads(int threads) {
    // Before the lock, which a child would have for ever if another thread had it at the fork.
    [[maybe_unused]] static const int registered =
        pthread_atfork(nullptr, nullptr, [] { parent_had_threads = true; });
    // Of two threads that come here at the same time, the second has to count the first one's.
    static std::mutex one_at_a_time;
    const std::scoped_lock lock(one_at_a_time);
    try_threads(threads, threads - threads_of_last_region);
#pragma omp parallel num_threads(threads)
    {
#pragma omp barrier  // the compiler leaves out a region in which nothing is done
    }
}

}  // namespace

void prepare_threads(int threads) {
    if (threads < 2) return;
    if (parent_had_threads) {
        throw Error(
            "this process came from fork after its parent had computed on several threads, which "
            "it does not have: fork before the first rollout, take one thread, or start a program "
            "in the child");
    }
    if (threads > threads_of_last_region) make_threads(threads);
    threads_of_last_region = threads;
}

}  // namespace nca::cpu
