// SPDX-License-Identifier: MIT
// nca gradcheck, and the check itself.
#include <nca/image.hpp>
#include <nca/model.hpp>

#include "host/tool/gradcheck_reference.hpp"
#include "tests/support/cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/tool.hpp"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <vector>

using namespace nca::test;

TEST_CASE("gradcheck agrees with the reference and writes the gradients", "[gradients]") {
    const Workshop shop;
    const Outcome outcome = nca_tool({"gradcheck", shop.model, shop.target, "--steps", "3",
                                      "--batch", "2", "--out", shop / "grads"});
    INFO(outcome.out << outcome.err);
    REQUIRE(outcome.code == 0);
    for (const char* name : {"net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"}) {
        REQUIRE(contains(outcome.out, name));
    }
    REQUIRE_FALSE(contains(outcome.out, "WRONG"));
    const nca::Model grads = nca::Model::load(shop / "grads");
    const auto values = grads.weights.all();
    REQUIRE(std::any_of(values.begin(), values.end(), [](float value) { return value != 0; }));
}

TEST_CASE("gradcheck fails where a state is not finite, also where the gradients are") {
    const Workshop shop;
    // A hidden channel is infinite after the fourth step. The loss does not depend on it.
    steady_model(-0.01F, 1e38F).save(shop.model);
    const Words words = {"gradcheck", shop.model, shop.target, "--out", shop / "new.safetensors"};
    const Outcome three = nca_tool(words + Words{"--steps", "3"});
    INFO(three.out << three.err);
    REQUIRE(three.code == 0);
    std::filesystem::remove(shop / "new.safetensors");
    const auto before = shop.contents();
    for (const char* steps : {"4", "5", "8"}) {
        const Outcome outcome = nca_tool(words + Words{"--steps", steps});
        INFO(outcome.out << outcome.err);
        REQUIRE(outcome.code == 1);
        REQUIRE(contains(outcome.err, "nca: after step 4 of " + std::string(steps) +
                                          " the engine's states are not finite"));
        REQUIRE(outcome.out.empty());
        REQUIRE(shop.contents() == before);
    }
}

TEST_CASE("gradcheck refuses a target that the reference would take hours for") {
    const Workshop shop;
    nca::Image image;
    image.height = 300;
    image.width = 10;
    image.pixels.assign(std::size_t{300} * 10 * 4, 255);
    nca::save_png(shop / "large.png", image);
    const Outcome outcome = nca_tool({"gradcheck", shop.model, shop / "large.png"});
    require_message(outcome, {"large.png", "300x10", "256"});
    REQUIRE(outcome.code == 1);
}

namespace {

nca::reference::GradientCheck reference_of(const nca::test::Case& drawn) {
    nca::tool::GradcheckProblem problem;
    problem.model = {drawn.rule, drawn.weights, {}, {}};
    problem.target = drawn.target;
    problem.state = drawn.state;
    problem.batch = drawn.batch;
    problem.height = drawn.height;
    problem.width = drawn.width;
    problem.options = drawn.options;
    return problem.reference();
}

}  // namespace

TEST_CASE("one corrupted gradient entry makes the gradient check fail", "[gradients]") {
    nca::test::CaseOptions options;
    options.height = 5;
    options.width = 4;
    options.batch = 2;
    options.steps = 3;
    const nca::test::Case drawn = nca::test::random_case(options, 3);
    const nca::reference::GradientCheck reference = reference_of(drawn);
    const std::vector<double> expected = reference.gradients().weights.all;
    nca::Weights gradient(true);
    std::copy(expected.begin(), expected.end(), gradient.all().begin());
    const double tolerance = nca::tool::gradcheck_tolerance(options.steps, nca::Precision::exact);
    for (const nca::ParameterTensor& tensor : nca::parameter_tensors(true)) {
        const auto good = [&] {
            return nca::tool::check_tensor(tensor, gradient, expected, reference, tolerance, 1)
                .good;
        };
        REQUIRE(good());
        float& entry = gradient.all()[tensor.offset + tensor.size / 2];
        const float saved = entry;
        const double largest =
            nca::tool::check_tensor(tensor, gradient, expected, reference, tolerance, 1).largest;
        REQUIRE(largest > 0);
        entry += static_cast<float>(largest / 100);
        REQUIRE(!good());
        entry = std::numeric_limits<float>::quiet_NaN();
        REQUIRE(!good());
        entry = saved;
        REQUIRE(good());
    }
}

TEST_CASE("a coarser precision may be further off, and none less than float32 at many steps") {
    using nca::Precision;
    using nca::tool::gradcheck_tolerance;
    REQUIRE(gradcheck_tolerance(8, Precision::exact) < 1e-4);
    REQUIRE(gradcheck_tolerance(8, Precision::precise) == 1e-4);
    REQUIRE(gradcheck_tolerance(8, Precision::fast) == 5e-2);
    REQUIRE(gradcheck_tolerance(1000, Precision::precise) ==
            gradcheck_tolerance(1000, Precision::exact));
}

TEST_CASE("a wrong reference does not agree with its central differences", "[gradients]") {
    nca::test::CaseOptions options;
    const nca::test::Case drawn = nca::test::random_case(options, 3);
    const nca::reference::GradientCheck reference = reference_of(drawn);
    std::vector<double> expected = reference.gradients().weights.all;
    for (double& value : expected) {
        value *= 1.01;
    }
    nca::Weights gradient(true);
    std::copy(expected.begin(), expected.end(), gradient.all().begin());
    const double tolerance = nca::tool::gradcheck_tolerance(options.steps, nca::Precision::exact);
    for (const nca::ParameterTensor& tensor : nca::parameter_tensors(true)) {
        REQUIRE(!nca::tool::check_tensor(tensor, gradient, expected, reference, tolerance, 1).good);
    }
}
