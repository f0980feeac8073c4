// SPDX-License-Identifier: MIT
// nca train: SIGUSR1 asks how it goes, --stop-at and --time end it.
#include <nca/image.hpp>
#include <nca/model.hpp>

#include "host/core/median.hpp"
#include "host/tool/arguments/parse_duration.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/page.hpp"
#include "tests/support/tool.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <numeric>
#include <optional>
#include <regex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

using namespace nca::test;

namespace {

const std::string very_many = "100000000";  // iterations

// The losses of a log.
std::vector<double> losses_of(const std::string& path) {
    std::vector<double> losses;
    std::istringstream log(read_file(path));
    for (std::string line; std::getline(log, line);) {
        if (!line.empty() && line.front() >= '0' && line.front() <= '9') {
            losses.push_back(std::stod(line.substr(line.find(',') + 1)));
        }
    }
    return losses;
}

bool has_rows(const std::string& log) { return contains(read_file(log), "\n2,"); }

// The whole line about a training that runs: its iteration, speed and loss.
const std::regex progress_line("iteration (\\d+)/" + very_many +
                               "  ([0-9.e+]+) it/s  loss ([0-9.e+-]+)  .+ left");

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    return lines;
}

// Three targets of one workshop.
Words three_targets(const Workshop& shop) {
    Words words = {"train"};
    for (const char* name : {"a.png", "bb.png", "c.png"}) {
        std::filesystem::copy(shop.target, shop / name);
        words.push_back(shop / name);
    }
    Words options = shop.train_words();
    options.erase(options.begin(), options.begin() + 2);
    return words + options;
}

}  // namespace

TEST_CASE("a quiet training says at SIGUSR1 how it goes, as often as it is asked") {
    const Workshop shop;
    const std::string log = shop / "log.csv";
    Process process(tool_command(shop.train_words() + Words{"-o", shop / "new.safetensors", "--log",
                                                            log, "--iterations", very_many}));
    REQUIRE(eventually([&] { return has_rows(log); }));
    for (const std::ptrdiff_t answers : {1, 2}) {
        process.kill(SIGUSR1);
        REQUIRE(eventually([&] {
            const std::string said = process.err_so_far();
            return std::count(said.begin(), said.end(), '\n') == answers;
        }));
    }
    process.kill(SIGINT);
    const Outcome outcome = process.wait();
    INFO(outcome.err);
    REQUIRE(outcome.code == 1);
    const std::vector<std::string> lines = lines_of(outcome.err);
    REQUIRE(lines.size() == 4);  // the last two about Ctrl-C
    const std::vector<double> losses = losses_of(log);
    std::size_t before = 0;
    for (std::size_t i = 0; i < 2; ++i) {
        std::smatch parts;
        REQUIRE(std::regex_match(lines[i], parts, progress_line));
        const std::size_t done = std::stoul(parts[1]);
        REQUIRE(done > before);
        REQUIRE(done <= losses.size());
        REQUIRE(std::stod(parts[2]) > 0);
        const std::size_t window = std::min<std::size_t>(done, 100);
        const auto end = losses.begin() + std::ptrdiff_t(done);
        const double mean =
            std::accumulate(end - std::ptrdiff_t(window), end, 0.0) / double(window);
        REQUIRE(std::abs(std::stod(parts[3]) / mean - 1) <= 1e-3);
        before = done;
    }
}

TEST_CASE("of several trainings SIGUSR1 names each that runs and counts the others") {
    const Workshop shop;
    Words words =
        three_targets(shop) + Words{"-o",           shop / "new", "--log",     shop / "new",
                                    "--iterations", very_many,    "--threads", "2"};
    words.erase(std::find(words.begin(), words.end(), "--threads"),
                std::find(words.begin(), words.end(), "--threads") + 2);  // the first, of 1
    Process process(tool_command(words));
    REQUIRE(
        eventually([&] { return has_rows(shop / "new/a.csv") && has_rows(shop / "new/bb.csv"); }));
    process.kill(SIGUSR1);
    const std::string last = "3 trainings: 0 ended, 2 running, 1 waiting\n";
    REQUIRE(eventually([&] { return contains(process.err_so_far(), last); }));
    const std::vector<std::string> lines = lines_of(process.err_so_far());
    INFO(process.err_so_far());
    REQUIRE(lines.size() == 3);
    REQUIRE(lines[0].starts_with("a: "));
    REQUIRE(std::regex_match(lines[0].substr(3), progress_line));
    REQUIRE(lines[1].starts_with("bb: "));
    REQUIRE(std::regex_match(lines[1].substr(4), progress_line));
}

