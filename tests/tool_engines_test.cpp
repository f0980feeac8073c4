// SPDX-License-Identifier: MIT
// nca: what it says of the engine that it runs on.
#include <nca/engine.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/tool.hpp"

#include <algorithm>
#include <string>

using namespace nca::test;

TEST_CASE("CUDA without CUDA is one line and exit code 1") {
    const Workshop shop;
    const Outcome outcome =
        nca_tool({"grow", shop.model, "-o", shop / "new.png", "--device", "cuda:63"});
    require_message(outcome, {"CUDA"});
    REQUIRE(outcome.code == 1);
}

TEST_CASE("every command that runs an engine says when there is no CUDA device to take") {
    const Workshop shop;
    const bool host =
        nca::make_engine(nca::Device::automatic())->memory_space() == nca::MemorySpace::host;
    for (const Words& words :
         {Words{"train", shop.target, "-o", shop / "new.safetensors", "--size", "8", "--padding",
                "2", "--steps", "2:5", "--iterations", "1", "--overwrite"},
          Words{"grow", shop.model, "-o", shop / "new.png", "--steps", "1"},
          Words{"gradcheck", shop.model, shop.target, "--steps", "1"}}) {
        INFO(words[0]);
        REQUIRE(contains(nca_tool(words).err,
                         "no CUDA device that this build can use: running on") == host);
        const std::string chosen = nca_tool(words + Words{"--device", "cpu"}).err;
        REQUIRE(contains(chosen, "running on"));
        REQUIRE_FALSE(contains(chosen, "no CUDA device"));
    }
}

TEST_CASE("a precision on the CPU is accepted and said to mean float32") {
    const Workshop shop;
    const Words cpu = {"--device", "cpu"};
    for (const Words& words :
         {shop.train_words() +
              Words{"-o", shop / "new.safetensors", "--iterations", "1", "--overwrite"},
          Words{"grow", shop.model, "-o", shop / "new.png", "--steps", "1"},
          Words{"gradcheck", shop.model, shop.target, "--steps", "1"}, Words{"info"}}) {
        INFO(words[0]);
        const Outcome plain = nca_tool(words + cpu);
        for (const char* precision : {"exact", "precise", "fast"}) {
            const Outcome outcome = nca_tool(words + cpu + Words{"--precision", precision});
            INFO(outcome.err);
            REQUIRE(outcome.code == 0);
            REQUIRE(outcome.out == plain.out);
            const std::string said =
                "nca: --precision " + std::string(precision) + ": means float32 on the CPU\n";
            REQUIRE(outcome.err == plain.err + (precision == Words{"exact"}[0] ? "" : said));
        }
    }
}

TEST_CASE("info tells what an engine is and how it runs each preset, with a model or without") {
    const Workshop shop;
    const Outcome alone = nca_tool({"info", "--device", "cpu"});
    REQUIRE(alone.code == 0);
    REQUIRE(alone.err.empty());
    REQUIRE(alone.out.starts_with("engine\n  device        " +
                                  nca::make_engine(nca::Device::cpu())->description() + "\n"));
    REQUIRE(contains(alone.out, "\n  notebook      batch 8 at 40x40: float32 on the CPU\n"));
    for (const char* name : {"growing       ", "persistent    ", "regenerating  "}) {
        REQUIRE(contains(alone.out,
                         "\n  " + std::string(name) + "batch 8 at 72x72: float32 on the CPU\n"));
    }
    REQUIRE(std::count(alone.out.begin(), alone.out.end(), '\n') == 6);
    const std::string model = nca_tool({"info", shop.model}).out;
    REQUIRE(nca_tool({"info", shop.model, "--device", "cpu"}).out == model + "\n" + alone.out);

    const std::string automatic = nca_tool({"info", "--device"}).out;
    REQUIRE(automatic == nca_tool({"info", "--device", "auto"}).out);
    REQUIRE(contains(automatic, nca::make_engine(nca::Device::automatic())->description()));
    const Outcome missing = nca_tool({"info", "--device", "cuda:63"});
    require_message(missing, {"CUDA"});
    REQUIRE(missing.code == 1);
}
