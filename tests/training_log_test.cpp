// SPDX-License-Identifier: MIT
#include "host/tool/training_log.hpp"

#include "tests/support/catch.hpp"
#include "tests/support/temporary_directory.hpp"

#include <nca/error.hpp>

#include <sys/stat.h>

#include <string>
#include <vector>

using Catch::Matchers::ContainsSubstring;
using nca::test::message_of;
using nca::test::read_bytes;
using nca::test::TemporaryDirectory;
using nca::test::write_text;
using nca::tool::TrainingLog;

namespace {

const std::string head =
    "# engine: cpu\niteration,loss,steps,learning_rate,gradient_norm,seconds,dead,reset,recovery\n";

std::string row(const std::string& iteration, const std::string& seconds = "1.5") {
    return iteration + ",0.5,70,0.002,1," + seconds + ",0,0,\n";
}

std::string text_of(const std::filesystem::path& path) {
    const auto bytes = read_bytes(path);
    return {bytes.begin(), bytes.end()};
}

}  // namespace

TEST_CASE("a log goes on behind the rows of an earlier run") {
    const TemporaryDirectory folder;
    const auto path = folder / "log.csv";
    write_text(path, head + row("0") + row("1") + row("2") + row("3"));
    REQUIRE(TrainingLog::rows_in(path) == 4);
    {
        TrainingLog log(path, 2, "cpu");
        REQUIRE(log.earlier().size() == 2);
        REQUIRE(log.earlier_seconds() == 1.5);
        REQUIRE(log.add({.iteration = 2, .steps = 64, .loss = 0.25, .recovery = ""}));
        REQUIRE(log.sync());
        REQUIRE(text_of(path).starts_with(head + row("0") + row("1") + "2,0.25,64,"));
    }
    REQUIRE(TrainingLog::rows_in(path) == 3);
    REQUIRE(folder.names() == std::vector<std::string>{"log.csv"});
}

TEST_CASE("a row that cannot be of a log is refused with its line, and the log stays") {
    const TemporaryDirectory folder;
    const auto path = folder / "log.csv";
    const std::vector<std::pair<std::string, std::string>> cases = {
        {row("0") + row("1", "nan"), "line 4 has nan seconds"},
        {row("0") + row("1", "inf"), "line 4 has inf seconds"},
        {row("0") + row("1", "-1"), "line 4 has \"-1\" in column 6"},
        {row("0") + row("1", "2x"), "line 4 has \"2x\" in column 6"},
        {row("0") + row("1", ""), "line 4 has \"\" in column 6"},
        {row("-9223372036854775808"), "line 3 has \"-9223372036854775808\" in column 1"},
        {row("-1"), "line 3 has \"-1\""},
        {row("99999999999999999999"), "line 3 has \"99999999999999999999\""},
        {row("x"), "line 3 has \"x\""},
        {row("\xca\x1b[2J"), "line 3 has \"\\ufffd\\u001b[2J\" in column 1"},
        {row("0") + row("0"), "line 4 has iteration 0 after 0"},
        {row("3") + row("1"), "line 4 has iteration 1 after 3"},
        {"0,0.5,70,0.002,1,1,-1,0,\n", "line 3 has \"-1\" in column 7"},
        {row("0") + std::string(5000, ','), "line 4 has more than 4095 characters"},
    };
    for (const auto& [rows, expected] : cases) {
        INFO(rows);
        write_text(path, head + rows);
        const std::string message =
            message_of<nca::FormatError>([&] { TrainingLog(path, 10, "cpu"); });
        REQUIRE_THAT(message, ContainsSubstring(expected) && ContainsSubstring("--log"));
        REQUIRE(message.size() < 400);
        REQUIRE(text_of(path) == head + rows);
    }
}

