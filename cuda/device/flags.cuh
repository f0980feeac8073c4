// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "cuda/device/device.cuh"

namespace nca::cuda {

// Waits until a count that grows for ever, modulo 2^32, has reached a value. A value that is never
// reached is a bug: after 2^26 reads, most of a minute, the launch fails.
__device__ inline void wait_for_count(const std::uint32_t* count, std::uint32_t value) {
    std::uint32_t reads = 0;
    while (std::int32_t(acquire_flag(count) - value) < 0) {
        if (++reads == 1U << 26) __trap();
    }
}

}  // namespace nca::cuda
