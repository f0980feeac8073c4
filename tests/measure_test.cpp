// SPDX-License-Identifier: MIT
#include "benchmarks/measure.hpp"
#include "tests/support/catch.hpp"

using namespace nca::bench;

namespace {

// A trainer that stops at multiples of 50 as Trainer does, and takes 3 ms an iteration.
struct FakeTrainer {
    static constexpr double iteration_ms = 3;
    int done = 0;
    double clock = 1e6;

    std::size_t iterate() {
        const int count = done % 50 == 0 ? 32 : 18;
        done += count;
        clock += iteration_ms * count;
        return static_cast<std::size_t>(count);
    }
};

}  // namespace

TEST_CASE("queues of 32 and 18 iterations have the time of each iteration") {
    for (const int count : {1, 2, 7, 8}) {
        FakeTrainer trainer;
        const Timing timing = measure_queues(
            count, [&] { return trainer.iterate(); }, [&] { return trainer.clock; });
        REQUIRE(timing.count == count);
        for (const double time : {timing.median, timing.fastest, timing.slowest}) {
            REQUIRE(std::abs(time - FakeTrainer::iteration_ms) <= 1e-9);
        }
    }
}

TEST_CASE("the first run warms up and is not counted") {
    int runs = 0;
    double clock = 0;
    const Timing timing = measure_queues(
        3, [&]() -> std::size_t { return clock += runs++ == 0 ? 1000 : 2, 2; },
        [&] { return clock; });
    REQUIRE(runs == 4);
    REQUIRE(timing.slowest == 1);
    REQUIRE(timing.median == 1);
}
