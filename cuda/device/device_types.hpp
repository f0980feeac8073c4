// SPDX-License-Identifier: MIT
#pragma once

// What the functions of device.cuh work on.

#include <cstdint>

namespace nca::cuda {

// An mbarrier in shared memory. It goes through phases of alternating parity, the first one 0. A
// phase is complete when as many threads have arrived as init_arrival_barrier was told, and all
// bytes are there that they expect.
struct alignas(8) ArrivalBarrier {
    std::uint64_t word;
};

// A lane's four sums of a matrix product.
struct Accumulator {
    float sums[4];
};

}  // namespace nca::cuda