TEST_CASE("a SIGUSR1 that is ignored stays so") {
    const Workshop shop;
    const std::string log = shop / "log.csv";
    const Words words =
        Words{"/bin/bash", "-c", "trap '' USR1; exec \"$@\"", "bash"} +
        tool_command(shop.train_words() + Words{"-o", shop / "new.safetensors", "--log", log,
                                                "--iterations", very_many});
    Process process(words);
    REQUIRE(eventually([&] { return has_rows(log); }));
    process.kill(SIGUSR1);
    process.kill(SIGINT);
    const Outcome outcome = process.wait();
    INFO(outcome.err);
    REQUIRE(outcome.code == 1);
    REQUIRE(outcome.err.starts_with("nca: stopped after "));
}

TEST_CASE("on a terminal the answer to SIGUSR1 has a line of its own") {
    const std::string script = find_program("script");  // makes a terminal for a program
    if (script.empty()) {
        WARN("skipped: no program script");
        return;
    }
    const Workshop shop;
    Words words =
        shop.train_words() +
        Words{"-o", shop / "new.safetensors", "--log", shop / "log.csv", "--iterations", very_many};
    std::erase(words, "--quiet");
    std::string command;
    for (const std::string& word : tool_command(words)) command += "'" + word + "' ";
    // After the live line has come, which is there after 0.2 seconds.
    command += "& until grep -q '^2,' '" + (shop / "log.csv") +
               "'; do sleep 0.1; done; sleep 0.5; kill -USR1 $!; sleep 0.5; kill $!; wait $!";
    const Outcome outcome = Process({script, "-qec", command, "/dev/null"}).wait();
    INFO(outcome.out);
    REQUIRE(outcome.code == 1);
    const std::string number = "[0-9.e+-]+";
    const std::regex answer("\r\033\\[Kiteration \\d+/" + very_many + "  " + number +
                            " it/s  loss " + number + "  [^\r\n\033]+ left\r\n");
    REQUIRE(std::distance(std::sregex_iterator(outcome.out.begin(), outcome.out.end(), answer),
                          std::sregex_iterator()) == 1);
}

