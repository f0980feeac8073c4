// SPDX-License-Identifier: MIT
// Which form a rollout takes, by a table of devices.
#include "cuda/rollout_form.hpp"

#include "tests/support/catch.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/tensor_device.hpp"
#include "tests/support/training.hpp"

#include <nca/engine.hpp>
#include <nca/error.hpp>

using namespace nca;
using namespace nca::cuda;
using Catch::Matchers::ContainsSubstring;
using test::cuda_device;
using test::message_of;

namespace {

// As NVIDIA's tables have them; a block of the persistent rollout takes a whole multiprocessor.
const DeviceLimits turing = {"T4", 75, 75, 40, 0, {}};
const DeviceLimits ampere = {"A100", 80, 80, 108, 108, {}};
const DeviceLimits ada = {"RTX 4090", 89, 89, 128, 0, {}};  // 99 KiB of shared memory
// With clusters of 1, 2, .. 16 blocks as eight groups of 16 multiprocessors would hold them, but
// for one group that lacks two.
const DeviceLimits hopper = {
    "H200", 90, 90, 132, 132, {0, 132, 66, 43, 32, 25, 20, 17, 15, 8, 8, 8, 8, 8, 8, 7, 7}};

const Grid notebook = {8, 40, 40};
const Grid growing = {8, 72, 72};
const Grid large = {1, 4096, 4096};

RolloutPlan plan(const DeviceLimits& limits, const Grid& grid, Precision precision,
                 int sharers = 1) {
    Device device = cuda_device(precision);
    device.sharers = sharers;
    return plan_rollout(limits, device, grid);
}

}  // namespace

TEST_CASE("the form follows from device, grid and precision") {
    REQUIRE(plan(hopper, notebook, Precision::precise).form == RolloutForm::persistent);
    REQUIRE(plan(hopper, notebook, Precision::precise).blocks == 120);
    REQUIRE(plan(hopper, growing, Precision::fast).form == RolloutForm::persistent);
    REQUIRE(plan(hopper, growing, Precision::fast).blocks == 132);
    REQUIRE(plan(ampere, growing, Precision::fast).blocks == 108);
    REQUIRE_THAT(plan(ampere, growing, Precision::fast).text,
                 ContainsSubstring("persistent rollout, 108 blocks of up to 4 tiles"));

    REQUIRE(plan(hopper, large, Precision::fast).form == RolloutForm::steps);
    REQUIRE_THAT(plan(hopper, large, Precision::fast).text,
                 ContainsSubstring("131072 tiles are more than the 528 that fit on H200"));
    REQUIRE(plan(ada, notebook, Precision::fast).form == RolloutForm::steps);
    REQUIRE_THAT(plan(ada, notebook, Precision::fast).text, ContainsSubstring("shared memory"));
    REQUIRE(plan(hopper, notebook, Precision::exact).form == RolloutForm::steps);
    REQUIRE_THAT(plan(turing, notebook, Precision::exact).text,
                 ContainsSubstring("precision is exact"));
}

TEST_CASE("a tile that is one cell thin takes the form of single steps") {
    REQUIRE(has_close_neighbours({1, 1, 1}));
    REQUIRE(has_close_neighbours({1, 16, 8}));
    REQUIRE(has_close_neighbours({1, 18, 10}));
    REQUIRE(!has_close_neighbours({1, 17, 8}));
    REQUIRE(!has_close_neighbours({1, 16, 9}));
    REQUIRE_THAT(plan(hopper, {1, 33, 40}, Precision::fast).text,
                 ContainsSubstring("one cell thin"));
}

TEST_CASE("engines that share a device take their part of it, as long as their tiles fit there") {
    REQUIRE(plan(hopper, notebook, Precision::fast, 2).blocks == 66);
    REQUIRE(plan(hopper, notebook, Precision::fast, 4).blocks == 33);
    REQUIRE(plan(hopper, notebook, Precision::fast, 16).blocks == 30);
    REQUIRE(plan(hopper, growing, Precision::fast, 16).blocks == 90);
}

TEST_CASE("a cluster has the size whose blocks have least to do one after the other") {
    const auto cluster = [](const DeviceLimits& limits, const Grid& grid) {
        return plan_rollout(limits, cuda_device(Precision::fast, RolloutForm::cluster), grid);
    };
    // 15 tiles a sample: 15 blocks would be two waves of one tile, 8 to 14 one of two: the same, so
    // the larger.
    REQUIRE(cluster(hopper, notebook).cluster == 15);
    REQUIRE(cluster(hopper, notebook).blocks == 120);
    DeviceLimits crowded = hopper;
    crowded.active_clusters[15] = 3;
    REQUIRE(cluster(crowded, notebook).cluster == 14);
    REQUIRE_THAT(cluster(crowded, notebook).text,
                 ContainsSubstring("8 clusters of 14 blocks of up to 2 tiles"));
    REQUIRE(cluster(hopper, {3, 16, 8}).cluster == 1);
}

