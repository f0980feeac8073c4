// SPDX-License-Identifier: MIT
#include "host/tool/progress.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/process.hpp"

#include <fcntl.h>
#include <unistd.h>
#include <chrono>
#include <cstdio>
#include <regex>
#include <string>

using nca::tool::Pace;
using nca::tool::Progress;

namespace {

// What the work writes on stderr.
template <class Work>
std::string stderr_of(Work work) {
    const nca::test::Folder folder;
    const std::string path = folder / "err";
    const int old = dup(STDERR_FILENO);
    const int file = open(path.c_str(), O_WRONLY | O_CREAT, 0600);
    REQUIRE((old >= 0 && file >= 0));
    dup2(file, STDERR_FILENO);
    work();
    std::fflush(stderr);
    dup2(old, STDERR_FILENO);
    close(file);
    close(old);
    return nca::test::read_file(path);
}

}  // namespace

TEST_CASE("the rate counts what this run did, what is left counts everything") {
    Pace pace(100, 10);
    REQUIRE(pace.rate() == 0);
    REQUIRE_FALSE(pace.due(std::chrono::seconds(0)));
    pace.advance(50, false);  // an earlier run's
    REQUIRE(pace.done() == 50);
    REQUIRE(pace.rate() == 0);
    REQUIRE_FALSE(pace.due(std::chrono::seconds(0)));
    pace.advance(3);
    REQUIRE(pace.done() == 53);
    REQUIRE(pace.rate() > 0);
    REQUIRE(pace.due(std::chrono::seconds(0)));
    REQUIRE_FALSE(pace.due(std::chrono::hours(1)));
    pace.drop(47);
    REQUIRE(pace.wanted() == pace.done());
}

TEST_CASE("who asks for progress gets one answer, about each training that runs") {
    const std::string said = stderr_of([] {
        Progress progress({"a", "bb", "c", "d"}, 10, true);
        Progress::Training a = progress.of(0), bb = progress.of(1), c = progress.of(2);
        a.reach(0);
        bb.reach(4);  // of an earlier run
        c.reach(0);
        nca::tool::asked_for_progress = true;
        a.add({.loss = 0.5, .recovery = ""});
        a.add({.loss = 0.25, .recovery = ""});
        a.reach(2);
        a.reach(3);
        c.end();
        nca::tool::asked_for_progress = true;
        bb.reach(5);
    });
    const std::string speed = "  [0-9.e+]+ it/s  loss ";
    const std::regex expected("a: iteration 2/10" + speed +
                              "3.750e-01  0 s left\n"
                              "bb: iteration 4/10  this run has done no iteration yet\n"
                              "c: iteration 0/10  this run has done no iteration yet\n"
                              "4 trainings: 0 ended, 3 running, 1 waiting\n"
                              "a: iteration 3/10" +
                              speed +
                              "3.750e-01  0 s left\n"
                              "bb: iteration 5/10" +
                              speed +
                              "not finite  0 s left\n"
                              "4 trainings: 1 ended, 2 running, 1 waiting\n");
    INFO(said);
    REQUIRE(std::regex_match(said, expected));
}