TEST_CASE("training ends at the iteration whose median loss is below --stop-at") {
    const Workshop shop;
    const auto run = [&](const std::string& name, const Words& more) {
        const Outcome outcome =
            nca_tool(shop.train_words() + Words{"-o", shop / (name + ".safetensors")} + more);
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        return outcome;
    };
    run("log", {"--log", shop / "log.csv", "--iterations", "220"});
    const std::vector<double> losses = losses_of(shop / "log.csv");
    REQUIRE(losses.size() == 220);
    const auto median_after = [&](std::size_t iterations) {
        const auto end = losses.begin() + std::ptrdiff_t(iterations);
        return nca::median({end - 50, end});
    };
    // The lowest median of some iterations is reached for the first time there.
    std::size_t expected = 50;
    for (std::size_t i = 50; i < 200; ++i) {
        if (median_after(i) < median_after(expected)) expected = i;
    }
    REQUIRE(expected > 100);
    const std::string loss = fmt::format(
        "{}", std::nextafter(median_after(expected), std::numeric_limits<double>::max()));

    const Words stop_at = {"--stop-at", loss, "--iterations", "220"};
    REQUIRE(run("whole", stop_at).err.empty());
    const std::string whole = read_file(shop / "whole.safetensors");
    const nca::TrainingHistory history = nca::Model::load(shop / "whole.safetensors").history;
    REQUIRE(history.iterations == std::int64_t(expected));
    REQUIRE(history.stop_at == std::stod(loss));
    REQUIRE(contains(nca_tool({"info", shop / "whole.safetensors"}).out,
                     "ended by      --stop-at " + loss + "\n"));

    const Words checkpoint = {"--checkpoint", shop / "checkpoint"};
    const Words resume = {"--resume", shop / "checkpoint"};
    // Fewer iterations than a median has, and more.
    for (const char* iterations : {"30", "90"}) {
        run("parts", checkpoint + Words{"--stop-at", loss, "--iterations", iterations});
        REQUIRE(nca::Model::load(shop / "parts.safetensors").history.stop_at == 0);
        run("parts", checkpoint + resume + stop_at);
        REQUIRE((read_file(shop / "parts.safetensors") == whole));
        REQUIRE(nca::iterations_in_file(shop / "checkpoint") == std::int64_t(expected));
        // It ends at once, and the model is written again.
        std::filesystem::remove(shop / "parts.safetensors");
        run("parts", checkpoint + resume + stop_at);
        REQUIRE((read_file(shop / "parts.safetensors") == whole));
        std::filesystem::remove(shop / "parts.safetensors");
        std::filesystem::remove(shop / "checkpoint");
    }

    Words loud = shop.train_words() + stop_at + Words{"-o", shop / "loud.safetensors"};
    std::erase(loud, "--quiet");
    const Outcome said = nca_tool(loud);
    INFO(said.err);
    REQUIRE(contains(said.err,
                     fmt::format("nca: ends after {} of 220 iterations: the median of the last 50 "
                                 "losses is {:.3e}, below --stop-at {}\n",
                                 expected, median_after(expected), loss)));

    // Not before there are 50 losses, and never where it is not reached.
    run("early", {"--stop-at", "1e9", "--iterations", "220"});
    REQUIRE(nca::iterations_in_file(shop / "early.safetensors") == 50);
    run("never", {"--stop-at", "1e-300", "--iterations", "220"});
    REQUIRE((read_file(shop / "never.safetensors") == read_file(shop / "log.safetensors")));
}

TEST_CASE("several targets end by --stop-at on their own, and --resume leaves them alone") {
    const Workshop shop;
    const Words words = three_targets(shop) + Words{"-o", shop / "new", "--iterations", "70"};
    REQUIRE(nca_tool(words + Words{"--stop-at", "1e9"}).code == 0);
    const auto models = [&] {
        std::string all;
        for (const char* name : {"a", "bb", "c"}) {
            all += read_file(shop / ("new/" + std::string(name) + ".safetensors"));
        }
        return all;
    };
    REQUIRE(nca::iterations_in_file(shop / "new/bb.safetensors") == 50);
    // One of them has not been begun.
    std::filesystem::remove(shop / "new/c.safetensors");
    Words resumed = words + Words{"--resume", shop / "new", "--stop-at", "1e9"};
    std::erase(resumed, "--quiet");
    const Outcome outcome = nca_tool(resumed);
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    const std::string done = ": done already, --stop-at has ended it after 50 iterations\n";
    REQUIRE(contains(outcome.err, "nca: a" + done));
    REQUIRE(contains(outcome.err, "nca: bb" + done));
    REQUIRE_FALSE(contains(outcome.err, "nca: c" + done));
    REQUIRE(nca::iterations_in_file(shop / "new/c.safetensors") == 50);

    // A lower loss, or none, asks for more, and there is no checkpoint to go on from.
    const std::string before = models();
    for (const Words& more : {Words{"--stop-at", "1e8"}, Words{}}) {
        REQUIRE(nca_tool(words + Words{"--resume", shop / "new"} + more).code > 0);
        REQUIRE((models() == before));
    }
    const Words checkpoint = {"--checkpoint", shop / "new"};
    REQUIRE(nca_tool(words + checkpoint + Words{"--stop-at", "1e9", "--overwrite"}).code == 0);
    REQUIRE((models() == before));
    REQUIRE(
        nca_tool(words + checkpoint + Words{"--resume", shop / "new", "--stop-at", "1e8"}).code ==
        0);
    REQUIRE(nca::iterations_in_file(shop / "new/a.safetensors") == 50);
    REQUIRE(nca::Model::load(shop / "new/a.safetensors").history.stop_at == 1e8);
    REQUIRE(nca_tool(words + Words{"--resume", shop / "new"}).code == 0);
    REQUIRE(nca::iterations_in_file(shop / "new/a.safetensors") == 70);
    REQUIRE(nca::Model::load(shop / "new/a.safetensors").history.stop_at == 0);
}

