// SPDX-License-Identifier: MIT
#include "python/module/tape_pool.hpp"

#include <nca/sizes.hpp>

#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

namespace nca::python {
namespace {

// The blocks that no tape uses, the newest last. Never destroyed, as tensors may outlive all else.
struct TapePool {
    std::mutex mutex;
    std::vector<std::unique_ptr<TapeBlock>> free;
};
TapePool& pool() {
    static TapePool& the_pool = *new TapePool;
    return the_pool;
}

// Enough for several rollouts of one loss.
constexpr std::size_t most_free = 8;

std::size_t bytes_of(const TapeShape& shape, int steps) {
    return (std::size_t(steps) + 1) * std::size_t(shape.batch) * std::size_t(shape.height) *
           std::size_t(shape.width) * channels * sizeof(float);
}

// Moves the oldest blocks out of `free`, as long as there are more than `most`, or they have more
// bytes than half of the machine's memory less what is wanted.
std::vector<std::unique_ptr<TapeBlock>> take_oldest(std::vector<std::unique_ptr<TapeBlock>>& free,
                                                    std::size_t most, std::size_t wanted) {
    static const std::size_t half =
        std::size_t(sysconf(_SC_PHYS_PAGES)) / 2 * std::size_t(sysconf(_SC_PAGESIZE));
    std::size_t bytes = wanted;
    for (const auto& block : free) bytes += bytes_of(block->shape, block->steps);
    std::vector<std::unique_ptr<TapeBlock>> oldest;
    while (!free.empty() && (free.size() > most || bytes > half)) {
        bytes -= bytes_of(free.front()->shape, free.front()->steps);
        oldest.push_back(std::move(free.front()));
        free.erase(free.begin());
    }
    return oldest;
}

void give_back(TapeBlock* block) {
    std::vector<std::unique_ptr<TapeBlock>> oldest;  // freed behind the lock
    const std::scoped_lock lock(pool().mutex);
    pool().free.emplace_back(block);
    oldest = take_oldest(pool().free, most_free, 0);
}

}  // namespace

std::shared_ptr<TapeBlock> take_tape_block(const TapeShape& shape, int steps,
                                           std::size_t rest_bytes) {
    std::unique_ptr<TapeBlock> block;
    std::vector<std::unique_ptr<TapeBlock>> oldest;  // freed behind the lock
    {
        const std::scoped_lock lock(pool().mutex);
        auto& free = pool().free;
        const auto fits = [&](const auto& one) {
            return one->shape == shape && one->steps >= steps;
        };
        const auto found = std::find_if(free.rbegin(), free.rend(), fits);
        if (found != free.rend()) {
            block = std::move(*found);
            free.erase(std::next(found).base());
        } else {
            // Those that have become too small go first.
            std::ranges::stable_partition(free,
                                          [&](const auto& one) { return one->shape == shape; });
            const auto small = std::ranges::count(free, shape, &TapeBlock::shape);
            oldest = take_oldest(free, free.size() - std::size_t(small), bytes_of(shape, steps));
        }
    }
    if (!block) {
        oldest.clear();
        block = std::make_unique<TapeBlock>(TapeBlock{shape, steps,
                                                      cpu::ZeroedMemory(bytes_of(shape, steps)),
                                                      cpu::ZeroedMemory(rest_bytes)});
    }
    return {block.release(), give_back};
}

}  // namespace nca::python
