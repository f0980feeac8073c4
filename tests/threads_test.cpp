// SPDX-License-Identifier: MIT
// The CPU engine where the system makes no more threads, and in a child of fork.
#include <nca/engine.hpp>
#include <nca/error.hpp>
#include <nca/image.hpp>
#include <nca/model.hpp>
#include <nca/simulator.hpp>

#include "tests/support/cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/engine_runs.hpp"
#include "tests/support/process.hpp"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <latch>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

using namespace nca;
using Catch::Matchers::ContainsSubstring;

namespace {

const test::Case example = test::random_case({.height = 60, .width = 11, .batch = 3}, 1);

std::vector<float> advance(int threads) {
    return test::run_advance(*make_engine(Device::cpu(threads)), example);
}

// The message of the Error that this throws; empty where it throws none.
template <class Work>
std::string error_of(Work work) {
    try {
        work();
        return "";
    } catch (const Error& error) {
        return error.what();
    }
}

// The messages of everything that computes on this engine's threads.
std::vector<std::string> errors_of(Engine& engine, int threads) {
    test::Uploaded on_engine(engine, example);
    const State grad_state = engine.make_state(example.batch, example.height, example.width);
    const Model model = {example.rule, example.weights, {}, {}};
    return {
        error_of([&] {
            engine.advance(example.rule, on_engine.weights, on_engine.state.view(),
                           example.options);
        }),
        error_of([&] {
            engine.forward(example.rule, on_engine.weights, on_engine.state.view(),
                           example.options);
        }),
        error_of([&] {
            std::array<float, 3> loss, living;
            State state = engine.make_state(example.batch, example.height, example.width);
            engine.loss(state.view(), loss.data(), living.data(), on_engine.state.view(),
                        {example.target.data(), example.height, example.width});
        }),
        error_of([&] {
            const Tape tape = make_engine(Device::cpu(1))
                                  ->forward(example.rule, on_engine.weights, on_engine.state.view(),
                                            example.options);
            test::run_backward(engine, tape, example);
        }),
        error_of([&] {
            Simulator simulator(model, {.device = Device::cpu(threads), .height = 5, .width = 5});
            simulator.step();
        }),
    };
}

void require_each_contains(const std::vector<std::string>& errors, const std::string& words) {
    for (const std::string& error : errors) {
        REQUIRE_THAT(error, ContainsSubstring(words));
        REQUIRE(error.find('\n') == std::string::npos);
        REQUIRE(error.size() < 400);
    }
}

// Sets how many threads this process may have in all, as a user who has no others where the tests
// run as root. False where the system does not count them.
bool limit_threads(rlim_t most) {
    if (geteuid() == 0) {
        // Another user for each process, as these tests may run at the same time.
        if (setuid(uid_t(20000 + getpid() % 40000)) != 0) return false;
        REQUIRE(prctl(PR_SET_DUMPABLE, 1) == 0);  // as it was, for the leak sanitizer
    }
    rlimit limit{};
    REQUIRE(getrlimit(RLIMIT_NPROC, &limit) == 0);
    limit.rlim_cur = 1;
    REQUIRE(setrlimit(RLIMIT_NPROC, &limit) == 0);
    try {
        std::thread([] {}).join();
        return false;
    } catch (const std::system_error&) {
    }
    limit.rlim_cur = std::min(most, limit.rlim_max);
    REQUIRE(setrlimit(RLIMIT_NPROC, &limit) == 0);
    return true;
}

std::ptrdiff_t threads_here() {
    return std::distance(std::filesystem::directory_iterator("/proc/self/task"),
                         std::filesystem::directory_iterator());
}

// Runs the test case that calls this once more in a new process, where none has run before. True
// where it has: there is nothing left to do. False in that process.
bool has_run_alone() {
    if (std::getenv("NCA_TEST_ALONE") != nullptr) return false;
    const std::string program = std::filesystem::read_symlink("/proc/self/exe");
    const std::string name = Catch::getResultCapture().getCurrentTestName();
    const test::Outcome outcome =
        test::Process({"/usr/bin/env", "NCA_TEST_ALONE=1", program, name}).wait();
    INFO(outcome.out << outcome.err);
    REQUIRE(outcome.code == 0);
    REQUIRE(outcome.out.find("in 1 test case") != std::string::npos);
    const std::size_t skipped = outcome.out.find("skipped: ");
    if (skipped != std::string::npos) {
        WARN(outcome.out.substr(skipped, outcome.out.find('\n', skipped) - skipped));
    }
    return true;
}

// The exit code of a child of fork that does this work; -1 where it crashes or waits for ever.
template <class Work>
int in_child(Work work) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        alarm(30);
        int code = 99;
        try {
            code = work();
        } catch (...) {
        }
        _exit(code);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

TEST_CASE("an engine that cannot have its threads throws and one of one thread computes") {
    if (has_run_alone()) return;
    const auto expected = advance(1);
    if (!limit_threads(1)) {
        WARN("skipped: the system does not count threads");
        return;
    }
    for (const int threads : {2, 64, 1024}) {
        const auto engine = make_engine(Device::cpu(threads));
        require_each_contains(errors_of(*engine, threads),
                              "cannot compute on " + std::to_string(threads) +
                                  " threads: the system made 1 and refused the next one");
    }
    REQUIRE(advance(1) == expected);
    const auto engine = make_engine(Device::cpu(3));
    REQUIRE_THROWS_WITH(test::run_advance(*engine, example), ContainsSubstring("fewer threads"));
    REQUIRE(limit_threads(RLIM_INFINITY));
    REQUIRE(test::run_advance(*engine, example) == expected);
}

TEST_CASE("as many threads as the system makes are taken and one more is refused") {
    if (has_run_alone()) return;
    const bool root = geteuid() == 0;
    const auto expected = advance(1);
    // This thread and four that compute.
    if (!root || !limit_threads(5)) {
        WARN("skipped: needs root, and a system that counts threads");
        return;
    }
    for (int round = 0; round < 50; ++round) {
        CAPTURE(round);
        std::vector<std::vector<float>> states(3);
        std::vector<std::string> errors(2);
        // A new thread, so that OpenMP makes its threads once more.
        std::thread([&] {
            states[0] = advance(4);
            errors[0] = error_of([] { advance(5); });
            errors[1] = error_of([] { advance(64); });
            states[1] = advance(1);
            states[2] = advance(4);
        }).join();
        require_each_contains(errors, "threads: the system made 4 and refused the next one");
        REQUIRE(states == std::vector(3, expected));
        // The threads of a thread that has ended leave a moment later.
        REQUIRE(test::eventually([] { return threads_here() == 1; }));
    }
    REQUIRE(limit_threads(RLIM_INFINITY));  // the leak sanitizer makes a thread at the end
}

TEST_CASE("where threads are left for one of two engines the other throws") {
    if (has_run_alone()) return;
    const bool root = geteuid() == 0;
    const auto expected = advance(1);
    // This thread, two that compute, and two more for each of them are seven.
    if (!root || !limit_threads(6)) {
        WARN("skipped: needs root, and a system that counts threads");
        return;
    }
    for (int round = 0; round < 50; ++round) {
        CAPTURE(round);
        std::latch tried(2);
        std::array<std::string, 2> errors;
        std::array<std::vector<float>, 2> states;
        {
            std::vector<std::jthread> threads;
            for (int i = 0; i < 2; ++i) {
                threads.emplace_back([&, i] {
                    errors[i] = error_of([&] { states[i] = advance(3); });
                    tried.arrive_and_wait();
                });
            }
        }
        const int failed = errors[0].empty() ? 1 : 0;
        REQUIRE(errors[1 - failed].empty());
        REQUIRE(states[1 - failed] == expected);
        REQUIRE_THAT(errors[failed], ContainsSubstring("cannot compute on 3 threads"));
        REQUIRE(test::eventually([] { return threads_here() == 1; }));
    }
    REQUIRE(limit_threads(RLIM_INFINITY));
}

TEST_CASE("a child of fork whose parent computed on two threads is told so, and does the rest") {
    const auto expected = advance(1);
    const auto two = make_engine(Device::cpu(2));
    const auto one = make_engine(Device::cpu(1));
    REQUIRE(test::run_advance(*two, example) == expected);
    const test::Folder folder;
    const Model model = {example.rule, example.weights, {}, {}};
    REQUIRE(in_child([&] {
                for (const std::string& error : errors_of(*two, 2)) {
                    if (error.find("came from fork") == std::string::npos) return 1;
                    if (error.size() >= 400 || error.find('\n') != std::string::npos) return 2;
                }
                if (error_of([] { advance(7); }).find("came from fork") == std::string::npos) {
                    return 3;
                }
                return 0;
            }) == 0);
    REQUIRE(in_child([&] {
                if (test::run_advance(*one, example) != expected) return 1;
                if (advance(1) != expected) return 2;
                model.save(folder / "model");
                if (Model::load(folder / "model").weights != model.weights) return 3;
                Simulator simulator(model, {.device = Device::cpu(1), .height = 5, .width = 7});
                simulator.plant_seed(2, 3);
                save_png(folder / "picture.png", simulator.picture());
                return load_image(folder / "picture.png").width == 7 ? 0 : 4;
            }) == 0);
    REQUIRE(test::run_advance(*two, example) == expected);
    REQUIRE(Model::load(folder / "model").weights == model.weights);
}

TEST_CASE("a child of fork computes on threads where its parent has not") {
    if (has_run_alone()) return;
    const auto expected = advance(1);
    const auto child = [&] { return advance(2) == expected && advance(3) == expected ? 0 : 1; };
    REQUIRE(in_child(child) == 0);
    REQUIRE(in_child([&] { return in_child(child); }) == 0);
    REQUIRE(advance(2) == expected);
    REQUIRE(in_child(child) == 99);
}