TEST_CASE("zeros that a power failure has left in a log are no rows") {
    const TemporaryDirectory folder;
    const auto path = folder / "log.csv";
    for (const std::size_t zeros : {1, 100, 4095, 4096, 20000}) {
        INFO(zeros);
        const std::string tail(zeros, '\0');
        for (const std::string& text :
             {head + row("0") + row("1") + tail, head + row("0") + row("1") + "2,0.5" + tail,
              head + row("0") + row("1") + tail + "\n"}) {
            write_text(path, text);
            const TrainingLog log(path, 10, "cpu");
            REQUIRE(log.earlier().size() == 2);
            REQUIRE(text_of(path) == head + row("0") + row("1"));
        }
        write_text(path, tail);
        REQUIRE(TrainingLog::rows_in(path) == 0);
        REQUIRE(TrainingLog(path, 10, "cpu").earlier().empty());
        REQUIRE(text_of(path) == head);
    }
}

TEST_CASE("a log whose comment has zeros in it is the same after a second resume") {
    const TemporaryDirectory folder;
    const auto path = folder / "log.csv";
    const std::string zero(1, '\0');
    write_text(path, head + "# engine: CUDA" + zero + "\n" + row("0") + row("1"));
    for (int resume = 0; resume < 2; ++resume) {
        const TrainingLog log(path, 10, "cpu");
        REQUIRE(log.earlier().size() == 2);
        REQUIRE(text_of(path).find(zero) == std::string::npos);
    }
}

TEST_CASE("losses that are not finite are rows of a log") {
    const TemporaryDirectory folder;
    const auto path = folder / "log.csv";
    write_text(path, head + "0,nan,70,0.002,nan,1,8,0,\"the loss is not finite, \"\"again\"\"\"\n" +
                         "1,inf,70,0.002,0,1,8,0,\n");
    const TrainingLog log(path, 10, "cpu");
    REQUIRE(log.earlier().size() == 2);
    REQUIRE(log.earlier()[0].recovery == "the loss is not finite, \"again\"");
}

TEST_CASE("a log keeps its permissions and follows a link") {
    const TemporaryDirectory folder;
    write_text(folder / "log.csv", head + row("0"));
    ::chmod((folder / "log.csv").c_str(), 0600);
    std::filesystem::create_symlink("log.csv", folder / "link");
    TrainingLog log(folder / "link", 1, "cpu");
    REQUIRE(log.add({.iteration = 1, .recovery = ""}));
    REQUIRE(log.sync());
    REQUIRE(std::filesystem::is_symlink(folder / "link"));
    struct stat status = {};
    REQUIRE(::stat((folder / "log.csv").c_str(), &status) == 0);
    REQUIRE((status.st_mode & 07777) == 0600);
    REQUIRE(TrainingLog::rows_in(folder / "log.csv") == 2);
}

TEST_CASE("a log is known by its header, behind comments, and zeros may have been one") {
    const TemporaryDirectory folder;
    const std::string columns = head.substr(head.find('\n') + 1);
    const std::string zeros(5000, '\0');
    const std::vector<std::pair<std::string, bool>> cases = {
        {head, true},
        {columns + row("0"), true},
        {"# engine: a\n" + head + row("0"), true},
        {columns.substr(0, columns.size() - 1), true},
        {zeros, true},
        {zeros + "x", false},
        {zeros + "\n" + head, false},
        {"a,b\n1,2\n", false},
        {"iteration,loss\n" + row("0"), false},
        {"# engine: a\n", false},
        {"mine\n" + head, false},
        {"\x89PNG\r\n\x1a\n" + zeros + head, false},
    };
    for (const auto& [text, expected] : cases) {
        INFO(text.substr(0, 100));
        write_text(folder / "log.csv", text);
        REQUIRE(TrainingLog::is_log(folder / "log.csv") == expected);
    }
}

TEST_CASE("what is no log has no rows") {
    const TemporaryDirectory folder;
    write_text(folder / "text", "a,b\n1,2\n");
    write_text(folder / "empty", "");
    write_text(folder / "head", head);
    REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
    for (const char* name : {"text", "empty", "head", "pipe", "missing"}) {
        INFO(name);
        REQUIRE(TrainingLog::rows_in(folder / name) == 0);
    }
}
