// SPDX-License-Identifier: MIT
#pragma once

// What a call costs: time and memory.

#include "tests/support/catch.hpp"

#include <sys/resource.h>

#include <ctime>

namespace nca::test {

// Of a call that has to end at once, in seconds of the processor. Builds that are checked or not
// optimised get more.
#if defined(NDEBUG) && !defined(__SANITIZE_ADDRESS__)
inline constexpr double most_seconds = 2;
#else
inline constexpr double most_seconds = 10;
#endif

// The most memory that this process has had so far, in bytes.
inline double peak_memory() {
    rusage usage = {};
    REQUIRE(getrusage(RUSAGE_SELF, &usage) == 0);
    return usage.ru_maxrss * 1024.0;
}

// Requires that the call takes at most most_seconds and so many bytes of memory beyond the most
// that this process has had before.
template <class Call>
void require_cheap(double most_bytes, Call&& call) {
    const double memory = peak_memory();
    const std::clock_t start = std::clock();
    call();
    const double seconds = double(std::clock() - start) / CLOCKS_PER_SEC;
    REQUIRE(seconds <= most_seconds);
    REQUIRE(peak_memory() - memory <= most_bytes);
}

}  // namespace nca::test
