// SPDX-License-Identifier: MIT
#include "python/module/engine_pool.hpp"

#include "host/core/throw_error.hpp"

#include <nca/error.hpp>

#include <omp.h>

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

namespace nca::python {
namespace {

struct EnginePool {
    std::mutex mutex;
    Device settings;               // its threads and precision
    bool has_cuda_engine = false;  // one was made
    std::vector<std::pair<Device, std::unique_ptr<Engine>>> free;
};

// Never destroyed: threads may still compute while the process ends.
EnginePool& pool() {
    static EnginePool& the_pool = *new EnginePool;
    return the_pool;
}

bool are_equal(const Device& a, const Device& b) {
    return a.kind == b.kind && a.index == b.index && a.threads == b.threads &&
           a.precision == b.precision;
}

}  // namespace

BorrowedEngine::BorrowedEngine(int device)
    : device_(with_settings(device == cpu ? Device::cpu() : Device::cuda(device))) {
    {
        const std::scoped_lock lock(pool().mutex);
        auto& free = pool().free;
        const auto found = std::ranges::find_if(
            free, [&](const auto& entry) { return are_equal(entry.first, device_); });
        if (found != free.end()) {
            engine_ = std::move(found->second);
            free.erase(found);
            return;
        }
    }
    engine_ = make_engine(device_);
    if (device_.kind == Device::Kind::cuda) {
        const std::scoped_lock lock(pool().mutex);
        pool().has_cuda_engine = true;
    }
}

BorrowedEngine::~BorrowedEngine() {
    constexpr std::size_t most_free = 16;
    const std::scoped_lock lock(pool().mutex);
    auto& free = pool().free;
    free.emplace_back(device_, std::move(engine_));
    // CUDA engines stay: a graph that a program has captured uses their memory.
    if (free.size() > most_free && free.front().first.kind == Device::Kind::cpu) {
        free.erase(free.begin());
    }
}

void set_threads(int threads) {
    constexpr int most = 1024;
    if (threads < 1 || threads > most) {
        throw_error<InvalidArgument>("{} threads: expected 1 to {}", threads, most);
    }
    const std::scoped_lock lock(pool().mutex);
    pool().settings.threads = threads;
}

int threads() {
    const std::scoped_lock lock(pool().mutex);
    return pool().settings.threads == 0 ? omp_get_num_procs() : pool().settings.threads;
}

void set_precision(const std::string& name) {
    const Precision wanted = parse_precision(name);
    const std::scoped_lock lock(pool().mutex);
    // A tape belongs to the precision that it was made in.
    if (pool().has_cuda_engine && pool().settings.precision != wanted) {
        throw Error(
            "set_precision comes too late: a rollout has run on a GPU, and its way back needs the "
            "same precision; call it before the first one");
    }
    pool().settings.precision = wanted;
}

Device with_settings(Device device) {
    const std::scoped_lock lock(pool().mutex);
    device.threads = pool().settings.threads;
    device.precision = pool().settings.precision;
    return device;
}

}  // namespace nca::python
