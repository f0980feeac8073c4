// SPDX-License-Identifier: MIT
#include "tests/support/catch.hpp"

#include <nca/error.hpp>
#include <nca/rule.hpp>

#include <cmath>
#include <limits>
#include <string>

namespace {

using Catch::Matchers::ContainsSubstring;
using nca::Filter;
using nca::Rule;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

// The filter after a quarter turn of the grid that takes +x to +y (y points down).
Filter quarter_turn(const Filter& filter) {
    Filter turned;
    for (int dy = -1; dy <= 1; ++dy) {
        for (int dx = -1; dx <= 1; ++dx) {
            // (dx, dy) goes to (-dy, dx).
            turned[std::size_t((dx + 1) * 3 + (-dy + 1))] =
                filter[std::size_t((dy + 1) * 3 + (dx + 1))];
        }
    }
    return turned;
}

double largest_difference(const Filter& a, const Filter& b) {
    double largest = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        largest = std::max(largest, double(std::abs(a[i] - b[i])));
    }
    return largest;
}

}  // namespace

TEST_CASE("the default rule and the notebook's are valid") {
    REQUIRE_NOTHROW(Rule{}.validate());
    REQUIRE_NOTHROW(nca::notebook_rule().validate());
}

TEST_CASE("the notebook's rule is the notebook's") {
    const Rule rule = nca::notebook_rule();
    REQUIRE(rule.filters[0] == Filter{0, 0, 0, 0, 1, 0, 0, 0, 0});
    REQUIRE(rule.filters[1] == Filter{-1, 0, 1, -2, 0, 2, -1, 0, 1});
    REQUIRE(rule.filters[2] == Filter{-1, -2, -1, 0, 0, 0, 1, 2, 1});
    REQUIRE(rule.edges == nca::Edges::circular);
    REQUIRE(rule.life == nca::Life::post);
    REQUIRE(rule.start_cell == nca::StartCell::alpha);
    REQUIRE(rule.fire_rate == 0.5F);
    REQUIRE(rule.step_size == 1.0F);
    REQUIRE_FALSE(rule.premultiplied);
}

TEST_CASE("the default Sobel filters are an eighth of the notebook's") {
    const Rule rule;
    const Rule notebook = nca::notebook_rule();
    for (std::size_t k = 1; k < 3; ++k) {
        for (std::size_t i = 0; i < 9; ++i) {
            REQUIRE(rule.filters[k][i] == notebook.filters[k][i] / 8);
        }
    }
}

TEST_CASE("values outside their range are refused by name") {
    const auto refused = [](auto change) {
        Rule rule;
        change(rule);
        try {
            rule.validate();
        } catch (const nca::InvalidArgument& error) {
            return std::string(error.what());
        }
        return std::string();
    };
    for (const float rate : {-0.01F, 1.01F, 2.0F, not_a_number, infinity}) {
        CAPTURE(rate);
        REQUIRE_THAT(refused([&](Rule& rule) { rule.fire_rate = rate; }),
                     ContainsSubstring("fire_rate is") && ContainsSubstring("expected 0..1"));
    }
    for (const float bad : {not_a_number, infinity, -infinity}) {
        REQUIRE_THAT(refused([&](Rule& rule) { rule.step_size = bad; }),
                     ContainsSubstring("step_size is"));
        REQUIRE_THAT(refused([&](Rule& rule) { rule.filters[2][8] = bad; }),
                     ContainsSubstring("filter"));
    }
    REQUIRE_THAT(refused([](Rule& rule) { rule.edges = nca::Edges(2); }),
                 ContainsSubstring("edges is 2"));
    REQUIRE_THAT(refused([](Rule& rule) { rule.life = nca::Life(-1); }),
                 ContainsSubstring("life is -1"));
    REQUIRE_THAT(refused([](Rule& rule) { rule.start_cell = nca::StartCell(7); }),
                 ContainsSubstring("start_cell is 7"));
}

TEST_CASE("the ends of the fire rate's range are valid") {
    Rule rule;
    rule.fire_rate = 0;
    REQUIRE_NOTHROW(rule.validate());
    rule.fire_rate = 1;
    REQUIRE_NOTHROW(rule.validate());
}

TEST_CASE("rotation by 0 and 360 degrees changes nothing") {
    const Rule rule = nca::notebook_rule();
    REQUIRE(rule.rotated(0) == rule);
    REQUIRE(rule.rotated(360) == rule);
    REQUIRE(rule.rotated(-720) == rule);
}

TEST_CASE("rotation by 90 degrees is exact and follows the formula") {
    // cos * Sx - sin * Sy = -Sy and sin * Sx + cos * Sy = Sx.
    const Rule rule = nca::notebook_rule();
    const Rule turned = rule.rotated(90);
    REQUIRE(turned.filters[0] == rule.filters[0]);
    REQUIRE(turned.filters[1] == Filter{1, 2, 1, 0, 0, 0, -1, -2, -1});
    REQUIRE(turned.filters[2] == rule.filters[1]);
    REQUIRE(rule.rotated(-270) == turned);
    REQUIRE(rule.rotated(90).rotated(90) == rule.rotated(180));
    REQUIRE(rule.rotated(180).rotated(180) == rule);
}

TEST_CASE("rotation by -90 degrees turns the Sobel filters with the grid") {
    const Rule rule = nca::notebook_rule();
    const Rule turned = rule.rotated(-90);
    REQUIRE(turned.filters[1] == quarter_turn(rule.filters[1]));
    REQUIRE(turned.filters[2] == quarter_turn(rule.filters[2]));
}

TEST_CASE("rotations add up") {
    const Rule rule;
    const Rule once = rule.rotated(77);
    const Rule twice = rule.rotated(30).rotated(47);
    for (std::size_t k = 1; k < 3; ++k) {
        REQUIRE(largest_difference(once.filters[k], twice.filters[k]) <= 1e-7);
        REQUIRE(largest_difference(once.filters[k], rule.filters[k]) >= 0.1);
    }
}

TEST_CASE("rotation by an angle that is not finite is refused") {
    REQUIRE_THROWS_AS(Rule{}.rotated(double{not_a_number}), nca::InvalidArgument);
    REQUIRE_THROWS_AS(Rule{}.rotated(double{infinity}), nca::InvalidArgument);
}
