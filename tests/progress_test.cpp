// SPDX-License-Identifier: MIT
#include "host/tool/progress.hpp"
#include "tests/support/catch.hpp"

#include <chrono>

using nca::tool::Pace;

TEST_CASE("the rate counts what this run did, what is left counts everything") {
    Pace pace(100, 10);
    REQUIRE(pace.rate() == 0);
    REQUIRE_FALSE(pace.due(std::chrono::seconds(0)));
    pace.advance(50, false);  // an earlier run's
    REQUIRE(pace.done() == 50);
    REQUIRE(pace.rate() == 0);
    REQUIRE_FALSE(pace.due(std::chrono::seconds(0)));
    pace.advance(3);
    REQUIRE(pace.done() == 53);
    REQUIRE(pace.rate() > 0);
    REQUIRE(pace.due(std::chrono::seconds(0)));
    REQUIRE_FALSE(pace.due(std::chrono::hours(1)));
    pace.drop(47);
    REQUIRE(pace.wanted() == pace.done());
}
