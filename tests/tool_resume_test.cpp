// SPDX-License-Identifier: MIT
// nca train --resume, and signals that end a training.
#include <nca/model.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/tool.hpp"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace nca::test;

TEST_CASE("a run with a pool, damage and a warm-up can be set up and resumed") {
    const Workshop shop;
    Words all = shop.train_words();
    for (const char* word : {"--preset", "regenerating", "--pool", "10", "--damage", "1",
                             "--damage-radius", "0.2:0.3", "--damage-centre", "0.1", "--warmup",
                             "4", "--betas", "0.8:0.9", "--seed-at", "6,5", "--seed-at", "4,8"}) {
        all.push_back(word);
    }
    const auto run = [&](const std::string& name, const Words& more) {
        const Outcome outcome = nca_tool(all + Words{"-o", shop / name} + more);
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
    };
    run("whole.safetensors", {"--iterations", "7"});
    run("early.safetensors", {"--iterations", "3", "--checkpoint", shop / "checkpoint"});
    run("parts.safetensors", {"--iterations", "7", "--resume", shop / "checkpoint"});
    REQUIRE(read_file(shop / "whole.safetensors") == read_file(shop / "parts.safetensors"));
    // A checkpoint belongs to one value of each of these, and the message has both.
    const std::vector<Words> others = {
        {"--preset", "persistent", "regenerating"},
        {"--size", "9", "8"},
        {"--padding", "3", "2"},
        {"--batch", "3", "2"},
        {"--steps", "2:6", "2:5"},
        {"--lr", "0.001", "0.002"},
        {"--seed", "1", "0"},
        {"--seed-at", "6,6", "6,5 and 4,8"},
        {"--loss-steps", "1:3", "last"},
        {"--pool", "11", "10"},
        {"--damage", "0", "1"},
        {"--damage-radius", "0.2:0.35", "0.2:0.3"},
        {"--damage-centre", "0.2", "0.1"},
        {"--warmup", "5", "4"},
        {"--betas", "0.8:0.91", "0.8:0.9"},
        {"--fire-rate", "0.4", "0.5"},
        {"--step-size", "0.5", "1"},
        {"--sobel-scale", "1", "0.125"},
        {"--edges", "circular", "zero"},
        {"--life", "post", "pre_and_post"},
        {"--identity-filter", "0", "1"},
    };
    const std::string message = ": " + (shop / "checkpoint") + " was made with ";
    for (const Words& other : others) {
        const Words resume = {"--resume", shop / "checkpoint", other[0], other[1]};
        for (const Words& words :
             {Words{"train", "-o", shop / "other.safetensors"} + resume,
              Words{"train", shop.target, "-o", shop / "other.safetensors"} + resume}) {
            const Outcome outcome = nca_tool(words);
            require_message(outcome, {other[0] + " " + other[1] + message + other[2] + ";"});
            REQUIRE(outcome.code == 2);
        }
    }
    REQUIRE_FALSE(std::filesystem::exists(shop / "other.safetensors"));
}

TEST_CASE("a checkpoint goes on by itself, with its target, options and iterations") {
    const Workshop shop;
    const Words variant = {"--preset",      "persistent", "--pool", "9",     "--fire-rate", "0.7",
                           "--edges",       "circular",   "--lr",   "0.001", "--life",      "post",
                           "--sobel-scale", "0.2",        "--seed", "3"};
    const Words all = shop.train_words() + variant;
    const std::string checkpoint = shop / "c", whole = shop / "whole.safetensors";
    REQUIRE(nca_tool(all + Words{"-o", whole, "--iterations", "7"}).code == 0);
    Process process(tool_command(all + Words{"-o", shop / "early.safetensors", "--checkpoint",
                                             checkpoint, "--every", "1", "--iterations", "7"}));
    // Some iteration, or the last one.
    REQUIRE(eventually([&] { return std::filesystem::exists(checkpoint); }));
    process.kill(SIGKILL);
    process.wait();

    const std::string output = shop / "y.safetensors";
    const Words resume = {"train", "--resume", checkpoint, "-o", output, "--threads", "1"};
    std::filesystem::remove(shop.target);
    const Outcome outcome = nca_tool(resume);
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    REQUIRE(contains(outcome.err,
                     "preset persistent with --edges circular --life post --fire-rate 0.7 "
                     "--sobel-scale 0.2: 12x12 cells, batch 2, 2..4 steps, 7 iterations"));
    REQUIRE(read_file(output) == read_file(whole));
    REQUIRE(nca::Model::load(output).history.target == "target.png");

    // The same options may be there.
    REQUIRE(nca_tool(resume + variant + Words{"--overwrite", "--batch", "2"}).code == 0);
    REQUIRE(read_file(output) == read_file(whole));
    const Outcome other = nca_tool(resume + Words{"--batch", "4"});
    require_message(other, {"--batch 4: " + checkpoint + " was made with 2; leave the option out"});
    REQUIRE(other.code == 2);
}

