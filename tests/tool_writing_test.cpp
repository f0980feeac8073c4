// SPDX-License-Identifier: MIT
// nca: files that cannot be written.
#include "tests/support/catch.hpp"
#include "tests/support/tool.hpp"

#include <sys/stat.h>
#include <algorithm>
#include <filesystem>
#include <string>

using namespace nca::test;

TEST_CASE("places that cannot be written are noticed before training starts") {
    const Workshop shop;
    REQUIRE(mkfifo((shop / "pipe").c_str(), 0600) == 0);
    std::filesystem::create_symlink(shop / "pipe", shop / "link to a pipe");
    std::filesystem::create_symlink(shop / "nothing", shop / "link to nothing");
    std::filesystem::create_symlink("/proc/file", shop / "link into proc");
    const auto before = shop.contents();
    // No file can be made in /proc, by root either.
    for (const std::string& path :
         {shop / "no such folder/file", shop / ".", std::string("/proc/file"), shop / "pipe",
          shop / "link to a pipe", shop / "link to nothing", shop / "link into proc"}) {
        for (const Words& words :
             {Words{"train", shop.target, "-o", path},
              Words{"train", shop.target, "-o", shop / "new", "--log", path},
              Words{"train", shop.target, "-o", shop / "new", "--checkpoint", path},
              Words{"train", shop.target, "-o", shop / "new", "--report", path},
              Words{"grow", shop.model, "-o", shop / "new.gif", "--state-out", path},
              Words{"gradcheck", shop.model, shop.target, "--out", path}}) {
            INFO(words[0] << " " << path);
            const Outcome outcome = nca_tool(words);
            require_message(outcome, {"cannot write"});
            REQUIRE(outcome.code == 1);
            REQUIRE(shop.contents() == before);
            REQUIRE(std::filesystem::is_fifo(shop / "pipe"));
            REQUIRE(std::filesystem::is_symlink(shop / "link to a pipe"));
        }
    }
}

TEST_CASE("a log behind a link is written and the link stays") {
    const Workshop shop;
    write_file(shop / "log.csv", "old");
    std::filesystem::create_symlink("log.csv", shop / "link.csv");
    const Words words = {"-o", shop / "new", "--iterations", "2", "--log", shop / "link.csv"};
    REQUIRE(nca_tool(shop.train_words() + words).code == 0);
    REQUIRE(std::filesystem::is_symlink(shop / "link.csv"));
    const std::string log = read_file(shop / "log.csv");
    REQUIRE(log.starts_with("# engine: "));
    REQUIRE(contains(log, "; float32 on the CPU\niteration,loss"));
    REQUIRE(std::count(log.begin(), log.end(), '\n') == 4);
}

TEST_CASE("a disk that is full at the end leaves the old model and says so") {
    const Workshop shop;
    const auto before = shop.contents();
    const rlim_t limit = 16384;  // less than a model
    const Outcome train =
        nca_tool(shop.train_words() + Words{"-o", shop.model, "--iterations", "1"}, limit);
    require_message(train, {"model.safetensors"});
    REQUIRE(train.code == 1);
    REQUIRE(shop.contents() == before);
    for (const char* name : {"new.gif", "new.png", "new.webp"}) {
        const Outcome grow = nca_tool({"grow", shop.model, "-o", shop / name, "--steps", "5",
                                       "--size", "40x40", "--state-out", shop / "state.npy"},
                                      4096);  // LLVM's OpenMP needs 1024 to start
        INFO(name << grow.err);
        REQUIRE(grow.code == 1);
        REQUIRE(contains(grow.err, "state.npy") + contains(grow.err, name) > 0);
        REQUIRE_FALSE(std::filesystem::exists(shop / "state.npy"));
        std::filesystem::remove(shop / name);  // may be small enough
        REQUIRE(shop.contents() == before);
    }
}

TEST_CASE("a checkpoint that cannot be written does not end training") {
    const Workshop shop;
    const rlim_t limit = 64 << 10;  // more than a model, less than a checkpoint
    const Outcome outcome =
        nca_tool(shop.train_words() + Words{"-o", shop / "new", "--iterations", "3", "--checkpoint",
                                            shop / "checkpoint", "--every", "2"},
                 limit);
    INFO(outcome.err);
    REQUIRE(contains(outcome.err, "training goes on"));
    REQUIRE(std::filesystem::exists(shop / "new"));
    REQUIRE_FALSE(std::filesystem::exists(shop / "checkpoint"));
}

TEST_CASE("a folder for pictures that cannot be made is refused before training") {
    const Workshop shop;
    const auto before = shop.contents();
    for (const std::string& path : {shop.target, shop.target + "/folder", std::string("/proc/a")}) {
        const Outcome outcome =
            nca_tool(shop.train_words() + Words{"-o", shop / "new", "--pictures", path});
        require_message(outcome, {"cannot write", path});
        REQUIRE(outcome.code == 1);
        REQUIRE(shop.contents() == before);
    }
}

TEST_CASE("results that nobody can read are a failure") {
    const Workshop shop;
    const std::string command =
        tool_command({})[0] + " info " + shop.model + " > /dev/full 2> " + (shop / "err");
    const Outcome outcome = Process({"/bin/sh", "-c", command}).wait();
    REQUIRE(outcome.code == 1);
    REQUIRE(contains(read_file(shop / "err"), "standard output"));
}
