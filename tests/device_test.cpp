// SPDX-License-Identifier: MIT
#include <nca/device.hpp>
#include <nca/error.hpp>

#include <catch2/catch.hpp>

#include <string>

using nca::Device;

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