TEST_CASE("every start cell counts, however many there are") {
    const Workshop shop;
    Words train = shop.train_words();
    for (const char* cell : {"4,4", "5,4", "6,4", "7,4", "4,6"}) {
        train = train + Words{"--seed-at", cell};
    }
    const Words to = {"-o", shop / "new.safetensors", "--iterations", "2"};
    REQUIRE(nca_tool(train + to + Words{"--checkpoint", shop / "c"}).code == 0);
    train.back() = "6,6";
    const Outcome outcome =
        nca_tool(train + Words{"-o", shop / "y.safetensors", "--resume", shop / "c"});
    require_message(
        outcome, {"--seed-at 4,4, 5,4, 6,4, 7,4 and 6,6", "made with 4,4, 5,4, 6,4, 7,4 and 4,6"});
    REQUIRE(outcome.code == 2);
}

TEST_CASE("the checkpoint of a longer run is not replaced, however the run is resumed") {
    const Workshop shop;
    const auto train = [&](const std::string& name, const char* iterations) {
        return nca_tool(shop.train_words() + Words{"-o", shop / (name + ".safetensors"),
                                                   "--iterations", iterations, "--checkpoint",
                                                   shop / (name + ".safetensors.checkpoint")});
    };
    REQUIRE(train("short", "2").code == 0);
    REQUIRE(train("long", "5").code == 0);
    std::filesystem::remove(shop / "long.safetensors");
    const auto before = shop.contents();
    const Words resume = {"train",
                          "--resume",
                          shop / "short.safetensors.checkpoint",
                          "-o",
                          shop / "long.safetensors",
                          "--iterations",
                          "3",
                          "--threads",
                          "1"};
    const Outcome outcome = nca_tool(resume);
    require_message(outcome, {"long.safetensors.checkpoint has 5 iterations", "--overwrite"});
    REQUIRE(outcome.code == 2);
    REQUIRE(shop.contents() == before);
    REQUIRE(nca_tool(resume + Words{"--overwrite"}).code == 0);
}

TEST_CASE("a run's own checkpoint is kept up to date, and another one is left as it is") {
    const Workshop shop;
    const std::string own = shop / "x.safetensors.checkpoint", kept = shop / "kept.checkpoint";
    const auto train_on = [&](const std::string& checkpoint, const std::string& name,
                              const char* iterations) {
        const Outcome outcome = nca_tool({"train", "--resume", checkpoint, "-o", shop / name,
                                          "--iterations", iterations, "--threads", "1"});
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
    };
    REQUIRE(nca_tool(shop.train_words() +
                     Words{"-o", shop / "x.safetensors", "--iterations", "2", "--checkpoint", own})
                .code == 0);
    std::filesystem::copy_file(own, kept);
    train_on(own, "x.safetensors", "4");
    train_on(own, "x.safetensors", "6");
    const std::string before = read_file(kept);
    train_on(kept, "y.safetensors", "6");
    REQUIRE(read_file(shop / "x.safetensors") == read_file(shop / "y.safetensors"));
    REQUIRE(read_file(kept) == before);
}

