// SPDX-License-Identifier: MIT
// nca: files that cannot be written.
#include "tests/support/catch.hpp"
#include "tests/support/tool.hpp"

#include <nca/model.hpp>

#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

using namespace nca::test;

namespace {

// A program in a mount namespace of its own; skipped where the system does not allow that.
bool can_mount() {
    return Process(
               {"/bin/sh", "-c",
                "unshare -m sh -c 'touch /tmp/nca-test-$$ && mount --bind /tmp/nca-test-$$ "
                "/tmp/nca-test-$$ && umount /tmp/nca-test-$$; rm /tmp/nca-test-$$' 2>/dev/null"})
               .wait()
               .code == 0;
}

std::string quoted(const Words& words) {
    std::string text;
    for (const std::string& word : words) text += "'" + word + "' ";
    return text;
}

}  // namespace

TEST_CASE("places that cannot be written are noticed before training starts") {
    const Workshop shop;
    const Words train = {"train", shop.target, "-o", shop / "new.safetensors"};
    // A command, and the extension of the file that is named behind it.
    const std::vector<std::pair<Words, std::string>> commands = {
        {{"train", shop.target, "-o"}, ".safetensors"},
        {train + Words{"--log"}, ".csv"},
        {train + Words{"--checkpoint"}, ".checkpoint"},
        {train + Words{"--report"}, ".html"},
        {{"grow", shop.model, "-o"}, ".gif"},
        {{"grow", shop.model, "-o"}, "_%d.png"},
        {{"grow", shop.model, "-o", shop / "new.gif", "--state-out"}, ".npy"},
        {{"gradcheck", shop.model, shop.target, "--out"}, ""}};
    for (const auto& [command, extension] : commands) {
        const std::string end = extension == "_%d.png" ? "_0.png" : extension;
        REQUIRE(mkfifo((shop / ("pipe" + end)).c_str(), 0600) == 0);
        std::filesystem::create_directory(shop / ("folder" + end));
        std::filesystem::create_symlink(shop / ("pipe" + end), shop / ("link to a pipe" + end));
        std::filesystem::create_symlink(shop / "nothing", shop / ("link to nothing" + end));
        std::filesystem::create_symlink("/proc/file", shop / ("link into proc" + end));
        const auto before = shop.contents();
        // No file can be made in /proc, by root either.
        for (const std::string& path :
             {shop / "no such folder/file", shop / "folder", std::string("/proc/file"),
              shop / "pipe", shop / "link to a pipe", shop / "link to nothing",
              shop / "link into proc"}) {
            INFO(command[0] << " " << path << extension);
            const Outcome outcome = nca_tool(command + Words{path + extension});
            require_message(outcome, {"cannot write"});
            REQUIRE(outcome.code == 1);
            REQUIRE(shop.contents() == before);
            REQUIRE(std::filesystem::is_fifo(shop / ("pipe" + end)));
            REQUIRE(std::filesystem::is_symlink(shop / ("link to a pipe" + end)));
        }
    }
}

TEST_CASE("a log behind a link is written and the link stays") {
    const Workshop shop;
    write_file(shop / "log.csv", "");
    std::filesystem::create_symlink("log.csv", shop / "link.csv");
    const Words words = {"-o",    shop / "new.safetensors", "--iterations", "2",
                         "--log", shop / "link.csv"};
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
    const Outcome train = nca_tool(
        shop.train_words() + Words{"-o", shop.model, "--iterations", "1", "--overwrite"}, limit);
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
        nca_tool(shop.train_words() + Words{"-o", shop / "new.safetensors", "--iterations", "3",
                                            "--checkpoint", shop / "checkpoint", "--every", "2"},
                 limit);
    INFO(outcome.err);
    REQUIRE(contains(outcome.err, "training goes on"));
    REQUIRE(std::filesystem::exists(shop / "new.safetensors"));
    REQUIRE_FALSE(std::filesystem::exists(shop / "checkpoint"));
}

