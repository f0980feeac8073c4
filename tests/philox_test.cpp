// SPDX-License-Identifier: MIT
// The kernels' Philox against the published vectors, Random123's and, where it is installed,
// cuRAND's.
#include "cuda/rule/philox.hpp"
#include "tests/support/catch.hpp"

#ifdef NCA_TEST_CURAND
#define QUALIFIERS static inline
#include <cuda_runtime.h>
#include <curand_philox4x32_x.h>
#endif

#include <array>
#include <cstdint>

using namespace nca;
using Words = std::array<std::uint32_t, 4>;

namespace {

Words kernels_philox(const Words& c, std::uint32_t key0, std::uint32_t key1) {
    return std::to_array(cuda::philox4x32({{c[0], c[1], c[2], c[3]}}, key0, key1).words);
}

// Numbers without a pattern, some of them at the ends of the range.
Words counter(std::uint32_t i) {
    return {i * 0x9e3779b9U, ~i, i == 0 ? 0xffffffffU : i << 27, i * i};
}

}  // namespace

TEST_CASE("the kernels' philox gives the published known answers of Philox4x32-10") {
    const std::uint32_t ones = 0xffffffff;
    REQUIRE(kernels_philox({0, 0, 0, 0}, 0, 0) ==
            Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    REQUIRE(kernels_philox({ones, ones, ones, ones}, ones, ones) ==
            Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    REQUIRE(kernels_philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822,
                           0x299f31d0) == Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("the kernels' philox gives the numbers of Random123") {
    for (std::uint32_t i = 0; i < 1000; ++i) {
        REQUIRE(kernels_philox(counter(i), i * 7, 4) == philox(i * 7, Purpose::damage, counter(i)));
    }
}

#ifdef NCA_TEST_CURAND
TEST_CASE("the kernels' philox gives the numbers of cuRAND") {
    for (std::uint32_t i = 0; i < 1000; ++i) {
        const Words c = counter(i);
        const uint4 words = curand_Philox4x32_10({c[0], c[1], c[2], c[3]}, {i * 7, 3});
        REQUIRE(kernels_philox(c, i * 7, 3) == Words{words.x, words.y, words.z, words.w});
    }
}
#endif

TEST_CASE("the kernels' fire masks are those of nca::fires") {
    const FireKey key = {.seed = 11, .iteration = 13, .first_step = 17, .first_sample = 19};
    for (const float rate : {0.0F, 0.3F, 0.5F, 1.0F}) {
        for (std::uint32_t i = 0; i < 2000; ++i) {
            const std::uint32_t step = i % 5, sample = i % 3, cell = i * 37;
            REQUIRE(cuda::cell_fires(key, fire_threshold(rate), step, sample, cell) ==
                    fires(key, rate, step, sample, cell));
        }
    }
}
