// SPDX-License-Identifier: MIT
#pragma once

#include <nca/device.hpp>

#include <algorithm>
#include <thread>

namespace nca::tool {

// The number of CPU threads to use.
inline int thread_count(const Device& device) {
    return device.threads > 0 ? device.threads
                              : int(std::max(1U, std::thread::hardware_concurrency()));
}

// The threads of one of several trainings side by side, which use all together; at least 1.
inline int thread_share(int threads, int trainings, int training) {
    return std::max(1, threads / trainings + (training < threads % trainings ? 1 : 0));
}

}  // namespace nca::tool
