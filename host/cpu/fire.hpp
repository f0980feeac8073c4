// SPDX-License-Identifier: MIT
#pragma once

#include <nca/random.hpp>

#include <cstdint>

namespace nca::cpu {

// The fire masks of one rollout, 64 cells at a time.
class FireMask {
public:
    FireMask(const FireKey& key, float fire_rate)
        : key_(key), threshold_(fire_threshold(fire_rate)) {}

    // Bit i says whether cell first_cell + i of the grid fires, for the bits of wanted; all others
    // are zero. step and sample are those of the rollout, from 0.
    std::uint64_t word(int step, int sample, std::uint32_t first_cell, std::uint64_t wanted) const;

private:
    FireKey key_;
    std::uint64_t threshold_;
};

}  // namespace nca::cpu
