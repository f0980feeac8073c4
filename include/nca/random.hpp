// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>

#include <array>
#include <cstdint>

namespace nca {

// What a random draw is for; a word of the Philox key, so that no two uses share numbers. The
// values are part of the format: they must never change.
enum class Purpose : std::uint32_t {
    fire = 0,
    step_count = 1,
    initial_weights = 2,
    pool_sample = 3,
    damage = 4,
};

// One Philox4x32-10 block: four 32-bit words, a pure function of key = (seed, purpose) and counter.
// Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
NCA_API std::array<std::uint32_t, 4> philox(std::uint32_t seed, Purpose purpose,
                                            const std::array<std::uint32_t, 4>& counter);

// Which fire masks a rollout draws. The mask of a cell depends on these, the sample, the step and
// the cell's index y * width + x alone:
// counter = (cell / 4, first_step + step, first_sample + sample, iteration), word cell % 4.
struct FireKey {
    std::uint32_t seed = 0;
    std::uint32_t iteration = 0;
    std::uint32_t first_step = 0;
    std::uint32_t first_sample = 0;
};

// A cell fires when its word is below this: fire_rate * 2^32, as an integer in 0..2^32.
NCA_API std::uint64_t fire_threshold(float fire_rate);

// Whether one cell fires; the definition that every engine's bulk version is tested against.
NCA_API bool fires(const FireKey& key, float fire_rate, std::uint32_t step, std::uint32_t sample,
                   std::uint32_t cell);

}  // namespace nca