TEST_CASE("a finished run says that it is done, and goes on with more iterations") {
    const Workshop shop;
    const std::string checkpoint = shop / "c", output = shop / "y.safetensors";
    const Words first = {"--iterations", "3", "--checkpoint", checkpoint};
    REQUIRE(nca_tool(shop.train_words() + first + Words{"-o", output}).code == 0);
    const std::string model = read_file(output);
    const Words resume = {"train", "--resume", checkpoint, "-o", output, "--threads", "1"};
    const Outcome done = nca_tool(resume);
    INFO(done.err);
    REQUIRE(done.code == 0);
    REQUIRE(contains(done.err, "all 3 iterations are done; more --iterations train on"));
    REQUIRE(read_file(output) == model);
    const Outcome more =
        nca_tool(resume + Words{"--iterations", "5", "--checkpoint", shop / "later"});
    INFO(more.err);
    REQUIRE(more.code == 0);
    REQUIRE_FALSE(contains(more.err, "are done;"));
    REQUIRE(nca_tool(shop.train_words() + Words{"-o", shop / "whole.safetensors", "--iterations",
                                                "5", "--checkpoint", shop / "whole"})
                .code == 0);
    REQUIRE(read_file(output) == read_file(shop / "whole.safetensors"));
    REQUIRE(read_file(shop / "later") == read_file(shop / "whole"));
}

TEST_CASE("without a target in the checkpoint, or without one at all, the message asks for it") {
    const Workshop shop;
    const std::string checkpoint = shop / "c";
    REQUIRE(nca_tool(shop.train_words() + Words{"-o", shop / "x.safetensors", "--iterations", "2",
                                                "--checkpoint", checkpoint})
                .code == 0);
    // As of version 0.2.0: the tensor, the last in the file, is not there.
    std::string bytes = read_file(checkpoint);
    const std::string begin = ",\"target\":{\"dtype\"";
    const std::size_t at = bytes.find(begin), end = bytes.find('}', at) + 1;
    REQUIRE(at < end);
    bytes.replace(at, end - at, std::string(end - at, ' '));
    bytes.resize(bytes.size() - 12 * 12 * 4 * sizeof(float));
    const std::string wanted = ",\\\"wanted_iterations\\\":2";
    REQUIRE(contains(bytes, wanted));
    bytes.replace(bytes.find(wanted), wanted.size(), std::string(wanted.size(), ' '));
    write_file(checkpoint, bytes);
    const Words resume = {"train",    "-o",       shop / "y.safetensors", "--threads", "1",
                          "--resume", checkpoint, "--iterations",         "3"};
    const Outcome outcome = nca_tool(resume);
    require_message(outcome, {checkpoint, "an earlier version", "target.png", "give the image"});
    REQUIRE(outcome.code == 1);
    const Outcome with_target = nca_tool(resume + Words{shop.target});
    INFO(with_target.err);
    REQUIRE(with_target.code == 0);
    REQUIRE(
        nca_tool(shop.train_words() + Words{"-o", shop / "whole.safetensors", "--iterations", "3"})
            .code == 0);
    REQUIRE(read_file(shop / "y.safetensors") == read_file(shop / "whole.safetensors"));

    const Outcome folder = nca_tool({"train", "-o", shop / "y", "--resume", shop / "."});
    require_message(folder, {"--resume", "folder of checkpoints", "give the targets"});
    REQUIRE(folder.code == 2);
    const Outcome nothing = nca_tool({"train", "-o", shop / "y.safetensors"});
    require_message(nothing, {"TARGET is required"});
    REQUIRE(nothing.code == 2);
}

TEST_CASE("a model in the place of a checkpoint: the message says what it lacks, and --init") {
    const Workshop shop;
    write_file(shop / "foreign.pth", model_file());
    for (const std::string& model : {shop.model, shop / "foreign.pth"}) {
        const Outcome outcome =
            nca_tool({"train", "-o", shop / "y.safetensors", "--resume", model});
        require_message(outcome, {"--resume " + model + ": it is a model", "moments", "pool",
                                  "progress", "--init " + model});
        REQUIRE(outcome.code == 2);
    }
}