TEST_CASE("a form that cannot be had is refused by name") {
    const auto message = [](const DeviceLimits& limits, const Grid& grid, Precision precision,
                            RolloutForm form) {
        return message_of<CudaError>(
            [&] { plan_rollout(limits, cuda_device(precision, form), grid); });
    };
    REQUIRE_THAT(message(hopper, large, Precision::fast, RolloutForm::persistent),
                 ContainsSubstring("131072 tiles"));
    REQUIRE_THAT(message(hopper, notebook, Precision::exact, RolloutForm::persistent),
                 ContainsSubstring("exact"));
    REQUIRE_THAT(message(hopper, growing, Precision::fast, RolloutForm::cluster),
                 ContainsSubstring("45 tiles of a sample"));
    REQUIRE_THAT(message(ampere, notebook, Precision::fast, RolloutForm::cluster),
                 ContainsSubstring("compute capability 9.0 or later, A100 has 8.0"));
    REQUIRE(plan_rollout(hopper, cuda_device(Precision::fast, RolloutForm::steps), notebook).form ==
            RolloutForm::steps);
}

TEST_CASE("a device without tensor cores refuses their precisions and says what to do") {
    for (const Precision precision : {Precision::precise, Precision::fast}) {
        REQUIRE_THAT(message_of<CudaError>([&] { make_engine(cuda_device(precision)); }),
                     ContainsSubstring("compute capability 8.0") && ContainsSubstring("has 7.5") &&
                         ContainsSubstring("--precision exact"));
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

TEST_CASE("code for 8.0 trains on a device of 9.0, without dependent launches and clusters") {
    const test::TensorDevice device;
    const auto weights = [](Precision precision, RolloutForm form) {
        Trainer trainer(test::small_picture(), test::small_config("growing"),
                        cuda_device(precision, form));
        for (int i = 0; i < 3; ++i) trainer.iterate();
        return trainer.model().weights;
    };
    for (const auto& [precision, form] : {std::pair{Precision::exact, RolloutForm::steps},
                                          {Precision::fast, RolloutForm::steps},
                                          {Precision::fast, RolloutForm::persistent}}) {
        const Weights expected = weights(precision, form);
        const OldBuild build(80);
        REQUIRE((weights(precision, form) == expected));
    }
    const OldBuild build(80);
    REQUIRE_THAT(message_of<CudaError>([&] { weights(Precision::fast, RolloutForm::cluster); }),
                 ContainsSubstring("this build's newest for kernel executor is for 8.0") &&
                     ContainsSubstring("CMAKE_CUDA_ARCHITECTURES=90"));
    REQUIRE_THAT(make_engine(cuda_device(Precision::fast))->rollout_form(1, 40, 40),
                 ContainsSubstring("persistent"));
}

TEST_CASE("code for 7.5 has no tensor cores, whatever the device") {
    const test::TensorDevice device;
    const OldBuild build(75);
    for (const Precision precision : {Precision::precise, Precision::fast}) {
        REQUIRE_THAT(message_of<CudaError>([&] { make_engine(cuda_device(precision)); }),
                     ContainsSubstring("this build's newest for kernel executor is for 7.5") &&
                         ContainsSubstring("CMAKE_CUDA_ARCHITECTURES=90") &&
                         ContainsSubstring("--precision exact"));
    }
    Trainer trainer(test::small_picture(), test::small_config("growing"),
                    cuda_device(Precision::exact));
    REQUIRE(trainer.iterate().recovery.empty());
}

TEST_CASE("an engine says which form a rollout takes") {
    const test::TensorDevice device(8);
    REQUIRE_THAT(make_engine(cuda_device(Precision::fast))->rollout_form(1, 40, 40),
                 ContainsSubstring("persistent rollout, 15 blocks of one tile of 16x8 cells"));
    REQUIRE_THAT(make_engine(cuda_device(Precision::fast))->rollout_form(8, 72, 72),
                 ContainsSubstring("one kernel a step: 360 tiles"));
    executor::set_shared_limit(99 * 1024);
    REQUIRE_THAT(make_engine(cuda_device(Precision::fast))->rollout_form(1, 40, 40),
                 ContainsSubstring("one kernel a step") && ContainsSubstring("KiB"));
}
