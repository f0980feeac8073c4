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

TEST_CASE("a form that cannot be had is refused by name") {
    REQUIRE_THAT(
        message_of<CudaError>([] {
            plan_rollout({}, cuda_device(Precision::fast, RolloutForm::bands), {1, 40, 40});
        }),
        ContainsSubstring("a rollout in bands cannot be had"));
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

TEST_CASE("code for 8.0 trains on a device of 9.0, without dependent launches") {
    const test::TensorDevice device;
    const auto weights = [](Precision precision) {
        Trainer trainer(test::small_picture(), test::small_config("growing"),
                        cuda_device(precision));
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
                         ContainsSubstring("--precision exact"));
    }
    Trainer trainer(test::small_picture(), test::small_config("growing"),
                    cuda_device(Precision::exact));
    REQUIRE(trainer.iterate().recovery.empty());
}
