// SPDX-License-Identifier: MIT
#include "python/module/compute_thread.hpp"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace nca::python {
namespace {

// A thread that computes for one caller at a time.
class ComputeThread {
public:
    ComputeThread() {
        std::thread([this] { work(); }).detach();
    }

    void run(const std::function<void()>& compute) {
        std::unique_lock lock(mutex_);
        compute_ = &compute;
        changed_.notify_all();
        changed_.wait(lock, [&] { return compute_ == nullptr; });
        if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
    }

private:
    [[noreturn]] void work() {
        std::unique_lock lock(mutex_);
        for (;;) {
            changed_.wait(lock, [&] { return compute_ != nullptr; });
            try {
                (*compute_)();
            } catch (...) {
                thrown_ = std::current_exception();
            }
            compute_ = nullptr;
            changed_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    const std::function<void()>* compute_ = nullptr;  // not null: to be called
    std::exception_ptr thrown_;
};

// Those that wait for a caller. Never destroyed, like the threads themselves.
struct FreeThreads {
    std::mutex mutex;
    std::vector<ComputeThread*> threads;
    pid_t process = ::getpid();  // a child of fork has no threads
};

FreeThreads& free_threads() {
    static FreeThreads& the_threads = *new FreeThreads;
    return the_threads;
}

ComputeThread* take_thread() {
    FreeThreads& free = free_threads();
    const std::scoped_lock lock(free.mutex);
    if (free.process != ::getpid()) {
        free.threads.clear();
        free.process = ::getpid();
    }
    if (free.threads.empty()) return new ComputeThread;
    ComputeThread* const taken = free.threads.back();
    free.threads.pop_back();
    return taken;
}

}  // namespace

void on_compute_thread(const std::function<void()>& compute) {
    constexpr int most_early = 4;
    static std::atomic<int> callers = 0;
    thread_local const bool is_early = callers++ < most_early;
    if (is_early) {
        compute();
        return;
    }
    const auto give_back = [](ComputeThread* thread) {
        const std::scoped_lock lock(free_threads().mutex);
        free_threads().threads.push_back(thread);
    };
    const std::unique_ptr<ComputeThread, decltype(give_back)> thread(take_thread(), give_back);
    thread->run(compute);
}

}  // namespace nca::python
