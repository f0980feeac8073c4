// SPDX-License-Identifier: MIT
#include "host/cpu/bit_grid.hpp"

#include "host/reference/step.hpp"
#include "tests/support/catch.hpp"

#include <nca/random.hpp>

#include <vector>

using namespace nca;
using cpu::BitGrid;

namespace {

// A grid whose set bits are those of a counter-based draw, about one in `sparsity`.
struct Drawn {
    Drawn(int height, int width, std::uint32_t sparsity, std::uint32_t seed)
        : words(std::size_t(height) * BitGrid::words_for(width)),
          grid{words.data(), height, width} {
        for (int y = 0; y < height; ++y) {
            for (int x = 0; x < width; ++x) {
                const auto draw = philox(seed, Purpose::fire, {std::uint32_t(y * width + x)});
                if (draw[0] % sparsity == 0) grid.word(y, x / 64) |= std::uint64_t{1} << x % 64;
            }
        }
    }
    bool get(int y, int x) const { return grid.word(y, x / 64) >> x % 64 & 1; }

    std::vector<std::uint64_t> words;
    BitGrid grid;
};

}  // namespace

TEST_CASE("a dilated bit is set exactly where its 3x3 neighbourhood has one") {
    for (const Edges edges : {Edges::circular, Edges::zero}) {
        for (const auto& [height, width] :
             {std::pair{1, 1}, {1, 7}, {2, 2}, {3, 63}, {5, 64}, {4, 65}, {3, 128}, {7, 130}}) {
            const Drawn drawn(height, width, 11, std::uint32_t(width));
            int wrong = 0;
            int set = 0;
            for (int y = 0; y < height; ++y) {
                for (int x = 0; x < width; ++x) {
                    bool expected = false;
                    for (int dy = -1; dy <= 1; ++dy) {
                        for (int dx = -1; dx <= 1; ++dx) {
                            const int at = reference::cell_at(y + dy, x + dx, height, width, edges);
                            expected = expected || (at >= 0 && drawn.get(at / width, at % width));
                        }
                    }
                    const bool got = drawn.grid.dilated(y, x / 64, edges) >> x % 64 & 1;
                    wrong += got != expected;
                    set += expected;
                }
            }
            CAPTURE(height, width, edges == Edges::circular);
            REQUIRE(wrong == 0);
            if (height * width > 11) REQUIRE(set > 0);
        }
    }
}

TEST_CASE("bits past the width stay clear") {
    for (const int width : {1, 63, 64, 65, 100}) {
        Drawn drawn(3, width, 1, 1);  // all set
        const int last = drawn.grid.words() - 1;
        for (const Edges edges : {Edges::circular, Edges::zero}) {
            REQUIRE((drawn.grid.dilated(1, last, edges) & ~drawn.grid.valid(last)) == 0);
            REQUIRE(drawn.grid.dilated(1, last, edges) == drawn.grid.valid(last));
        }
    }
}

TEST_CASE("for_each_bit visits every set bit once, lowest first") {
    std::vector<int> visited;
    cpu::for_each_bit(std::uint64_t{1} << 63 | 0b1011, [&](int bit) { visited.push_back(bit); });
    REQUIRE(visited == std::vector<int>{0, 1, 3, 63});
    cpu::for_each_bit(0, [&](int) { FAIL("no bit is set"); });
}
