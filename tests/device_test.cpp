// SPDX-License-Identifier: MIT
#include "tests/support/catch.hpp"

#include <nca/device.hpp>
#include <nca/engine.hpp>
#include <nca/error.hpp>

#include <string>

using nca::Device;
using nca::Precision;

TEST_CASE("every device name of the tool is understood") {
    REQUIRE(Device::parse("auto").kind == Device::Kind::automatic);
    REQUIRE(Device::parse("cpu").kind == Device::Kind::cpu);
    REQUIRE(Device::parse("cpu").threads == 0);
    REQUIRE(Device::parse("cuda").kind == Device::Kind::cuda);
    REQUIRE(Device::parse("cuda").index == 0);
    REQUIRE(Device::parse("cuda:1").kind == Device::Kind::cuda);
    REQUIRE(Device::parse("cuda:1").index == 1);
    REQUIRE(Device::parse("cuda:63").index == 63);
}

TEST_CASE("any other device name is refused and the message lists the good ones") {
    const std::string text =
        GENERATE("", "gpu", "CPU", "cpu ", "cuda:", "cuda:64", "cuda:-1", "cuda:-0", "cuda:+1",
                 "cuda:1x", "cuda: 1", "cuda:0x1", "cuda:99999999999999999999", "cuda1", "cpu:2");
    CAPTURE(text);
    REQUIRE_THROWS_AS(Device::parse(text), nca::InvalidArgument);
    REQUIRE_THROWS_WITH(
        Device::parse(text),
        "unknown device '" + text + "', expected auto, cpu, cuda, or cuda:N with N in 0..63");
}

TEST_CASE("the name of each precision is understood as that precision") {
    REQUIRE(name(Precision(7)) == "unknown");
    const auto [text, precision] = GENERATE(table<std::string, Precision>({
        {"exact", Precision::exact},
        {"precise", Precision::precise},
        {"fast", Precision::fast},
    }));
    CAPTURE(text);
    REQUIRE(nca::name(precision) == text);
    REQUIRE(nca::parse_precision(text) == precision);
}

TEST_CASE("any other precision's name is refused and the message lists the good ones") {
    const std::string text = GENERATE("", "Exact", "exact ", "float32", "tf32", "fp16", "fas");
    CAPTURE(text);
    REQUIRE_THROWS_AS(nca::parse_precision(text), nca::InvalidArgument);
    REQUIRE_THROWS_WITH(nca::parse_precision(text),
                        "unknown precision '" + text + "', expected exact, precise or fast");
}

TEST_CASE("the precision that is gone names the one to use") {
    REQUIRE_THROWS_AS(nca::parse_precision("half"), nca::InvalidArgument);
    REQUIRE_THROWS_WITH(nca::parse_precision("half"), "precision half is gone: use fast");
}

TEST_CASE("precision and form of a rollout are the engine's choice unless asked for") {
    for (const Device& device : {Device::automatic(), Device::cpu(2), Device::cuda(1)}) {
        REQUIRE(!device.precision);
        REQUIRE(device.rollout == nca::RolloutForm::automatic);
    }
}

TEST_CASE("the CPU engine computes in float32 whatever precision is asked for") {
    Device device = Device::cpu(1);
    device.precision = GENERATE(Precision::precise, Precision::fast);
    const auto engine = nca::make_engine(device);
    REQUIRE(engine->description() == nca::make_engine(Device::cpu(1))->description());
    REQUIRE(engine->precision() == Precision::exact);
    REQUIRE(engine->rollout_form(8, 40, 40).text == "float32 on the CPU");
}