TEST_CASE("a resumed run ends with the bits and the log of a run that never stopped") {
    const Workshop shop;
    const auto run = [&](const std::string& name, const Words& more) {
        const Outcome outcome = nca_tool(
            shop.train_words() + Words{"-o", shop / name, "--log", shop / (name + ".csv")} + more);
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        REQUIRE(outcome.err.empty());
        REQUIRE(outcome.out.empty());
    };
    run("whole.safetensors", {"--iterations", "7"});
    run("parts.safetensors",
        {"--iterations", "5", "--checkpoint", shop / "checkpoint", "--every", "3"});
    // As if it had been killed after its fifth iteration with the checkpoint of the third.
    run("early.safetensors",
        {"--iterations", "3", "--checkpoint", shop / "checkpoint", "--overwrite"});
    std::filesystem::remove(shop / "parts.safetensors");
    run("parts.safetensors", {"--iterations", "7", "--resume", shop / "checkpoint"});
    REQUIRE(read_file(shop / "whole.safetensors") == read_file(shop / "parts.safetensors"));

    const auto without_seconds = [&](const std::string& name) {
        std::ifstream log(shop / name);
        Words rows;
        std::string comment;
        std::getline(log, comment);
        REQUIRE(comment.starts_with("# engine: "));
        for (std::string row; std::getline(log, row);) {
            Words fields(1);
            for (const char c : row) {
                c == ',' ? fields.emplace_back() : fields.back() += c;
            }
            REQUIRE(fields.size() == 9);
            fields.erase(fields.begin() + 5);
            rows.push_back("");
            for (const std::string& field : fields) {
                rows.back() += field + ",";
            }
        }
        return rows;
    };
    REQUIRE(without_seconds("whole.safetensors.csv").size() == 8);
    REQUIRE(without_seconds("whole.safetensors.csv")[0] ==
            "iteration,loss,steps,learning_rate,gradient_norm,dead,reset,recovery,");
    REQUIRE(without_seconds("whole.safetensors.csv") == without_seconds("parts.safetensors.csv"));
}

TEST_CASE("resuming drops a row of the log that a crash cut off") {
    const Workshop shop;
    const std::string log = shop / "log.csv";
    const Words words = shop.train_words() + Words{"-o", shop / "new.safetensors", "--log", log};
    REQUIRE(
        nca_tool(words + Words{"--iterations", "3", "--checkpoint", shop / "checkpoint"}).code ==
        0);
    const std::string whole = read_file(log);
    const std::size_t last = whole.rfind("\n2,") + 1;
    REQUIRE(last > 1);
    const auto resumed_from = [&](const std::string& text) {
        write_file(log, text);
        const Outcome outcome = nca_tool(
            words + Words{"--iterations", "4", "--overwrite", "--resume", shop / "checkpoint"});
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        return read_file(log);
    };
    REQUIRE(resumed_from(whole).starts_with(whole + "3,"));
    // In the middle, at the start of the last column, and in the middle with a line feed behind.
    for (const std::string& cut : {whole.substr(0, last + 8), whole.substr(0, whole.size() - 1),
                                   whole.substr(0, last + 2), whole.substr(0, last + 8) + "\n"}) {
        INFO(cut);
        REQUIRE(resumed_from(cut).starts_with(whole.substr(0, last) + "3,"));
    }
}

