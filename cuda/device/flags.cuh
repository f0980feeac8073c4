// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "cuda/device/device.cuh"

namespace nca::cuda {

// Waits until a count that goes on and on, round 2^32 too, has come to a value. One that never
// comes would be a mistake: after some 2^26 reads, the better part of a minute, the launch fails.
__device__ inline void wait_for_count(const std::uint32_t* count, std::uint32_t value) {
    std::uint32_t reads = 0;
    while (static_cast<std::int32_t>(acquire_flag(count) - value) < 0) {
        if (++reads == 1U << 26) __trap();
    }
}

}  // namespace nca::cuda
