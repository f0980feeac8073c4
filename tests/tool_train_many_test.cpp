// SPDX-License-Identifier: MIT
// nca train with several targets.
#include <nca/image.hpp>
#include <nca/model.hpp>

#include "host/tool/threads.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/page.hpp"
#include "tests/support/tool.hpp"

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <string>

using namespace nca::test;

namespace {

// A folder with three targets that are not alike.
struct Gallery : Folder {
    Gallery() {
        for (const std::string& name : names) {
            nca::Image picture = disc_picture();
            for (std::size_t i = 0; i < picture.pixels.size(); i += 4) {
                picture.pixels[i] = static_cast<std::uint8_t>(40 * name.size());
            }
            nca::save_png(target(name), picture);
        }
    }
    std::string target(const std::string& name) const { return *this / (name + ".png"); }
    Words train_words(const Words& targets, int threads) const {
        Words words = {"train"};
        for (const std::string& name : targets) {
            words.push_back(target(name));
        }
        return words + Words{"--size",
                             "8",
                             "--padding",
                             "2",
                             "--batch",
                             "2",
                             "--steps",
                             "2:5",
                             "--quiet",
                             "--threads",
                             std::to_string(threads)};
    }
    std::string file(const std::string& folder, const std::string& name) const {
        return read_file(*this / (folder + "/" + name));
    }

    const Words names = {"a", "bb", "c c"};
};

}  // namespace

TEST_CASE("several targets become what each becomes alone, whatever the number of threads") {
    const Gallery gallery;
    for (const std::string& name : gallery.names) {
        REQUIRE(nca_tool(gallery.train_words({name}, 1) +
                         Words{"-o", gallery / (name + ".alone.safetensors"), "--iterations", "6"})
                    .code == 0);
    }
    REQUIRE(read_file(gallery / "a.alone.safetensors") !=
            read_file(gallery / "bb.alone.safetensors"));
    for (const int threads : {1, 2, 3, 7}) {
        const std::string folder = "new/" + std::to_string(threads);
        const Outcome outcome = nca_tool(gallery.train_words(gallery.names, threads) +
                                         Words{"-o", gallery / folder, "--iterations", "6"});
        INFO(threads << " threads: " << outcome.err);
        REQUIRE(outcome.code == 0);
        REQUIRE(outcome.out.empty());
        REQUIRE(outcome.err.empty());
        for (const std::string& name : gallery.names) {
            REQUIRE(gallery.file(folder, name + ".safetensors") ==
                    read_file(gallery / (name + ".alone.safetensors")));
        }
    }
}

TEST_CASE("of several targets each has its files, and the threads are shared out") {
    const Gallery gallery;
    Words words = gallery.train_words(gallery.names, 4);
    std::erase(words, "--quiet");
    const std::string folder = gallery / "new";
    const Outcome outcome = nca_tool(words + Words{"-o", folder, "--checkpoint", folder, "--log",
                                                   folder, "--report", folder, "--pictures", folder,
                                                   "--iterations", "2", "--device", "cpu"});
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    REQUIRE(contains(outcome.err, "2 iterations of each of 3 targets, 3 at a time"));
    for (const std::string& name : gallery.names) {
        INFO(name);
        REQUIRE(contains(outcome.out, folder + "/" + name + ".safetensors: 2 iterations"));
        REQUIRE(nca::Model::load(folder + "/" + name + ".safetensors").history.target ==
                name + ".png");
        REQUIRE_FALSE(gallery.file("new", name + ".checkpoint").empty());
        const std::string log = gallery.file("new", name + ".csv");
        REQUIRE(
            log.starts_with(name == "a" ? "# engine: cpu, 2 threads" : "# engine: cpu, 1 thread"));
        REQUIRE(std::count(log.begin(), log.end(), '\n') == 4);
        REQUIRE(contains(gallery.file("new", name + ".html"), "<h1>" + name + ".png</h1>"));
        REQUIRE_FALSE(gallery.file("new/" + name, "grown.png").empty());
    }
}