TEST_CASE("a checkpoint of another configuration is refused and everything left alone") {
    const Workshop shop;
    const Words train = shop.train_words() + Words{"-o", shop.model, "--iterations", "3"};
    REQUIRE(nca_tool(train + Words{"--checkpoint", shop / "checkpoint", "--overwrite"}).code == 0);
    write_file(shop / "mine.csv", "mine\n");
    const auto before = shop.contents();
    const Words resume = {"--resume", shop / "checkpoint", "--log", shop / "log.csv"};
    for (const Words& change : {Words{"--seed", "5"}, Words{"--lr", "0.5"},
                                Words{"--preset", "notebook"}, Words{"--seed-at", "5,6"}}) {
        const Outcome outcome = nca_tool(train + resume + change);
        require_message(outcome, {"checkpoint", change[0], change[1]});
        REQUIRE(outcome.code == 2);
        REQUIRE(shop.contents() == before);
    }
    // A run cannot be resumed behind its end, and its model stays.
    const Outcome finished =
        nca_tool(shop.train_words() + Words{"-o", shop.model, "--iterations", "2"} + resume);
    require_message(finished, {"checkpoint", "3", "--iterations"});
    REQUIRE(finished.code == 2);
    REQUIRE(shop.contents() == before);
    // A file that is not a log is not overwritten either.
    const Outcome outcome =
        nca_tool(shop.train_words() + Words{"-o", shop.model, "--iterations", "4", "--resume",
                                            shop / "checkpoint", "--log", shop / "mine.csv"});
    require_message(outcome, {"--log", "mine.csv", "is not a log"});
    REQUIRE(outcome.code == 2);
    REQUIRE(shop.contents() == before);
    for (const char* name : {"missing", "target.png", "model.safetensors"}) {
        const Outcome bad =
            nca_tool(shop.train_words() + Words{"-o", shop / "new.safetensors", "--iterations", "3",
                                                "--resume", shop / name});
        require_message(bad, {name});
        REQUIRE(bad.code == (std::string(name) == "model.safetensors" ? 2 : 1));
        REQUIRE(shop.contents() == before);
    }
}

TEST_CASE("a signal saves weights and checkpoint and prints the command that goes on") {
    const int signal = GENERATE(SIGINT, SIGTERM, SIGHUP);
    const Workshop shop;
    const std::string output = shop / "stopped model.safetensors";
    const Words words = shop.train_words() + Words{"-o", output, "--log", shop / "log.csv"};
    Process process(tool_command(words + Words{"--iterations", "100000000"}));
    const auto rows = [&] {
        const std::string log = read_file(shop / "log.csv");
        return std::count(log.begin(), log.end(), '\n') - 2;  // the engine's and the header
    };
    REQUIRE(nca::test::eventually([&] { return rows() > 1; }));
    process.kill(signal);
    const Outcome stopped = process.wait();
    INFO(stopped.err);
    REQUIRE(stopped.code == 1);
    REQUIRE(contains(stopped.err, "go on with: "));
    REQUIRE(contains(stopped.err, "--resume '" + output + ".checkpoint'"));
    const std::int64_t done = nca::Model::load(output).history.iterations;
    REQUIRE(rows() == done);

    const Outcome resumed = nca_tool(words + Words{"--iterations", std::to_string(done + 2),
                                                   "--resume", output + ".checkpoint"});
    INFO(resumed.err);
    REQUIRE(resumed.code == 0);
    REQUIRE(nca::Model::load(output).history.iterations == done + 2);
    REQUIRE(rows() == done + 2);
}

TEST_CASE("a signal saves the checkpoint also where the model cannot be written any more") {
    const Workshop shop;
    const bool both = GENERATE(false, true);
    const std::string log = shop / "log.csv";
    const std::string checkpoint = shop / (both ? "gone/checkpoint" : "checkpoint");
    std::filesystem::create_directory(shop / "gone");
    const Words words = {"-o",           shop / "gone/model.safetensors",
                         "--log",        log,
                         "--checkpoint", checkpoint,
                         "--every",      "100000000",
                         "--iterations", "100000000"};
    Process process(tool_command(shop.train_words() + words));
    REQUIRE(nca::test::eventually([&] { return contains(read_file(log), "\n2,"); }));
    std::filesystem::remove_all(shop / "gone");
    process.kill(SIGINT);
    const Outcome stopped = process.wait();
    INFO(stopped.err);
    REQUIRE(stopped.code == 1);
    REQUIRE(contains(stopped.err, "cannot write " + (shop / "gone/model.safetensors")));
    REQUIRE(contains(stopped.err, "cannot write " + checkpoint) == both);
    REQUIRE(contains(stopped.err, "go on with: ") == !both);
    REQUIRE(std::filesystem::exists(checkpoint) == !both);
}

