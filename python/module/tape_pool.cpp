// SPDX-License-Identifier: MIT
#include "python/module/tape_pool.hpp"

#include <nca/sizes.hpp>

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

namespace nca::python {
namespace {

// The blocks that no tape uses, the newest last. Never destroyed, as tensors may outlive all else.
struct Pool {
    std::mutex mutex;
    std::vector<std::unique_ptr<TapeBlock>> free;
};
Pool& pool() {
    static Pool& the_pool = *new Pool;
    return the_pool;
}

// Enough for several rollouts of one loss; older blocks of other shapes are freed.
constexpr std::size_t most_free = 8;

void give_back(TapeBlock* block) {
    std::unique_ptr<TapeBlock> oldest;  // freed behind the lock
    const std::scoped_lock lock(pool().mutex);
    auto& free = pool().free;
    free.emplace_back(block);
    if (free.size() <= most_free) return;
    oldest = std::move(free.front());
    free.erase(free.begin());
}

}  // namespace

std::shared_ptr<TapeBlock> take_tape_block(const TapeShape& shape, int steps,
                                           std::size_t rest_bytes) {
    std::unique_ptr<TapeBlock> block;
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
        } else {  // those that have become too small
            std::erase_if(free, [&](const auto& one) { return one->shape == shape; });
        }
    }
    if (!block) {
        const std::size_t floats = (std::size_t(steps) + 1) * std::size_t(shape.batch) *
                                   std::size_t(shape.height) * std::size_t(shape.width) * channels;
        block = std::make_unique<TapeBlock>(TapeBlock{shape, steps,
                                                      cpu::ZeroedMemory(floats * sizeof(float)),
                                                      cpu::ZeroedMemory(rest_bytes)});
    }
    return {block.release(), give_back};
}

}  // namespace nca::python
