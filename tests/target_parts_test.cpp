// SPDX-License-Identifier: MIT
#include "host/tool/target_parts.hpp"

#include "tests/support/catch.hpp"

#include <string>
#include <vector>

using nca::tool::find_too_far;
using nca::tool::find_unreached;
using nca::tool::Unreached;

namespace {

// A target of the rows, where # is opaque, + has an alpha of 0.1 and . is transparent.
std::vector<float> target_of(const std::vector<std::string>& rows) {
    std::vector<float> target;
    for (const std::string& row : rows) {
        for (const char c : row) {
            const float alpha = c == '#' ? 1.0F : c == '+' ? 0.1F : 0.0F;
            target.insert(target.end(), {0, 0, 0, alpha});
        }
    }
    return target;
}

std::vector<float> row_of(const std::string& row, int grid, int at) {
    std::vector<std::string> rows(std::size_t(grid), std::string(std::size_t(grid), '.'));
    rows[std::size_t(at)] = row;
    return target_of(rows);
}

}  // namespace

TEST_CASE("a gap of three cells is not grown over, one of two is") {
    // The start cell is in column 5.
    for (const auto& [row, cells, first] : std::vector<std::tuple<std::string, int, int>>{
             {"....###....", 0, 0},
             {"....#.#.##.", 0, 0},
             {"....##..##.", 0, 0},
             {"....##...##", 2, 9},
             {"....##+++##", 2, 9},  // an alpha of 0.1 is as none
             {"#...##.....", 1, 0},
             {"##...#...##", 4, 0},
             {"....#######", 0, 0},
         }) {
        INFO(row);
        const Unreached unreached = find_unreached(row_of(row, 11, 5), 11, false);
        REQUIRE(unreached.cells == cells);
        REQUIRE(unreached.all == int(std::count(row.begin(), row.end(), '#')));
        if (cells > 0) REQUIRE(unreached.first == nca::Place{5, first});
    }
}

TEST_CASE("growth goes in all directions and around a corner") {
    const std::vector<std::string> rows = {
        "#.......#", "#........", "#........", "####.....", "...##....",
        "....#....", ".........", "........#", "#........",
    };
    const Unreached unreached = find_unreached(target_of(rows), 9, false);
    REQUIRE(unreached.all == 13);
    // The corner at the top right is five cells from the nearest.
    REQUIRE(unreached.cells == 3);
    REQUIRE(unreached.first == nca::Place{0, 8});
}

TEST_CASE("growth passes circular edges") {
    const std::string row = "##...#..#.###..";
    REQUIRE(find_unreached(row_of(row, 15, 7), 15, false).cells == 2);
    REQUIRE(find_unreached(row_of(row, 15, 7), 15, true).cells == 0);
}

TEST_CASE("nothing of a target is near a start cell in a wide hole") {
    REQUIRE(find_unreached(row_of("#.........#", 11, 5), 11, false).cells == 2);
    REQUIRE(find_unreached(row_of("#.........#", 11, 5), 11, true).cells == 2);
    REQUIRE(find_unreached(row_of("...........", 11, 5), 11, true).all == 0);
}

TEST_CASE("growth goes one cell in a step, diagonally too, and past circular edges") {
    const std::string row = "#.#..#....#";
    for (const bool wraps : {false, true}) {
        for (const auto& [steps, cells] :
             std::vector<std::pair<int, int>>{{0, 3}, {2, 3}, {3, 2}, {4, 2}, {5, 0}, {100, 0}}) {
            const Unreached unreached = find_too_far(row_of(row, 11, 5), 11, wraps, steps);
            REQUIRE(unreached.cells == cells);
            REQUIRE(unreached.all == 4);
            if (cells > 0) REQUIRE(unreached.first == nca::Place{5, 0});
        }
    }
    // In an even grid the start cell is right of the middle: past the edge it is nearer.
    const std::vector<float> even = row_of("#.........", 10, 5);
    REQUIRE(find_too_far(even, 10, false, 4).cells == 1);
    REQUIRE(find_too_far(even, 10, true, 4).cells == 1);
    REQUIRE(find_too_far(even, 10, true, 5).cells == 0);
    const std::vector<std::string> corner = {"....#", ".....", ".....", ".....", "#...."};
    REQUIRE(find_too_far(target_of(corner), 5, false, 1).cells == 2);
    REQUIRE(find_too_far(target_of(corner), 5, false, 1).first == nca::Place{0, 4});
    REQUIRE(find_too_far(target_of(corner), 5, false, 2).cells == 0);
}