TEST_CASE("signals that come together save once") {
    const auto [first, second] =
        GENERATE(std::pair{SIGHUP, SIGHUP}, std::pair{SIGTERM, SIGHUP}, std::pair{SIGTERM, SIGTERM},
                 std::pair{SIGINT, SIGINT}, std::pair{SIGHUP, SIGTERM});
    const int pause = GENERATE(0, 1, 3);  // milliseconds
    const Workshop shop;
    Process process(
        tool_command(shop.train_words() + Words{"-o", shop / "new.safetensors", "--log",
                                                shop / "log.csv", "--iterations", "100000000"}));
    REQUIRE(eventually([&] { return contains(read_file(shop / "log.csv"), "\n2,"); }));
    process.kill(first);
    std::this_thread::sleep_for(std::chrono::milliseconds(pause));
    process.kill(second);
    const Outcome stopped = process.wait();
    INFO(stopped.err);
    REQUIRE(stopped.code == 1);
    REQUIRE(nca::iterations_in_file(shop / "new.safetensors") > 0);
    REQUIRE(nca::iterations_in_file(shop / "new.safetensors.checkpoint") ==
            nca::iterations_in_file(shop / "new.safetensors"));
}

TEST_CASE("an older checkpoint does not take a longer run's place unless that is asked for") {
    const Workshop shop;
    const Words words =
        shop.train_words() + Words{"-o", shop / "new.safetensors", "--log", shop / "new.csv"};
    const Words resume = {"--resume", shop / "checkpoint"};
    REQUIRE(
        nca_tool(words + Words{"--iterations", "4", "--checkpoint", shop / "checkpoint"}).code ==
        0);
    REQUIRE(nca_tool(words + resume + Words{"--iterations", "9"}).code == 0);
    const auto before = shop.contents();
    const Outcome outcome = nca_tool(words + resume + Words{"--iterations", "9"});
    require_message(outcome, {"new.safetensors has 9 iterations", "only 4", "--overwrite"});
    REQUIRE(outcome.code == 2);
    REQUIRE(shop.contents() == before);
    REQUIRE(nca_tool(words + resume + Words{"--iterations", "6", "--overwrite"}).code == 0);
    REQUIRE(nca::iterations_in_file(shop / "new.safetensors") == 6);
}

TEST_CASE("a second Ctrl-C ends the tool at once") {
    const Workshop shop;
    // One iteration takes longer than this test.
    Process process(tool_command({"train", shop.target, "-o", shop / "new.safetensors", "--size",
                                  "8", "--padding", "0", "--batch", "1", "--steps", "99998:99999",
                                  "--threads", "1"}));
    REQUIRE(nca::test::eventually([&] { return contains(process.err_so_far(), "preset"); }));
    // A signal before the iteration has begun would end it without one.
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    // The first asks it to stop; those within 0.2 seconds after it are taken for the same.
    REQUIRE(nca::test::eventually([&] {
        process.kill(SIGINT);
        return process.has_ended();
    }));
    REQUIRE(process.wait().signal == SIGINT);
    REQUIRE_FALSE(std::filesystem::exists(shop / "new.safetensors"));
}

TEST_CASE("a resume at the last iteration writes the model of the run that was killed there") {
    const Workshop shop;
    const Words words = shop.train_words() + Words{"-o",           shop / "new.safetensors",
                                                   "--log",        shop / "new.csv",
                                                   "--checkpoint", shop / "checkpoint",
                                                   "--every",      "3",
                                                   "--iterations", "6"};
    REQUIRE(nca_tool(words).code == 0);
    const std::string model = read_file(shop / "new.safetensors");
    const std::string log = read_file(shop / "new.csv");
    std::filesystem::remove(shop / "new.safetensors");
    const Outcome outcome = nca_tool(words + Words{"--resume", shop / "checkpoint"});
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    REQUIRE((read_file(shop / "new.safetensors") == model));
    REQUIRE(read_file(shop / "new.csv") == log);
}

