// SPDX-License-Identifier: MIT
// Which form a rollout takes, by a table of devices.
#include "cuda/rollout/rollout_form.hpp"

#include "tests/support/catch.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/tensor_device.hpp"
#include "tests/support/training.hpp"

#include <nca/engine.hpp>
#include <nca/error.hpp>

#include <algorithm>
#include <string>
#include <vector>

using namespace nca;
using namespace nca::cuda;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::EndsWith;
using test::cuda_device;
using test::message_of;

namespace {

const DeviceLimits turing = {"T4", 75, 75, 40, 0};
const DeviceLimits ampere = {"A100", 80, 80, 108, 0};
const DeviceLimits hopper = {"H200", 90, 90, 132, 15};
const DeviceLimits hopper_in_old_build = {"H200", 90, 80, 132, 0};
const DeviceLimits small_hopper = {"half an H200", 90, 90, 60, 0};

const BatchShape notebook = {8, 40, 40};
const BatchShape growing = {8, 72, 72};

Rule rotated() { return Rule{}.rotated(30); }

RolloutPlan plan(const DeviceLimits& limits, const BatchShape& grid, Precision precision,
                 const Rule& rule = {}) {
    return plan_rollout(limits, cuda_device(precision), grid, rule, {});
}

}  // namespace

TEST_CASE("the form follows from device, precision, rule and grid") {
    for (const Precision precision : {Precision::precise, Precision::fast}) {
        for (const Rule& rule : {Rule{}, notebook_rule()}) {
            const RolloutPlan bands = plan(hopper, notebook, precision, rule);
            REQUIRE(bands.form == RolloutForm::bands);
            REQUIRE(bands.cut.bands == 8);
            REQUIRE(bands.cut.most_rows() == 5);
            REQUIRE(bands.text == "bands: 8 to a sample, a block each");
        }
    }
    REQUIRE(plan(hopper, growing, Precision::precise).cut.most_rows() == 9);
    REQUIRE(plan(hopper, {16, 40, 40}, Precision::fast).text ==
            "bands: 8 to a sample, a block each, 15 samples at a time");
    const RolloutPlan small = plan(hopper, {16, 23, 40}, Precision::fast);
    REQUIRE(small.cut.bands == 7);  // smaller clusters, of which more may fit
    REQUIRE(small.text == "bands: 7 to a sample, a block each");
    REQUIRE(plan(hopper, {1, 3, 7}, Precision::fast).cut.bands == 1);
}

TEST_CASE(
    "what keeps a rollout from running in bands is said, and refused where they are asked for") {
    const struct {
        DeviceLimits limits;
        BatchShape grid;
        Precision precision;
        Rule rule;
        std::string why;
    } cases[] = {
        {hopper, notebook, Precision::exact, {}, "the precision is exact"},
        {ampere,
         notebook,
         Precision::fast,
         {},
         "bands need compute capability 9.0 or later, A100 has 8.0"},
        {hopper_in_old_build,
         notebook,
         Precision::fast,
         {},
         "bands need code for compute capability 9.0 or later, and this build's newest for H200 is "
         "for 8.0 (build with -DCMAKE_CUDA_ARCHITECTURES=90)"},
        {small_hopper, notebook, Precision::fast, {}, "half an H200 holds no cluster of 8 blocks"},
        {hopper, notebook, Precision::fast, rotated(),
         "bands need filters that are the cell itself, and Sobel x and y times one number"},
        {hopper,
         {1, 2, 40},
         Precision::fast,
         {},
         "a band has at least 3 rows, and 2x40 cells have fewer rows"},
        {hopper,
         {1, 300, 300},
         Precision::fast,
         {},
         "a band has at most 128 columns, and 300x300 cells have more columns"},
        {hopper,
         {1, 3, 129},
         Precision::fast,
         {},
         "a band has at most 128 columns, and 3x129 cells have more columns"},
        {hopper,
         {1, 209, 3},
         Precision::fast,
         {},
         "8 bands have at most 208 rows, and 209x3 cells have more rows"},
        {hopper,
         {100000, 200, 8},
         Precision::fast,
         {},
         "all samples of bands have at most 16777215 rows, and 100000 times 200x8 cells have more "
         "rows"},
        {hopper,
         {1, 208, 128},
         Precision::fast,
         {},  // rows and columns, but not so many cells
         "208x128 cells do not fit the shared memory of 8 blocks"},
    };
    for (const auto& c : cases) {
        INFO(c.why);
        const RolloutPlan steps = plan(c.limits, c.grid, c.precision, c.rule);
        REQUIRE(steps.form == RolloutForm::steps);
        REQUIRE(steps.cut.bands == 0);
        REQUIRE(steps.text == "one kernel a step: " + c.why);
        const Device bands = cuda_device(c.precision, RolloutForm::bands);
        REQUIRE(message_of<CudaError>([&] { plan_rollout(c.limits, bands, c.grid, c.rule, {}); }) ==
                "no rollout in bands is possible here: " + c.why + "; use RolloutForm::automatic");
    }
    const Device steps = cuda_device(Precision::fast, RolloutForm::steps);
    REQUIRE(plan_rollout(hopper, steps, notebook, {}, {}).text == "one kernel a step");
}