TEST_CASE("one of several trainings that fails does not stop the others, and is named") {
    const Gallery gallery;
    const Words words = gallery.train_words(gallery.names, 2) + Words{"-o", gallery / "new"};
    // A checkpoint with damaged weights is refused when its turn comes.
    REQUIRE(nca_tool(words + Words{"--iterations", "2", "--checkpoint", gallery / "c"}).code == 0);
    std::string damaged = gallery.file("c", "bb.checkpoint");
    std::fill(damaged.end() - 4, damaged.end(), '\xff');
    write_file(gallery / "c/bb.checkpoint", damaged);
    const std::string before = gallery.file("new", "bb.safetensors");
    const Outcome outcome = nca_tool(words + Words{"--iterations", "4", "--resume", gallery / "c"});
    INFO(outcome.err);
    REQUIRE(outcome.code == 1);
    REQUIRE(contains(outcome.err,
                     "nca: bb: " + (gallery / "c/bb.checkpoint") + ": tensor target holds "));
    REQUIRE(outcome.err.ends_with("nca: 1 of 3 trainings failed: bb\n"));
    REQUIRE(gallery.file("new", "bb.safetensors") == before);
    for (const char* name : {"a", "c c"}) {
        REQUIRE(nca::Model::load(gallery / ("new/" + std::string(name) + ".safetensors"))
                    .history.iterations == 4);
    }
}

TEST_CASE("one bad target of several is refused before anything is trained or made") {
    const Gallery gallery;
    const auto before = gallery.contents();
    for (const Words& words :
         {gallery.train_words({"a", "missing"}, 1),
          gallery.train_words({"a", "bb"}, 1) + Words{"--resume", gallery / "missing"}}) {
        const Outcome outcome = nca_tool(words + Words{"-o", gallery / "new"});
        require_message(outcome, {"missing"});
        REQUIRE(outcome.code == 1);
    }
    REQUIRE(gallery.contents() == before);
    const Outcome outcome =
        nca_tool(gallery.train_words(gallery.names, 1) + Words{"-o", gallery.target("a") + "/x"});
    require_message(outcome, {"cannot write", "a.png/x"});
    REQUIRE(outcome.code == 1);
    REQUIRE(gallery.contents() == before);
}

TEST_CASE("a signal stops several trainings, and one command goes on with all of them") {
    const Gallery gallery;
    const std::string models = gallery / "new models";
    const Words words = gallery.train_words(gallery.names, 2) +
                        Words{"-o", models, "--log", models, "--iterations"};
    Process process(tool_command(words + Words{"100000000"}));
    for (const char* name : {"a.csv", "bb.csv"}) {
        REQUIRE(nca::test::eventually(
            [&] { return contains(gallery.file("new models", name), "\n2,"); }));
    }
    process.kill(GENERATE(SIGINT, SIGTERM));
    const Outcome stopped = process.wait();
    INFO(stopped.err);
    REQUIRE(stopped.code == 1);
    REQUIRE(contains(stopped.err, "nca: stopped with 0 of 3 trainings done\n"));
    REQUIRE(nca::test::all_between(stopped.err, "go on with: ", "\n").size() == 1);
    REQUIRE(stopped.err.ends_with(" --resume '" + models + "'\n"));
    std::int64_t most = 0;
    for (const char* name : {"a", "bb"}) {
        REQUIRE(contains(stopped.err, "nca: " + std::string(name) + ": stopped after "));
        most = std::max(most,
                        nca::Model::load(models + "/" + name + ".safetensors").history.iterations);
    }
    REQUIRE_FALSE(std::filesystem::exists(models + "/c c.safetensors"));

    const std::string all = std::to_string(most + 2);
    const Outcome resumed = nca_tool(words + Words{all, "--resume", models});
    INFO(resumed.err);
    REQUIRE(resumed.code == 0);
    for (const std::string& name : gallery.names) {
        const std::string path = models + "/" + name;
        REQUIRE(nca::Model::load(path + ".safetensors").history.iterations == most + 2);
        const std::string log = read_file(path + ".csv");
        REQUIRE(std::count(log.begin(), log.end(), '\n') == most + 4);
    }
    REQUIRE(nca_tool(gallery.train_words({"a"}, 1) +
                     Words{"-o", gallery / "alone.safetensors", "--iterations", all})
                .code == 0);
    REQUIRE(read_file(gallery / "alone.safetensors") == read_file(models + "/a.safetensors"));

    // Trainings that are done are left alone.
    const auto written = std::filesystem::last_write_time(models + "/a.safetensors");
    Words loud = words + Words{all, "--resume", models};
    std::erase(loud, "--quiet");
    const Outcome again = nca_tool(loud);
    INFO(again.err);
    REQUIRE(again.code == 0);
    REQUIRE(contains(again.err, "a: all " + all + " iterations are done already"));
    REQUIRE(std::filesystem::last_write_time(models + "/a.safetensors") == written);
}

