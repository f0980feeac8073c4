// SPDX-License-Identifier: MIT
#pragma once

// Philox4x32-10 for the device: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC
// 2011. A pure function, checked in tests/philox_test.cpp against nca::philox (Random123's), the
// paper's vectors, and cuRAND's where that is installed.

#include <nca/random.hpp>

#include <cstdint>

#include "cuda/device/traits.hpp"

namespace nca::cuda {

struct PhiloxBlock {
    std::uint32_t words[4];
};

NCA_HOST_DEVICE inline PhiloxBlock philox4x32(PhiloxBlock counter, std::uint32_t key0,
                                              std::uint32_t key1) {
    constexpr std::uint64_t multiplier0 = 0xD2511F53, multiplier1 = 0xCD9E8D57;
    auto& c = counter.words;
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t product0 = multiplier0 * c[0];
        const std::uint64_t product1 = multiplier1 * c[2];
        const auto high0 = std::uint32_t(product0 >> 32);
        const auto high1 = std::uint32_t(product1 >> 32);
        c[0] = high1 ^ c[1] ^ key0;
        c[1] = std::uint32_t(product1);
        c[2] = high0 ^ c[3] ^ key1;
        c[3] = std::uint32_t(product0);
        key0 += 0x9E3779B9;  // the golden ratio
        key1 += 0xBB67AE85;  // the square root of 3, less 1
    }
    return counter;
}

// The words that decide whether a cell and the three that share a block with it fire.
NCA_HOST_DEVICE inline PhiloxBlock fire_words(const FireKey& key, std::uint32_t step,
                                              std::uint32_t sample, std::uint32_t cell) {
    return philox4x32({{cell / 4, key.first_step + step, key.first_sample + sample, key.iteration}},
                      key.seed, std::uint32_t(Purpose::fire));
}

NCA_HOST_DEVICE inline std::uint32_t word_of_cell(const PhiloxBlock& block, std::uint32_t cell) {
    // A chain of selections: an index would put the block into local memory.
    const std::uint32_t low = cell % 2 == 0 ? block.words[0] : block.words[1];
    const std::uint32_t high = cell % 2 == 0 ? block.words[2] : block.words[3];
    return cell % 4 < 2 ? low : high;
}

// Whether one cell fires: nca::fires, with the threshold of nca::fire_threshold.
NCA_HOST_DEVICE inline bool cell_fires(const FireKey& key, std::uint64_t threshold,
                                       std::uint32_t step, std::uint32_t sample,
                                       std::uint32_t cell) {
    return word_of_cell(fire_words(key, step, sample, cell), cell) < threshold;
}

}  // namespace nca::cuda