TEST_CASE("a log has all rows that come before the checkpoint, whenever the run is killed") {
    const Workshop shop;
    const Words words = shop.train_words() + Words{"-o",           shop / "new.safetensors",
                                                   "--log",        shop / "new.csv",
                                                   "--checkpoint", shop / "checkpoint",
                                                   "--every",      "7",
                                                   "--iterations", "100000000"};
    Process process(tool_command(words));
    REQUIRE(eventually([&] { return std::filesystem::exists(shop / "checkpoint"); }));
    process.kill(SIGKILL);
    REQUIRE(process.wait().signal == SIGKILL);
    const std::int64_t done = nca::iterations_in_file(shop / "checkpoint");
    REQUIRE(done > 0);
    REQUIRE(done % 7 == 0);
    // The file is read as the crash has left it.
    const std::string log = read_file(shop / "new.csv");
    for (std::int64_t i = 0; i < done; ++i) {
        REQUIRE(contains(log, "\n" + std::to_string(i) + ","));
    }
}

TEST_CASE("the command that is printed goes on, whatever the names are") {
    for (const std::string& name : {std::string("two words"), std::string("it's \"$HOME\" \\"),
                                    std::string("-dash"), std::string("\xe9t\xe9"),
                                    std::string("bell\a \xc2\x9b"
                                                "31m")}) {
        const Workshop shop;
        const std::string target = shop / (name + ".png");
        const std::string model = shop / (name + ".safetensors");
        std::filesystem::copy(shop.target, target);
        Words words =
            shop.train_words() + Words{"--overwrite",  "--log",     shop / (name + ".csv"),
                                       "--iterations", "100000000", "-o",
                                       model,          "--",        target};
        words.erase(words.begin() + 1);  // the target before its options
        Process process(tool_command(words));
        REQUIRE(eventually([&] { return contains(read_file(shop / (name + ".csv")), "\n2,"); }));
        process.kill(SIGINT);
        const Outcome stopped = process.wait();
        INFO(stopped.err);
        REQUIRE(stopped.code == 1);
        const std::string mark = "go on with: ";
        const std::size_t at = stopped.err.find(mark);
        REQUIRE(at != std::string::npos);
        std::string command = stopped.err.substr(at + mark.size());
        command.resize(command.find('\n'));
        const std::int64_t done = nca::Model::load(model).history.iterations;
        const std::string wanted = "100000000";
        command.replace(command.find(wanted), wanted.size(), std::to_string(done + 2));
        const Outcome resumed = Process({"/bin/bash", "-c", command}).wait();
        INFO(command << resumed.err);
        REQUIRE(resumed.code == 0);
        REQUIRE(nca::Model::load(model).history.iterations == done + 2);
    }
}

