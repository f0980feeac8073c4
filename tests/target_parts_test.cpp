// SPDX-License-Identifier: MIT
#include "host/tool/target_parts.hpp"

#include "tests/support/catch.hpp"

#include <string>
#include <vector>

using nca::Place;
using nca::tool::find_too_far;
using nca::tool::find_unreached;
using nca::tool::nearest_living;
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

// The start cell in the middle.
std::vector<Place> middle(int grid) { return {{grid / 2, grid / 2}}; }

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
        const Unreached unreached = find_unreached(row_of(row, 11, 5), 11, middle(11), false);
        REQUIRE(unreached.cells == cells);
        REQUIRE(unreached.all == int(std::count(row.begin(), row.end(), '#')));
        if (cells > 0) REQUIRE(unreached.first == Place{5, first});
    }
}

TEST_CASE("growth goes in all directions and around a corner") {
    const std::vector<std::string> rows = {
        "#.......#", "#........", "#........", "####.....", "...##....",
        "....#....", ".........", "........#", "#........",
    };
    const Unreached unreached = find_unreached(target_of(rows), 9, middle(9), false);
    REQUIRE(unreached.all == 13);
    // The corner at the top right is five cells from the nearest.
    REQUIRE(unreached.cells == 3);
    REQUIRE(unreached.first == Place{0, 8});
}

TEST_CASE("growth passes circular edges") {
    const std::string row = "##...#..#.###..";
    REQUIRE(find_unreached(row_of(row, 15, 7), 15, middle(15), false).cells == 2);
    REQUIRE(find_unreached(row_of(row, 15, 7), 15, middle(15), true).cells == 0);
}

TEST_CASE("nothing of a target is near a start cell in a wide hole") {
    REQUIRE(find_unreached(row_of("#.........#", 11, 5), 11, middle(11), false).cells == 2);
    REQUIRE(find_unreached(row_of("#.........#", 11, 5), 11, middle(11), true).cells == 2);
    REQUIRE(find_unreached(row_of("...........", 11, 5), 11, middle(11), true).all == 0);
}

TEST_CASE("growth goes one cell in a step, diagonally too, and past circular edges") {
    const std::string row = "#.#..#....#";
    for (const bool wraps : {false, true}) {
        for (const auto& [steps, cells] :
             std::vector<std::pair<int, int>>{{0, 3}, {2, 3}, {3, 2}, {4, 2}, {5, 0}, {100, 0}}) {
            const Unreached unreached =
                find_too_far(row_of(row, 11, 5), 11, middle(11), wraps, steps);
            REQUIRE(unreached.cells == cells);
            REQUIRE(unreached.all == 4);
            if (cells > 0) REQUIRE(unreached.first == Place{5, 0});
        }
    }
    // In an even grid the start cell is right of the middle: past the edge it is nearer.
    const std::vector<float> even = row_of("#.........", 10, 5);
    REQUIRE(find_too_far(even, 10, middle(10), false, 4).cells == 1);
    REQUIRE(find_too_far(even, 10, middle(10), true, 4).cells == 1);
    REQUIRE(find_too_far(even, 10, middle(10), true, 5).cells == 0);
    const std::vector<std::string> corner = {"....#", ".....", ".....", ".....", "#...."};
    REQUIRE(find_too_far(target_of(corner), 5, middle(5), false, 1).cells == 2);
    REQUIRE(find_too_far(target_of(corner), 5, middle(5), false, 1).first == Place{0, 4});
    REQUIRE(find_too_far(target_of(corner), 5, middle(5), false, 2).cells == 0);
}

TEST_CASE("growth reaches from each of several start cells") {
    const std::vector<float> target = row_of("##.....#.....##", 15, 2);
    const auto unreached = [&](const std::vector<Place>& starts, bool wraps) {
        return find_unreached(target, 15, starts, wraps).cells;
    };
    REQUIRE(unreached({{2, 0}}, false) == 4 - 1);
    REQUIRE(unreached({{2, 0}}, true) == 1);
    REQUIRE(unreached({{2, 0}, {2, 7}}, false) == 2);
    REQUIRE(unreached({{2, 0}, {2, 14}}, false) == 1);
    REQUIRE(unreached({{2, 0}, {2, 14}, {2, 7}}, false) == 0);
    REQUIRE(find_unreached(target, 15, std::vector<Place>{{2, 7}, {2, 14}}, false).first ==
            Place{2, 0});

    const auto too_far = [&](const std::vector<Place>& starts, bool wraps, int steps) {
        return find_too_far(target, 15, starts, wraps, steps).cells;
    };
    REQUIRE(too_far({{2, 0}}, false, 6) == 3);
    REQUIRE(too_far({{2, 0}}, false, 7) == 2);
    REQUIRE(too_far({{2, 0}}, true, 2) == 1);
    REQUIRE(too_far({{2, 0}, {4, 14}}, false, 1) == 3);
    REQUIRE(too_far({{2, 0}, {4, 14}}, false, 2) == 1);
    REQUIRE(too_far({{2, 0}, {4, 14}}, false, 7) == 0);
}

TEST_CASE("the nearest cell that lives is by distance, then by row, then by column") {
    const std::vector<std::string> rows = {
        "#....#.", ".......", "+......", "...+...", "......#", "...#...", "#......",
    };
    const std::vector<float> target = target_of(rows);
    REQUIRE(nearest_living(target, 7, {5, 3}) == Place{5, 3});
    REQUIRE(nearest_living(target, 7, {2, 0}) == Place{0, 0});  // 2 cells, and (6, 0) is 4
    REQUIRE(nearest_living(target, 7, {3, 0}) == Place{0, 0});  // as near as (6, 0)
    REQUIRE(nearest_living(target, 7, {3, 3}) == Place{5, 3});
    REQUIRE(nearest_living(target, 7, {2, 5}) == Place{0, 5});  // 2 cells, and (4, 6) is more
    REQUIRE(nearest_living(target, 7, {0, 3}) == Place{0, 5});
    REQUIRE(nearest_living(row_of("#.#....", 7, 3), 7, {3, 1}) == Place{3, 0});
    REQUIRE(nearest_living(target_of({"..", ".."}), 2, {1, 0}) == Place{1, 0});
}
