// SPDX-License-Identifier: MIT
#include <nca/random.hpp>

#include <Random123/philox.h>

#include <cmath>

#include "host/core/throw_error.hpp"

namespace nca {

std::array<std::uint32_t, 4> philox(std::uint32_t seed, Purpose purpose,
                                    const std::array<std::uint32_t, 4>& counter) {
    const philox4x32_key_t key = {{seed, std::uint32_t(purpose)}};
    const philox4x32_ctr_t block = {{counter[0], counter[1], counter[2], counter[3]}};
    const philox4x32_ctr_t words = philox4x32(block, key);
    return {words.v[0], words.v[1], words.v[2], words.v[3]};
}

std::uint64_t fire_threshold(float fire_rate) {
    if (!(fire_rate >= 0 && fire_rate <= 1)) {
        throw_error<InvalidArgument>(
            "fire rate {} is outside 0..1; give the chance that a cell updates in a step, such as "
            "0.5",
            fire_rate);
    }
    // The product is exact; llround rounds only those of rates below 2^-8.
    return std::uint64_t(std::llround(double(fire_rate) * 0x1p32));
}

bool fires(const FireKey& key, float fire_rate, std::uint32_t step, std::uint32_t sample,
           std::uint32_t cell) {
    const auto words =
        philox(key.seed, Purpose::fire,
               {cell / 4, key.first_step + step, key.first_sample + sample, key.iteration});
    return words[cell % 4] < fire_threshold(fire_rate);
}

}  // namespace nca
