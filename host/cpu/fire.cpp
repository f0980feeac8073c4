// SPDX-License-Identifier: MIT
#include "host/cpu/fire.hpp"

#include <Random123/philox.h>

#include <bit>

namespace nca::cpu {

std::uint64_t FireMask::word(int step, int sample, std::uint32_t first_cell,
                             std::uint64_t wanted) const {
    if (wanted == 0 || threshold_ == 0) return 0;
    if (threshold_ > 0xffffffffU) return wanted;
    const r123::Philox4x32 generator;
    const r123::Philox4x32::key_type key = {{key_.seed, std::uint32_t(Purpose::fire)}};
    const std::uint32_t first = first_cell + std::uint32_t(std::countr_zero(wanted));
    const std::uint32_t last = first_cell + 63U - std::uint32_t(std::countl_zero(wanted));
    std::uint64_t bits = 0;
    // A Philox block is for four cells. It may begin before the word of bits or end after it.
    for (std::uint32_t block = first / 4; block <= last / 4; ++block) {
        const auto words = generator({{block, key_.first_step + std::uint32_t(step),
                                       key_.first_sample + std::uint32_t(sample), key_.iteration}},
                                     key);
        for (std::uint32_t i = 0; i < 4; ++i) {
            const std::uint32_t bit = block * 4 + i - first_cell;  // very large if before the word
            if (bit < 64) bits |= std::uint64_t(words[i] < threshold_) << bit;
        }
    }
    return bits & wanted;
}

}  // namespace nca::cpu