TEST_CASE("the files of an earlier run are not replaced unless that is asked for") {
    const Workshop shop;
    const std::string model = shop / "new.safetensors", log = shop / "new.csv",
                      checkpoint = shop / "c";
    const Words words = shop.train_words() + Words{"-o", model, "--log", log};
    const Words with_checkpoint = words + Words{"--checkpoint", checkpoint};
    REQUIRE(nca_tool(with_checkpoint + Words{"--iterations", "5"}).code == 0);
    const auto refused = [&](const Words& more, const Words& named) {
        const auto before = shop.contents();
        const Outcome outcome = nca_tool(more);
        require_message(outcome, named + Words{"5 iterations of an earlier run", "--overwrite"});
        REQUIRE(outcome.code == 2);
        REQUIRE(shop.contents() == before);
    };
    for (const char* iterations : {"3", "5", "8000"}) {
        const Words count = {"--iterations", iterations};
        refused(with_checkpoint + count, {checkpoint, "--resume " + checkpoint});
        refused(words + count, {model});
        refused(shop.train_words() + Words{"-o", shop / "other.safetensors", "--log", log} + count,
                {log});
        // Ctrl-C would write it.
        std::filesystem::copy(checkpoint, shop / "other.safetensors.checkpoint");
        refused(shop.train_words() + Words{"-o", shop / "other.safetensors"} + count,
                {"other.safetensors.checkpoint"});
        std::filesystem::remove(shop / "other.safetensors.checkpoint");
        // The report's page shows no work that is lost with it.
        REQUIRE(nca_tool(shop.train_words() + Words{"-o", shop / "other.safetensors", "--overwrite",
                                                    "--iterations", "1", "--report",
                                                    shop / "page.html"})
                    .code == 0);
        std::filesystem::remove(shop / "other.safetensors");
    }
    REQUIRE(nca_tool(with_checkpoint + Words{"--iterations", "6", "--resume", checkpoint}).code ==
            0);
    REQUIRE(nca_tool(with_checkpoint + Words{"--iterations", "2", "--overwrite"}).code == 0);
    REQUIRE(nca::iterations_in_file(model) == 2);
    REQUIRE(nca::iterations_in_file(checkpoint) == 2);
}

TEST_CASE("the checkpoint that Ctrl-C writes destroys no other file") {
    const Workshop shop;
    const std::string checkpoint = shop / "new.safetensors.checkpoint";
    std::filesystem::copy(shop.target, checkpoint);
    const auto before = shop.contents();
    const Words train = {"train", shop.target, "-o", shop / "new.safetensors", "--iterations", "2"};
    for (const Words& words :
         {train + Words{"--log", checkpoint}, train + Words{"--report", checkpoint},
          Words{"train", checkpoint, "-o", shop / "new.safetensors"}}) {
        const Outcome outcome = nca_tool(words);
        require_message(outcome, {checkpoint, "Ctrl-C", "same file"});
        REQUIRE(outcome.code == 2);
        REQUIRE(shop.contents() == before);
    }
}

TEST_CASE("temporary files of runs that were killed go at the next start") {
    const Workshop shop;
    const Words words =
        shop.train_words() + Words{"-o", shop / "new.safetensors", "--iterations", "2"};
    for (const char* name : {".nca-4194305-0.tmp", ".nca-4194305-7.tmp"}) {
        write_file(shop / name, std::string(100000, 'x'));
    }
    REQUIRE(nca_tool(words).code == 0);
    REQUIRE(shop.contents().size() == 3);  // target, model and new
}

TEST_CASE("a checkpoint of version 0.2.0, with a small target enlarged, goes on as it was") {
    const Workshop shop;
    Words words = shop.train_words() + Words{"-o", shop / "new.safetensors"};
    words.erase(std::find(words.begin(), words.end(), "--size"),
                std::find(words.begin(), words.end(), "--padding"));
    // That version enlarged by a filter to 40 cells, as --size 40 does with 12 pixels today.
    const Words enlarged = {"--size", "40"};
    const Words checkpoint = {"--checkpoint", shop / "c"};
    REQUIRE(nca_tool(words + enlarged + checkpoint + Words{"--iterations", "1"}).code == 0);
    const Words resumed = {"--iterations", "2", "--resume", shop / "c"};
    for (const Words& size : {Words{}, enlarged}) {
        const Outcome outcome = nca_tool(words + size + resumed + Words{"--overwrite"});
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        REQUIRE(nca::Model::load(shop / "new.safetensors").history.height == 44);
    }
    // The checkpoint says any other size, too.
    REQUIRE(nca_tool(words + Words{"--size", "20", "--overwrite", "--iterations", "1"} + checkpoint)
                .code == 0);
    const Outcome other = nca_tool(words + resumed + Words{"--overwrite", "--size", "12"});
    REQUIRE(other.code == 2);
    require_message(other, {"--size 12: ", "was made with 20"});
    REQUIRE(nca_tool(words + resumed + Words{"--overwrite"}).code == 0);
    REQUIRE(nca::Model::load(shop / "new.safetensors").history.height == 24);
}
