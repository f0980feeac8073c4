// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>

#include <array>
#include <cstdint>

namespace nca {

/// What random numbers are drawn for. It is a word of the Philox key, so that no two purposes share
/// numbers. The values must never change: a seed would then mean other numbers.
enum class Purpose : std::uint32_t {
    fire = 0,             ///< which cells fire
    step_count = 1,       ///< how many steps an iteration of training has
    initial_weights = 2,  ///< the first weights
    pool_sample = 3,      ///< which states of the pool an iteration takes
    damage = 4,           ///< the circles that are cleared
    loss_step = 5,        ///< after how many steps a sample has its loss
};

/// One Philox4x32-10 block: four 32-bit words, which depend only on key = (seed, purpose) and
/// counter. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
NCA_API std::array<std::uint32_t, 4> philox(std::uint32_t seed, Purpose purpose,
                                            const std::array<std::uint32_t, 4>& counter);

/// Which fire masks a rollout draws. Cell y * width + x of a sample draws in a step word cell % 4
/// of the Philox block with key (seed, Purpose::fire) and counter = (cell / 4, first_step + step,
/// first_sample + sample, iteration). The sums are modulo 2^32.
struct FireKey {
    std::uint32_t seed = 0;          ///< the seed of a run
    std::uint32_t iteration = 0;     ///< the number of the training iteration
    std::uint32_t first_step = 0;    ///< the number that the rollout's first step draws with
    std::uint32_t first_sample = 0;  ///< the number that the batch's first sample draws with
};

/// A cell fires where its word is below this: fire_rate * 2^32, rounded to an integer in 0..2^32.
/// Throws InvalidArgument where fire_rate is not in 0..1.
NCA_API std::uint64_t fire_threshold(float fire_rate);

/// Whether one cell fires. This is the definition; the engines' fire masks are tested against it.
/// step and sample count from 0; cell is y * width + x. Throws what fire_threshold() throws.
NCA_API bool fires(const FireKey& key, float fire_rate, std::uint32_t step, std::uint32_t sample,
                   std::uint32_t cell);

}  // namespace nca
