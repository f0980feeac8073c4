// SPDX-License-Identifier: MIT
#include "host/iteration/loss_steps.hpp"

#include <nca/random.hpp>

#include <algorithm>

namespace nca {

std::vector<int> draw_loss_steps(const TrainingConfig& config, std::uint32_t seed,
                                 std::int64_t iteration, int steps) {
    std::vector<int> drawn;
    if (config.latest_loss_step == 0) return drawn;
    const int earliest = std::min(config.earliest_loss_step, steps);
    const std::uint64_t choices = std::min(config.latest_loss_step - 1, steps) - earliest + 1;
    for (std::uint32_t i = 0; i < std::uint32_t(config.batch); ++i) {
        const auto words =
            philox(seed, Purpose::loss_step, {i / 4, 0, 0, std::uint32_t(iteration)});
        drawn.push_back(earliest + int(words[i % 4] * choices >> 32));
    }
    return drawn;
}

}  // namespace nca