TEST_CASE("on a terminal there is one live line, also of several targets") {
    const std::string script = find_program("script");  // makes a terminal for a program
    if (script.empty()) {
        WARN("skipped: no program script");
        return;
    }
    const Gallery gallery;
    for (const Words& targets : {Words{"a"}, gallery.names}) {
        const bool several = targets.size() > 1;
        // More than the 200 ms after which there is a line.
#ifdef __SANITIZE_ADDRESS__
        const int iterations = 800;
#else
        const int iterations = 8000;
#endif
        Words words = gallery.train_words(targets, 2) +
                      Words{"-o", gallery / (several ? "new" : "new model.safetensors"),
                            "--iterations", std::to_string(iterations)};
        std::erase(words, "--quiet");
        std::string command;
        for (const std::string& word : tool_command(words)) {
            command += "'" + word + "' ";
        }
        const Outcome outcome = Process({script, "-qec", command, "/dev/null"}).wait();
        INFO(outcome.out);
        REQUIRE(outcome.code == 0);
        const std::string line = several ? "\r3 automata: iteration " : "\riteration ";
        REQUIRE(contains(outcome.out, line));
        const std::string all = std::to_string(iterations * int(targets.size()));
        REQUIRE(contains(outcome.out, "/" + all + "  "));
        REQUIRE(contains(outcome.out, " it/s  median loss ") == several);
        // The next message begins on an empty line.
        REQUIRE(contains(outcome.out, "\r\033[K" + (gallery / "new")));
    }
}

TEST_CASE("threads are shared out evenly, and each training has one") {
    using nca::tool::thread_share;
    for (const int threads : {1, 2, 3, 7, 64}) {
        for (const int trainings : {2, 3, 7, 100}) {
            int sum = 0;
            for (int i = 0; i < trainings; ++i) {
                const int share = thread_share(threads, trainings, i);
                REQUIRE(share >= 1);
                REQUIRE(share <= thread_share(threads, trainings, 0));
                REQUIRE(share >= thread_share(threads, trainings, 0) - 1);
                sum += share;
            }
            REQUIRE(sum == std::max(threads, trainings));
        }
    }
}

TEST_CASE("trainings that are done stay so where a name is not UTF-8") {
    const Gallery gallery;
    const std::string name =
        "b\xe9"
        "b";
    const std::string target = gallery / (name + ".png");
    std::filesystem::copy(gallery / "a.png", target);
    Words words = gallery.train_words({"a"}, 1) + Words{"-o", gallery / "new", "--iterations",
                                                        "2",  "--checkpoint",  gallery / "new"};
    words.insert(words.begin() + 1, target);
    REQUIRE(nca_tool(words).code == 0);
    std::erase(words, "--quiet");
    const Outcome outcome = nca_tool(words + Words{"--resume", gallery / "new"});
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    REQUIRE(contains(outcome.err, "b?b: all 2 iterations are done already"));
}

TEST_CASE("of several targets none is begun anew over an earlier run, unless that is asked for") {
    const Gallery gallery;
    const Words words = gallery.train_words(gallery.names, 2) +
                        Words{"-o", gallery / "new", "--log", gallery / "new"};
    REQUIRE(nca_tool(words + Words{"--iterations", "2"}).code == 0);
    const std::string model = gallery.file("new", "bb.safetensors");
    const std::string log = gallery.file("new", "bb.csv");
    for (const Words& more :
         {Words{"--iterations", "2"}, Words{"--iterations", "9"},
          // Its models are not done by this, and there is nothing to go on with.
          Words{"--iterations", "9", "--seed", "3", "--checkpoint", gallery / "new", "--resume",
                gallery / "new"}}) {
        const Outcome outcome = nca_tool(words + more);
        INFO(outcome.err);
        REQUIRE(outcome.code > 0);
        REQUIRE(gallery.file("new", "bb.safetensors") == model);
        REQUIRE(gallery.file("new", "bb.csv") == log);
    }
    REQUIRE(
        nca_tool(words + Words{"--iterations", "3", "--overwrite", "--checkpoint", gallery / "new"})
            .code == 0);
    REQUIRE(gallery.file("new", "bb.safetensors") != model);
    // The folder, as --resume takes it.
    const Outcome outcome =
        nca_tool(words + Words{"--iterations", "4", "--checkpoint", gallery / "new"});
    require_message(outcome, {"--resume " + (gallery / "new") + " to go on"});
    // One of them has lost its checkpoint.
    std::filesystem::remove(gallery / "new/bb.checkpoint");
    const Words resumed = words + Words{"--iterations", "4", "--resume", gallery / "new"};
    require_message(nca_tool(resumed), {"bb.safetensors has 3 iterations", "--overwrite"});
    REQUIRE(nca_tool(resumed + Words{"--overwrite"}).code == 0);
}