TEST_CASE("which grids fit in bands is as docs/cuda.md says") {
    const auto fits = [](int height, int width, Precision precision) {
        return plan(hopper, {1, height, width}, precision).in_bands();
    };
    for (const Precision precision : {Precision::precise, Precision::fast}) {
        for (const int side : {3, 40, 64, 72, 80}) REQUIRE(fits(side, side, precision));
        REQUIRE(fits(88, 88, precision) == (precision == Precision::fast));
        REQUIRE(!fits(96, 96, precision));
        REQUIRE(fits(48, 128, precision));
        REQUIRE(fits(208, 24, precision));
        REQUIRE(!fits(2, 40, precision));
        REQUIRE(!fits(3, 129, precision));
        REQUIRE(!fits(209, 3, precision));
    }
}

TEST_CASE("plain filters are the cell and Sobel's, by any one factor") {
    REQUIRE(has_plain_filters(Rule{}));
    REQUIRE(has_plain_filters(notebook_rule()));
    REQUIRE(has_plain_filters(Rule{}.rotated(180)));  // by minus one
    REQUIRE(!has_plain_filters(Rule{}.rotated(90)));
    for (std::size_t filter = 0; filter < 3; ++filter) {
        for (std::size_t i = 0; i < 9; ++i) {
            Rule rule;
            rule.filters[filter][i] += 0.25F;
            REQUIRE(!has_plain_filters(rule));
        }
    }
    Rule uneven;
    for (float& value : uneven.filters[2]) value *= 2;
    REQUIRE(!has_plain_filters(uneven));
}

TEST_CASE("where rows live decides the cut") {
    std::vector<double> load(40);
    std::fill(load.begin() + 12, load.begin() + 28, 16.0);
    const Device device = cuda_device(Precision::precise);
    const BandCut cut = plan_rollout(hopper, device, notebook, {}, load).cut;
    REQUIRE(cut.bands == 8);
    REQUIRE(cut.rows(0) > cut.rows(4));
}

TEST_CASE("an engine that is told no precision is precise where rollouts run in bands") {
    REQUIRE(default_precision(hopper, RolloutForm::automatic) == Precision::precise);
    REQUIRE(default_precision(hopper, RolloutForm::steps) == Precision::exact);
    for (const DeviceLimits& limits : {turing, ampere, hopper_in_old_build, small_hopper}) {
        REQUIRE(default_precision(limits, RolloutForm::automatic) == Precision::exact);
        REQUIRE(default_precision(limits, RolloutForm::steps) == Precision::exact);
    }
}

TEST_CASE("an engine says what it computes in, told or not") {
    REQUIRE(make_engine(Device::cuda())->precision() == Precision::exact);
    const test::TensorDevice device;
    REQUIRE(make_engine(cuda_device(Precision::fast))->precision() == Precision::fast);
    const auto engine = make_engine(Device::cuda());
    const bool in_bands = engine->rollout_form(8, 40, 40).form == RolloutForm::bands;
    REQUIRE(engine->precision() == (in_bands ? Precision::precise : Precision::exact));
    REQUIRE_THAT(engine->description(), EndsWith(", " + std::string(name(engine->precision()))));
}

TEST_CASE("a device without tensor cores refuses their precisions and says what to do") {
    for (const Precision precision : {Precision::precise, Precision::fast}) {
        REQUIRE_THAT(message_of<CudaError>([&] { make_engine(cuda_device(precision)); }),
                     ContainsSubstring("compute capability 8.0") && ContainsSubstring("has 7.5") &&
                         ContainsSubstring("use exact"));
    }
    REQUIRE_NOTHROW(make_engine(cuda_device(Precision::exact)));
}

// A build whose newest code is for an earlier device, while it lives.
struct OldBuild {
    explicit OldBuild(int code) { executor::set_newest_code(code); }
    ~OldBuild() { executor::set_newest_code(1000); }
    OldBuild(const OldBuild&) = delete;
    OldBuild& operator=(const OldBuild&) = delete;
};

TEST_CASE("code for 8.0 trains on a device of 9.0, without dependent launches") {
    const test::TensorDevice device;
    const auto weights = [](Precision precision) {
        Trainer trainer(test::small_picture(), test::small_config("growing"),
                        cuda_device(precision, RolloutForm::steps));
        for (int i = 0; i < 3; ++i) trainer.iterate();
        return trainer.model().weights;
    };
    for (const Precision precision : {Precision::exact, Precision::fast}) {
        const Weights expected = weights(precision);
        const OldBuild build(80);
        REQUIRE((weights(precision) == expected));
    }
}

TEST_CASE("code for 7.5 has no tensor cores, whatever the device") {
    const test::TensorDevice device;
    const OldBuild build(75);
    for (const Precision precision : {Precision::precise, Precision::fast}) {
        REQUIRE_THAT(message_of<CudaError>([&] { make_engine(cuda_device(precision)); }),
                     ContainsSubstring("this build's newest for kernel executor is for 7.5") &&
                         ContainsSubstring("CMAKE_CUDA_ARCHITECTURES=90") &&
                         ContainsSubstring("use exact"));
    }
    Trainer trainer(test::small_picture(), test::small_config("growing"),
                    cuda_device(Precision::exact));
    REQUIRE(trainer.iterate().recovery.empty());
}
