// SPDX-License-Identifier: MIT
// What a training leaves in its pool.
#include "tests/support/trainer.hpp"

#include <utility>
#include <vector>

using namespace nca;
using namespace nca::test;
using Catch::Matchers::ContainsSubstring;

TEST_CASE("a sample that dies or explodes leaves the start cell in the pool") {
    for (const Device& device : devices_to_train_on()) {
        for (const auto& [channel, value] : {std::pair(alpha_channel, -10.0F), {0, 600.0F}}) {
            TrainingConfig config = small_config("persistent");
            config.batch = 7;  // the whole pool
            config.fewest_steps = 1;
            config.most_steps = 2;
            config.rule.fire_rate = 0.1F;  // two cells that fire are enough to explode
            int reset = 0;
            while (reset < 2 && ++config.seed < 20) {
                Prepared run(config, device, adding(channel, value));
                const IterationReport report = run.iterate();
                INFO(run.trainer.engine().description() << ": " << report.recovery);
                if (!report.recovery.empty()) continue;  // all of them, or too much on average
                require_pool_after(run.trainer, report, run.checkpoint, inside(run.trainer));
                reset = report.reset;
                REQUIRE(report.reset < 7);
                REQUIRE((channel == alpha_channel ? report.reset == report.dead + 1
                                                  : report.dead == 0));
            }
            REQUIRE(reset >= 2);  // else no seed has one
        }
    }
}

TEST_CASE("a recovery resets the pool") {
    TrainingConfig config = small_config("regenerating");
    for (const auto& cells : std::vector<std::vector<Place>>{{}, {{0, 0}, {4, 5}, {11, 11}}}) {
        config.start_cells = cells;
        const std::vector<double> start = start_states(config)[0].values;
        for (const Device& device : devices_to_train_on()) {
            Prepared run(config, device, adding(0, 1e30F));
            const StatePool fresh = run.checkpoint.pool;
            REQUIRE(dense(fresh, 6) == std::vector<float>(start.begin(), start.end()));
            for (int i = 0; i < 7; ++i) {
                run.checkpoint.pool.set_entry(i, {{70, 78}, std::vector<float>(32, 0.5F), 0.25F});
            }
            const IterationReport report = run.iterate();
            REQUIRE_THAT(report.recovery, ContainsSubstring("a pool of start cells"));
            REQUIRE(report.reset == 7);
            REQUIRE((inside(run.trainer).pool == fresh));
        }
    }
}