TEST_CASE("of several targets each small one keeps its own size, also when it is resumed") {
    const Gallery gallery;
    nca::save_png(gallery.target("bb"), nca::enlarge(disc_picture(), 2));
    nca::save_png(gallery.target("c c"), nca::enlarge(disc_picture(), 5));
    Words words = gallery.train_words(gallery.names, 2) + Words{"-o", gallery / "new"};
    std::erase(words, "--quiet");
    words.erase(std::find(words.begin(), words.end(), "--size"),
                std::find(words.begin(), words.end(), "--padding"));
    const Words checkpoints = {"--checkpoint", gallery / "new"};
    const Outcome outcome = nca_tool(words + checkpoints + Words{"--iterations", "1"});
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    REQUIRE(contains(outcome.err, "preset growing: 16x16 to 44x44 cells, batch 2"));
    REQUIRE(contains(outcome.err, "a.png: 10 x 12 pixels, so each is one cell"));
    REQUIRE(contains(outcome.err, "bb.png: 20 x 24 pixels, so each is one cell"));
    REQUIRE_FALSE(contains(outcome.err, "c c.png: 50 x 60"));
    const Outcome more = nca_tool(words + Words{"--iterations", "2", "--resume", gallery / "new"});
    INFO(more.err);
    REQUIRE(more.code == 0);
    const int grids[] = {16, 28, 44};
    for (std::size_t i = 0; i < 3; ++i) {
        const nca::TrainingHistory history =
            nca::Model::load(gallery / ("new/" + gallery.names[i] + ".safetensors")).history;
        REQUIRE(history.iterations == 2);
        REQUIRE(history.height == grids[i]);
    }
}

TEST_CASE("several targets have the same start cells, and models with others are not done") {
    const Gallery gallery;
    const Words words = gallery.train_words(gallery.names, 2) +
                        Words{"-o", gallery / "new", "--checkpoint", gallery / "new"};
    const Words cells = {"--seed-at", "5,5", "--seed-at", "8,7"};
    const Words one = {"--iterations", "1"}, resume = {"--resume", gallery / "new"};
    REQUIRE(nca_tool(words + cells + one).code == 0);
    for (const std::string& name : gallery.names) {
        REQUIRE(nca::Model::load(gallery / ("new/" + name + ".safetensors")).history.start_cells ==
                std::vector<nca::Place>{{5, 5}, {7, 8}});
    }
    const auto before = gallery.contents();
    REQUIRE(nca_tool(words + cells + one + resume).code == 0);
    REQUIRE(gallery.contents() == before);
    REQUIRE(nca_tool(words + one + resume).code == 0);  // they come from the checkpoints
    REQUIRE(gallery.contents() == before);
    const Outcome other = nca_tool(words + Words{"--seed-at", "5,5"} + one + resume);
    require_message(other, {"--seed-at 5,5", "made with 5,5 and 8,7"});
    REQUIRE(other.code == 2);
    REQUIRE(gallery.contents() == before);
}