TEST_CASE("a time limit stops a training as Ctrl-C does, and it goes on to the same bits") {
    const Workshop shop;
    const std::string model = shop / "new.safetensors";
    const Words words = shop.train_words() + Words{"-o", model, "--iterations"};
    const auto start = std::chrono::steady_clock::now();
    const Outcome stopped = nca_tool(words + Words{very_many, "--time", "1s"});
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    INFO(stopped.err);
    REQUIRE(stopped.code == 1);
    REQUIRE(seconds.count() >= 1);
    REQUIRE(seconds.count() < 30);
    const std::int64_t done = nca::iterations_in_file(model);
    REQUIRE(done > 0);
    REQUIRE(stopped.err.starts_with(
        fmt::format("nca: the time limit is reached, stopped after {} of {} iterations; the "
                    "weights so far are in {}\n",
                    done, very_many, model)));
    REQUIRE(stopped.err.ends_with(" --time 1s --resume " + model + ".checkpoint\n"));

    const std::string all = std::to_string(done + 3);
    REQUIRE(
        nca_tool(words + Words{all, "--time", "1h30m", "--resume", model + ".checkpoint"}).code ==
        0);
    REQUIRE(
        nca_tool(shop.train_words() + Words{"-o", shop / "whole.safetensors", "--iterations", all})
            .code == 0);
    REQUIRE((read_file(model) == read_file(shop / "whole.safetensors")));
}

TEST_CASE("a time limit stops several trainings, and those that wait are not begun") {
    const Workshop shop;
    const std::string models = shop / "new";
    const Outcome stopped = nca_tool(
        three_targets(shop) + Words{"-o", models, "--iterations", very_many, "--time", "1s"});
    INFO(stopped.err);
    REQUIRE(stopped.code == 1);
    REQUIRE(stopped.err.starts_with("nca: a: the time limit is reached, stopped after "));
    REQUIRE(contains(stopped.err,
                     "nca: the time limit is reached, stopped with 0 of 3 trainings done\n"));
    REQUIRE(stopped.err.ends_with(" --time 1s --resume " + models + "\n"));
    REQUIRE(nca::iterations_in_file(models + "/a.checkpoint") > 0);
    REQUIRE_FALSE(std::filesystem::exists(models + "/bb.safetensors"));
}

TEST_CASE("a time has units") {
    using nca::tool::parse_duration;
    using std::chrono::seconds;
    for (const auto& [text, expected] :
         std::vector<std::pair<const char*, int>>{{"1s", 1},
                                                  {"90s", 90},
                                                  {"10m", 600},
                                                  {"2h", 7200},
                                                  {"1h30m", 5400},
                                                  {"1h1s", 3601},
                                                  {"01h02m03s", 3723},
                                                  {"0h1m", 60},
                                                  {"8760h", 31536000},
                                                  {"31536000s", 31536000}}) {
        INFO(text);
        REQUIRE(parse_duration(text) == seconds(expected));
    }
    for (const char* text :
         {"",        "10",        "s",           "1h30",        "30m1h",
          "1m1m",    "1d",        "-1s",         "+1s",         "1.5h",
          " 1s",     "1s ",       "1 s",         "0s",          "0h0m",
          "8760h1s", "31536001s", "4294967296s", "4294967295h", "99999999999999999999h",
          "1S",      "nan",       "1e3s"}) {
        INFO(text);
        REQUIRE(parse_duration(text) == std::nullopt);
    }
}
