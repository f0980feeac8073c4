// SPDX-License-Identifier: MIT
#include "tests/support/catch.hpp"

#include <nca/error.hpp>
#include <nca/random.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

using Words = std::array<std::uint32_t, 4>;

namespace {

// A key whose second word is not one of the library's purposes.
Words philox_with_key(const Words& counter, std::uint32_t key0, std::uint32_t key1) {
    return nca::philox(key0, static_cast<nca::Purpose>(key1), counter);
}

}  // namespace

TEST_CASE("philox gives the published known answers of Philox4x32-10") {
    // kat_vectors of Random123, Salmon et al. 2011.
    const std::uint32_t ones = 0xffffffff;
    REQUIRE(philox_with_key({0, 0, 0, 0}, 0, 0) ==
            Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    REQUIRE(philox_with_key({ones, ones, ones, ones}, ones, ones) ==
            Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    REQUIRE(philox_with_key({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822,
                            0x299f31d0) == Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("the key is seed and purpose") {
    REQUIRE(nca::philox(7, nca::Purpose::damage, {1, 2, 3, 4}) ==
            philox_with_key({1, 2, 3, 4}, 7, 4));
    REQUIRE(nca::philox(7, nca::Purpose::fire, {1, 2, 3, 4}) ==
            philox_with_key({1, 2, 3, 4}, 7, 0));
}

TEST_CASE("a cell fires by word cell % 4 of counter (cell / 4, step, sample, iteration)") {
    const nca::FireKey key = {.seed = 11, .iteration = 13, .first_step = 17, .first_sample = 19};
    const float rate = 0.3F;
    int fired = 0;
    for (std::uint32_t step = 0; step < 3; ++step) {
        for (std::uint32_t sample = 0; sample < 3; ++sample) {
            for (std::uint32_t cell = 0; cell < 41; ++cell) {
                const Words words =
                    nca::philox(11, nca::Purpose::fire, {cell / 4, 17 + step, 19 + sample, 13});
                const bool expected = words[cell % 4] < nca::fire_threshold(rate);
                REQUIRE(nca::fires(key, rate, step, sample, cell) == expected);
                fired += expected;
            }
        }
    }
    REQUIRE(fired > 0);
    REQUIRE(fired < 3 * 3 * 41);
}

TEST_CASE("the fire threshold is the rate times 2^32") {
    REQUIRE(nca::fire_threshold(0) == 0);
    REQUIRE(nca::fire_threshold(0.5F) == std::uint64_t{1} << 31);
    REQUIRE(nca::fire_threshold(1) == std::uint64_t{1} << 32);
    REQUIRE(nca::fire_threshold(0x1p-32F) == 1);
    REQUIRE(nca::fire_threshold(0x1p-34F) == 0);
    REQUIRE(nca::fire_threshold(1 - 0x1p-24F) == (std::uint64_t{1} << 32) - 256);
}

TEST_CASE("a fire rate outside 0..1 is refused") {
    const float infinity = std::numeric_limits<float>::infinity();
    for (const float rate : {-0.1F, 1.1F, infinity, -infinity, std::nanf("")}) {
        REQUIRE_THROWS_AS(nca::fire_threshold(rate), nca::InvalidArgument);
    }
}

TEST_CASE("no cell fires at rate 0 and every cell at rate 1") {
    int fired = 0;
    for (std::uint32_t cell = 0; cell < 1000; ++cell) {
        fired += nca::fires({}, 0, 1, 0, cell);
        REQUIRE(nca::fires({}, 1, 1, 0, cell));
    }
    REQUIRE(fired == 0);
}

TEST_CASE("cells fire as often as the rate says, whatever the coordinate that runs") {
    const int draws = 40000;
    const float rate = 0.3F;
    std::array<int, 4> fired = {};
    for (std::uint32_t i = 0; i < draws; ++i) {
        fired[0] += nca::fires({.seed = 1}, rate, 0, 0, i);
        fired[1] += nca::fires({.seed = 1}, rate, i, 0, 0);
        fired[2] += nca::fires({.seed = 1}, rate, 0, i, 0);
        fired[3] += nca::fires({.seed = 1, .iteration = i}, rate, 0, 0, 0);
    }
    const double deviation = std::sqrt(draws * 0.3 * 0.7);
    for (const int count : fired) REQUIRE(std::abs(count - draws * 0.3) <= 4 * deviation);
}

TEST_CASE("masks of neighbouring steps, samples and iterations are independent") {
    const int draws = 40000;
    std::array<int, 3> both = {};
    for (std::uint32_t cell = 0; cell < draws; ++cell) {
        const bool here = nca::fires({}, 0.5F, 0, 0, cell);
        both[0] += here && nca::fires({}, 0.5F, 1, 0, cell);
        both[1] += here && nca::fires({}, 0.5F, 0, 1, cell);
        both[2] += here && nca::fires({.iteration = 1}, 0.5F, 0, 0, cell);
    }
    const double deviation = std::sqrt(draws * 0.25 * 0.75);
    for (const int count : both) REQUIRE(std::abs(count - draws * 0.25) <= 4 * deviation);
}