TEST_CASE("of several targets a folder of checkpoints says the options, also of those that begin") {
    const Gallery gallery;
    const std::string models = gallery / "new";
    const Words options = {"--size", "8",       "--padding", "2",       "--batch",
                           "2",      "--steps", "2:5",       "--edges", "circular"};
    const Words some = {"train", gallery.target("a"), gallery.target("bb")};
    const Words all = some + Words{gallery.target("c c")};
    const Words to = {"--threads", "1", "-o", models};
    REQUIRE(nca_tool(all + options +
                     Words{"--threads", "1", "-o", gallery / "whole", "--iterations", "4"})
                .code == 0);
    REQUIRE(
        nca_tool(some + options + to + Words{"--checkpoint", models, "--iterations", "2"}).code ==
        0);
    const Words resume = all + to + Words{"--resume", models};
    // The iterations come from the checkpoints as well, and two of the trainings have them.
    const Outcome begun = nca_tool(resume);
    INFO(begun.err);
    REQUIRE(begun.code == 0);
    REQUIRE(contains(begun.err, "a: all 2 iterations are done already"));
    REQUIRE(contains(begun.err, "c c: no checkpoint in " + models + ", begins"));
    REQUIRE(nca::Model::load(models + "/c c.safetensors").history.iterations == 2);
    std::filesystem::remove(models + "/c c.safetensors");
    REQUIRE(nca_tool(resume + Words{"--iterations", "4"}).code == 0);
    for (const std::string& name : gallery.names) {
        REQUIRE(gallery.file("new", name + ".safetensors") ==
                gallery.file("whole", name + ".safetensors"));
    }

    const Outcome given = nca_tool(resume + Words{"--batch", "3", "--iterations", "9"});
    require_message(given, {"--batch 3: " + models + "/a.checkpoint was made with 2"});
    REQUIRE(given.code == 2);
    // Without a target of its own, too.
    const Outcome none = nca_tool({"train", "--resume", models, "-o", models});
    require_message(none, {"--resume " + models, "give the targets"});
    REQUIRE(none.code == 2);

    const auto differs = [&](const Words& change, const Words& named) {
        Words words = Words{"train", gallery.target("bb")} + options;
        for (std::size_t i = 0; i < change.size(); i += 2) {
            const auto at = std::find(words.begin(), words.end(), change[i]);
            if (at != words.end()) words.erase(at, at + 2);
        }
        REQUIRE(nca_tool(words + change +
                         Words{"-o", gallery / "bb.safetensors", "--overwrite", "--checkpoint",
                               models + "/bb.checkpoint"})
                    .code == 0);
        const auto before = gallery.contents();
        const Outcome outcome = nca_tool(resume);
        require_message(outcome,
                        named + Words{models + "/a.checkpoint", models + "/bb.checkpoint"});
        REQUIRE(outcome.code == 2);
        REQUIRE(gallery.contents() == before);
    };
    differs({"--iterations", "4", "--batch", "3"}, {"--batch 2", "with 3"});
    differs({"--iterations", "4", "--edges", "zero"}, {"--edges circular", "with zero"});
    differs({"--iterations", "4", "--size", "9"}, {"--size 8", "with 9"});
    differs({"--iterations", "1"}, {"4 iterations", "1: give --iterations"});
}

TEST_CASE("several targets start from one model, also those that begin when others are resumed") {
    const Gallery gallery;
    const std::string models = gallery / "new", init = gallery / "first.safetensors";
    REQUIRE(nca_tool(gallery.train_words({"a"}, 1) + Words{"-o", init, "--iterations", "2"}).code ==
            0);
    const Words some = gallery.train_words({"a", "bb"}, 1);
    const Words all = gallery.train_words(gallery.names, 1);
    const Words to = {"-o", models, "--iterations", "3"};
    REQUIRE(nca_tool(some + to + Words{"--init", init, "--checkpoint", models}).code == 0);
    for (const std::string& name : gallery.names) {
        REQUIRE(
            nca_tool(gallery.train_words({name}, 1) + Words{"-o", gallery / (name + ".safetensors"),
                                                            "--iterations", "3", "--init", init})
                .code == 0);
    }
    const Words resume = all + to + Words{"--resume", models};
    const Outcome without = nca_tool(resume);
    require_message(without, {"a.checkpoint started from first.safetensors, 2 iterations of "
                              "growing on a.png: give --init, for c c starts from it, too"});
    REQUIRE(without.code == 2);
    std::filesystem::copy(models + "/a.safetensors", gallery / "other.safetensors");
    const Outcome other = nca_tool(resume + Words{"--init", gallery / "other.safetensors"});
    require_message(other, {"--init " + (gallery / "other.safetensors"),
                            "a.checkpoint started from first.safetensors, 2 iterations"});
    REQUIRE(other.code == 2);
    REQUIRE(nca_tool(resume + Words{"--init", init}).code == 0);
    for (const std::string& name : gallery.names) {
        REQUIRE(gallery.file("new", name + ".safetensors") ==
                read_file(gallery / (name + ".safetensors")));
        REQUIRE(nca::Model::load(gallery / (name + ".safetensors")).history.init ==
                "first.safetensors, 2 iterations of growing on a.png");
    }
}

TEST_CASE("models of another rule, or that started from another model, are not done") {
    const Gallery gallery;
    const std::string models = gallery / "new", init = gallery / "first.safetensors";
    const Words words = gallery.train_words({"a", "bb"}, 2) + Words{"-o", models};
    REQUIRE(nca_tool(gallery.train_words({"c c"}, 2) + Words{"-o", init}).code == 0);
    REQUIRE(nca_tool(words).code == 0);
    const auto before = gallery.contents();
    const Words resume = words + Words{"--resume", models};
    REQUIRE(nca_tool(resume).code == 0);
    for (const Words& change : {Words{"--fire-rate", "1"}, Words{"--init", init}}) {
        const Outcome outcome = nca_tool(resume + change);
        require_message(outcome, {"nothing to go on with"});
        REQUIRE(outcome.code == 1);
        REQUIRE(gallery.contents() == before);
    }
}
