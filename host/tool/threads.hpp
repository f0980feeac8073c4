// SPDX-License-Identifier: MIT
#pragma once

#include <nca/device.hpp>

#include <algorithm>
#include <thread>

namespace nca::tool {

// Of the CPU.
inline int thread_count(const Device& device) {
    return device.threads > 0 ? device.threads
                              : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

// How many of the threads one of so many trainings gets, so that those that run side by side have
// them all.
inline int thread_share(int threads, int trainings, int training) {
    return std::max(1, threads / trainings + (training < threads % trainings ? 1 : 0));
}

}  // namespace nca::tool