TEST_CASE("a folder for pictures that cannot be made is refused before training") {
    const Workshop shop;
    const auto before = shop.contents();
    for (const auto& [path, code] :
         {std::pair(shop.target, 2), {shop.target + "/folder", 1}, {"/proc/a", 1}}) {
        const Outcome outcome = nca_tool(shop.train_words() +
                                         Words{"-o", shop / "new.safetensors", "--pictures", path});
        require_message(outcome, {code == 2 ? "name a folder" : "cannot write", path});
        REQUIRE(outcome.code == code);
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

TEST_CASE("a file that cannot be replaced is noticed before training starts") {
    const Workshop shop;
    std::filesystem::copy(shop.model, shop / "new.safetensors");
    write_file(shop / "other", "");
    const Words words =
        tool_command(shop.train_words() + Words{"-o", shop / "new.safetensors", "--overwrite",
                                                "--iterations", "100000000"});
    if (!can_mount()) {
        WARN("skipped: no mount namespaces here");
    } else {
        const std::string script = "mount --bind " + (shop / "other") + " " +
                                   (shop / "new.safetensors") + " && " + quoted(words);
        const Outcome outcome = Process({"/usr/bin/unshare", "-m", "sh", "-c", script}).wait();
        require_message(outcome, {"cannot write " + (shop / "new.safetensors"), "mount point"});
        REQUIRE(outcome.code == 1);
    }
    // Another user's file in a folder such as /tmp.
    if (geteuid() != 0) return;
    const std::filesystem::path folder = std::filesystem::path(shop.target).parent_path();
    std::filesystem::permissions(folder,
                                 std::filesystem::perms::all | std::filesystem::perms::sticky_bit);
    const Outcome outcome =
        Process(Words{"/usr/bin/setpriv", "--reuid", "65534", "--clear-groups"} + words).wait();
    require_message(outcome, {"cannot write " + (shop / "new.safetensors"), "may not be replaced"});
    REQUIRE(outcome.code == 1);
    REQUIRE((read_file(shop / "new.safetensors") == read_file(shop.model)));
    REQUIRE(shop.contents().size() == 4);
}

TEST_CASE("a file or a folder that may not be changed is noticed before training starts") {
    const Workshop shop;
    const std::string folder = shop / "folder";
    std::filesystem::create_directory(folder);
    const std::string old = folder + "/old.safetensors";
    std::filesystem::copy(shop.model, old);
    const auto chattr = [&](const char* flag, const std::string& path) {
        return Process({"/bin/sh", "-c", "chattr " + std::string(flag) + " " + path + " 2>&1"})
                   .wait()
                   .code == 0;
    };
    if (!chattr("+i", old) || !chattr("-i", old)) {
        WARN("skipped: needs root, and a file system with attributes");
        return;
    }
    for (const auto& [flag, path] :
         {std::pair{"i", old}, {"a", old}, {"i", folder}, {"a", folder}}) {
        INFO(flag << " " << path);
        chattr((std::string("+") + flag).c_str(), path);
        const Outcome outcome = nca_tool(
            shop.train_words() + Words{"-o", old, "--overwrite", "--iterations", "100000000"});
        chattr((std::string("-") + flag).c_str(), path);
        require_message(outcome, {"cannot write " + old, "Operation not permitted"});
        REQUIRE(outcome.code == 1);
        REQUIRE((read_file(old) == read_file(shop.model)));
    }
}

TEST_CASE("weights that cannot be put in their place at the end are kept") {
    if (!can_mount()) {
        WARN("skipped: no mount namespaces here");
        return;
    }
    const Workshop shop;
    write_file(shop / "new.safetensors", "");
    write_file(shop / "other", "");
    const std::string train =
        quoted(tool_command(shop.train_words() + Words{"-o", shop / "new.safetensors", "--log",
                                                       shop / "log.csv", "--iterations", "2000"}));
    const Words script = {"/usr/bin/unshare", "-m", "sh", "-c",
                          train + "& until grep -q ^2, " + (shop / "log.csv") +
                              " 2>/dev/null; do :; done; mount --bind " + (shop / "other") + " " +
                              (shop / "new.safetensors") + "; wait $!"};
    const Outcome outcome = Process(script).wait();
    INFO(outcome.err);
    REQUIRE(outcome.code == 1);
    REQUIRE(contains(outcome.err, "cannot replace " + (shop / "new.safetensors")));
    std::string rescued;
    for (const auto& [name, contents] : shop.contents()) {
        if (name.starts_with("new.safetensors.rescued-")) rescued = shop / name;
    }
    REQUIRE(contains(outcome.err, "what was to be written is in " + rescued + ";"));
    REQUIRE(contains(outcome.err, "go on with: "));
    REQUIRE(nca::Model::load(rescued).history.iterations == 2000);
    REQUIRE(nca::iterations_in_file(shop / "new.safetensors.checkpoint") == 2000);
    REQUIRE(read_file(shop / "new.safetensors").empty());
    const auto command = outcome.err.substr(outcome.err.find("go on with: ") + 12);
    REQUIRE(Process({"/bin/bash", "-c", command}).wait().code == 0);
    REQUIRE((read_file(shop / "new.safetensors") == read_file(rescued)));
}

TEST_CASE("an empty name of a file is refused") {
    const Workshop shop;
    const auto before = shop.contents();
    const Words train = {"train", shop.target, "-o", shop / "new.safetensors", "--iterations", "2"};
    const std::vector<std::pair<Words, std::string>> cases = {
        {{"train", shop.target, "-o", ""}, "--output"},
        {{"train", shop.target, "--output="}, "--output="},
        {{"train", "", "-o", shop / "new.safetensors"}, "TARGET"},
        {{"train", shop.target, "", "-o", shop / "new.safetensors"}, "TARGET"},
        {train + Words{"--resume", ""}, "--resume"},
        {{"train", shop.target, "-o", shop / "new.safetensors", "--resume=", "--iterations", "2"},
         "--resume="},
        {train + Words{"--log", ""}, "--log"},
        {train + Words{"--checkpoint", ""}, "--checkpoint"},
        {train + Words{"--report", ""}, "--report"},
        {train + Words{"--pictures", ""}, "--pictures"},
        {{"grow", "", "-o", shop / "new.png"}, "MODEL"},
        {{"grow", shop.model, "-o", ""}, "--output"},
        {{"grow", shop.model, "-o", shop / "new.png", "--compare", ""}, "--compare"},
        {{"grow", shop.model, "-o", shop / "new.png", "--state-out", ""}, "--state-out"},
        {{"gradcheck", "", shop.target}, "MODEL"},
        {{"gradcheck", shop.model, ""}, "TARGET"},
        {{"gradcheck", shop.model, shop.target, "--out", ""}, "--out"},
        {{"info", ""}, "MODEL"},
        {{"convert", "", shop / "new.json"}, "IN"},
        {{"convert", shop.model, ""}, "OUT"},
    };
    for (const auto& [words, named] : cases) {
        INFO(quoted(words));
        const Outcome outcome = nca_tool(words);
        require_message(outcome, {named, "leave the option out"});
        REQUIRE(outcome.code == 2);
        REQUIRE(shop.contents() == before);
    }
}

TEST_CASE("messages do not get into data files where standard files are closed") {
    const Workshop shop;
    const std::string reference = shop / "reference.safetensors";
    const Words words = shop.train_words() + Words{"--iterations", "4", "--overwrite"};
    REQUIRE(nca_tool(words + Words{"-o", reference}).code == 0);
    for (const char* closed :
         {"<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"}) {
        INFO(closed);
        Words spoken = words;  // without --quiet
        std::erase(spoken, "--quiet");
        const std::string command =
            quoted(tool_command(spoken + Words{"-o", shop / "new.safetensors", "--log",
                                               shop / "log.csv", "--checkpoint", shop / "c",
                                               "--every", "1"})) +
            closed;
        REQUIRE(Process({"/bin/sh", "-c", command}).wait().code == 0);
        REQUIRE((read_file(shop / "new.safetensors") == read_file(reference)));
        REQUIRE(nca::iterations_in_file(shop / "c") == 4);
        REQUIRE(read_file(shop / "log.csv").starts_with("# engine: "));
        REQUIRE(std::ranges::count(read_file(shop / "log.csv"), '\n') == 6);
        const std::string info = tool_command({})[0] + " info " + shop.model + " " + closed;
        REQUIRE(Process({"/bin/sh", "-c", info}).wait().code == 0);
    }
}

TEST_CASE("a name of 255 bytes is written like any other") {
    const Workshop shop;
    const std::string extension = ".safetensors";
    const std::string model = shop / (std::string(255 - extension.size(), 'm') + extension);
    const std::string log = shop / std::string(255, 'l');
    const std::string checkpoint = shop / std::string(255, 'c');
    const Words words = shop.train_words() + Words{"-o", model, "--log", log, "--iterations"};
    REQUIRE(nca_tool(words + Words{"2"}).code == 0);
    REQUIRE(nca_tool(words + Words{"2", "--overwrite", "--checkpoint", checkpoint}).code == 0);
    REQUIRE(nca_tool(words + Words{"3", "--resume", checkpoint}).code == 0);
    REQUIRE(nca::iterations_in_file(model) == 3);
    const Outcome outcome =
        nca_tool(shop.train_words() +
                 Words{"-o", shop / (std::string(256 - extension.size(), 'm') + extension)});
    require_message(outcome, {"shorter name"});
    REQUIRE(outcome.code == 1);
}
