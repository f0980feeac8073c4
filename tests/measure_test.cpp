// SPDX-License-Identifier: MIT
#include "benchmarks/measure.hpp"
#include "tests/support/catch.hpp"

#include <cmath>
#include <limits>
#include <vector>

using namespace nca;
using namespace nca::bench;

namespace {

// Its queues end at multiples of 50, as those of Trainer do; an iteration takes 3 ms.
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

TEST_CASE("queues of 32 and 18 iterations give the time of one iteration") {
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

TEST_CASE("a step that is wrong in one sample of a batch is found") {
    constexpr int batch = 3, height = 9, width = 11;
    Model model{{}, Weights(true), {}, {}};
    float value = 0;
    for (float& weight : model.weights.all()) weight = 0.1F * std::sin(value += 1);
    std::vector<float> before(batch * height * width * channels);
    for (float& element : before) element = 0.6F + 0.4F * std::sin(value += 1);  // all alive
    const auto engine = make_engine(Device::cpu());
    State state = engine->make_state(batch, height, width);
    engine->copy_from_host(state.view().data, before);
    engine->advance(model, state.view(), {1, {}});
    std::vector<float> after(before.size());
    engine->copy_to_host(after, state.view().data);
    const auto view = [&](const std::vector<float>& values) -> ConstStateView {
        return {values.data(), batch, height, width, MemorySpace::host};
    };
    const auto error = [&] {
        return step_error(model, view(before), view(after), {}, Precision::exact);
    };
    REQUIRE(error() <= 1);
    for (const float wrong : {1e-3F, std::numeric_limits<float>::quiet_NaN()}) {
        for (int sample = 0; sample < batch; ++sample) {
            float& element = after[((sample * height + 4) * width + 5) * channels];
            const float right = element;
            element += wrong;
            REQUIRE_FALSE(error() <= 1);
            element = right;
        }
    }
}
