// SPDX-License-Identifier: MIT
// nca train --init, trainings with another rule than their preset's, and what info says of both.
#include <nca/model.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/page.hpp"
#include "tests/support/tool.hpp"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

using namespace nca::test;

namespace {

Words loud(Words words) {
    std::erase(words, "--quiet");
    return words;
}

// The mean of the losses in a log, from the row `first` on.
double mean_loss(const std::string& path, int first) {
    std::ifstream log(path);
    std::string row;
    double sum = 0;
    int count = 0;
    while (std::getline(log, row)) {
        if (row.empty() || row[0] < '0' || row[0] > '9' || std::atoi(row.c_str()) < first) continue;
        sum += std::strtod(row.c_str() + row.find(',') + 1, nullptr);
        ++count;
    }
    REQUIRE(count > 0);
    return sum / count;
}

}  // namespace

TEST_CASE("a training that starts from a model learns a like picture faster than a new one") {
    const Workshop shop;
    nca::Image other = disc_picture();
    for (std::size_t i = 0; i < other.pixels.size(); i += 4)
        std::swap(other.pixels[i], other.pixels[i + 2]);
    nca::save_png(shop / "other.png", other);
    const auto train = [&](const std::string& target, const std::string& name, int iterations,
                           const Words& more) {
        const Words words = {"train",
                             target,
                             "-o",
                             shop / (name + ".safetensors"),
                             "--size",
                             "8",
                             "--padding",
                             "2",
                             "--batch",
                             "4",
                             "--steps",
                             "20:24",
                             "--threads",
                             "1",
                             "--quiet",
                             "--iterations",
                             std::to_string(iterations),
                             "--log",
                             shop / (name + ".csv")};
        const Outcome outcome = nca_tool(words + more);
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        REQUIRE(outcome.err.empty());
    };
    train(shop.target, "first", 300, {});
    train(shop / "other.png", "new", 100, {});
    train(shop / "other.png", "fine", 100, {"--init", shop / "first.safetensors"});
    const double fresh = mean_loss(shop / "new.csv", 90), fine = mean_loss(shop / "fine.csv", 90);
    INFO(fine << " and " << fresh);
    REQUIRE(fine < 0.7 * fresh);
}

TEST_CASE("the first weights are the model's, and every file says from what") {
    const Workshop shop;
    const std::string output = shop / "fine.safetensors";
    const std::string init = "model.safetensors, 2 iterations of growing on target.png";
    const Words words = loud(shop.train_words()) +
                        Words{"--init",   shop.model,         "--iterations", "1",
                              "--report", shop / "page.html", "--checkpoint", shop / "c"};
    const Outcome outcome = nca_tool(words + Words{"-o", output});
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    REQUIRE(contains(outcome.err, "nca: starts from " + init + ", loss "));
    REQUIRE_FALSE(contains(outcome.err, "the rule of"));
    const nca::Model first = nca::Model::load(shop.model), model = nca::Model::load(output);
    // The model of one iteration has the weights that this iteration tried.
    REQUIRE(model.weights == first.weights);
    REQUIRE(model.history.init == init);
    REQUIRE(model.history.iterations == 1);
    REQUIRE(contains(nca_tool({"info", output}).out, "\n  started from  " + init + "\n"));
    REQUIRE(contains(nca_tool({"info", shop / "c"}).out, "\n  started from  " + init + "\n"));
    REQUIRE_FALSE(contains(nca_tool({"info", shop.model}).out, "started from"));
    REQUIRE(contains(read_file(shop / "page.html"), "<dt>started from</dt><dd>" + init + "</dd>"));
    // Files of a training without --init are as before.
    REQUIRE_FALSE(contains(read_file(shop.model), "init"));
    // Later runs keep it.
    REQUIRE(nca_tool({"train", "--resume", shop / "c", "-o", shop / "later.safetensors",
                      "--iterations", "2"})
                .code == 0);
    REQUIRE(nca::Model::load(shop / "later.safetensors").history.init == init);
}

TEST_CASE("a model of any format is a start, and where its rule is another that is said") {
    const Workshop shop;
    write_file(shop / "foreign.pth", model_file());
    const Words words = loud(shop.train_words()) +
                        Words{"-o", shop / "fine.safetensors", "--iterations", "1", "--overwrite"};
    const Outcome foreign = nca_tool(words + Words{"--init", shop / "foreign.pth"});
    INFO(foreign.err);
    REQUIRE(foreign.code == 0);
    REQUIRE(contains(foreign.err, "foreign.pth: no rule in the file; guessed: --rule notebook"));
    REQUIRE(contains(foreign.err, "nca: starts from foreign.pth\n"));
    REQUIRE(
        contains(foreign.err,
                 "nca: the rule of foreign.pth is another: edges circular and not zero, life "
                 "after the update and not before and after the update, start cell alpha = 1 "
                 "and not alpha and hidden channels = 1, colours straight and not premultiplied "
                 "by alpha, Sobel scale 1 and not 0.125; the same with --preset notebook\n"));
    const nca::Model model = nca::Model::load(shop / "fine.safetensors");
    REQUIRE(model.rule == nca::Rule());
    REQUIRE(model.history.init == "foreign.pth");
    // The model has no output bias, and the training has one of zeros.
    REQUIRE(model.weights.has_output_bias());

    const Words again = loud(shop.train_words()) +
                        Words{"-o", shop / "again.safetensors", "--iterations", "1", "--overwrite"};
    const Outcome rate =
        nca_tool(again + Words{"--init", shop / "fine.safetensors", "--fire-rate", "0.25"});
    REQUIRE(contains(rate.err,
                     "nca: the rule of fine.safetensors is another: fire rate 0.5 and not 0.25; "
                     "the same with --fire-rate 0.5\n"));
    REQUIRE(nca_tool(again +
                     Words{"--init", shop / "fine.safetensors", "--fire-rate", "0.25", "--quiet"})
                .err.empty());
}

TEST_CASE("a start that does not fit is refused, and nothing is written") {
    const Workshop shop;
    nca::Model biased = steady_model(0.5F, 0);
    biased.save(shop / "biased.safetensors");
    const Words words = shop.train_words() + Words{"--iterations", "1"};
    const Words new_file = words + Words{"-o", shop / "new.safetensors"};
    const auto before = shop.contents();
    const auto refused = [&](const Words& all, const Words& named, int code = 2) {
        const Outcome outcome = nca_tool(all);
        require_message(outcome, named);
        REQUIRE(outcome.code == code);
        REQUIRE(shop.contents() == before);
    };
    refused(new_file + Words{"--init", shop / "biased.safetensors", "--preset", "notebook"},
            {"--init", "biased.safetensors has an output bias",
             "--preset growing, persistent or "
             "regenerating"});
    refused(new_file + Words{"--init", shop.model, "--resume", shop / "c"},
            {"--init and --resume", "weights of its own"});
    refused(words + Words{"-o", shop.model, "--init", shop.model, "--overwrite"},
            {"MODEL and --init are the same file"});
    refused(new_file + Words{"--init", shop.model, "--checkpoint", shop.model},
            {"--checkpoint and --init are the same file"});
    refused(new_file + Words{"--init", shop / "missing"}, {"missing"}, 1);
    refused(new_file + Words{"--init", shop.target}, {"target.png"}, 1);
}

TEST_CASE("the command that a stopped training prints goes on without --init") {
    const Workshop shop;
    const std::string output = shop / "fine.safetensors";
    const Words words =
        shop.train_words() +
        Words{"-o", output, "--log", shop / "log.csv", "--init=" + shop.model, "--iterations"};
    Process process(tool_command(words + Words{"100000000"}));
    REQUIRE(eventually([&] { return contains(read_file(shop / "log.csv"), "\n2,"); }));
    process.kill(SIGINT);
    const Outcome stopped = process.wait();
    const auto commands = all_between(stopped.err, "go on with: ", "\n");
    REQUIRE(commands.size() == 1);
    REQUIRE_FALSE(contains(commands[0], "--init"));
    const std::string wanted = "100000000";
    const std::string all = std::to_string(nca::Model::load(output).history.iterations + 2);
    std::string command = commands[0];
    command.replace(command.find(wanted), wanted.size(), all);
    const Outcome resumed = Process({"/bin/bash", "-c", command}).wait();
    INFO(command << resumed.err);
    REQUIRE(resumed.code == 0);
    REQUIRE(nca_tool(shop.train_words() + Words{"-o", shop / "whole.safetensors", "--init",
                                                shop.model, "--iterations", all})
                .code == 0);
    REQUIRE(read_file(output) == read_file(shop / "whole.safetensors"));
}

TEST_CASE("options of the rule change that of the preset, and info says what differs") {
    const Workshop shop;
    const std::string output = shop / "variant.safetensors";
    const Outcome outcome =
        nca_tool(loud(shop.train_words()) + Words{"-o", output, "--iterations", "1", "--report",
                                                  shop / "page.html", "--fire-rate", "0.9",
                                                  "--step-size", "0.5", "--sobel-scale", "0.25",
                                                  "--edges", "circular", "--life", "post"});
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    const std::string with =
        "preset growing with --edges circular --life post --fire-rate 0.9 --step-size 0.5 "
        "--sobel-scale 0.25";
    REQUIRE(contains(outcome.err, "nca: " + with + ": 12x12 cells"));
    nca::Rule rule;
    rule.fire_rate = 0.9F;
    rule.step_size = 0.5F;
    rule.edges = nca::Edges::circular;
    rule.life = nca::Life::post;
    for (const std::size_t k : {1, 2}) {
        for (float& value : rule.filters[k]) value *= 2;
    }
    REQUIRE(nca::Model::load(output).rule == rule);
    const std::string info = nca_tool({"info", output}).out;
    INFO(info);
    for (const char* row :
         {"\n  edges         circular (preset growing: zero)\n",
          "\n  life          after the update (preset growing: before and after the update)\n",
          "\n  start cell    alpha and hidden channels = 1\n",
          "\n  fire rate     0.9 (preset growing: 0.5)\n",
          "\n  step size     0.5 (preset growing: 1)\n",
          "\n  Sobel scale   0.25 (preset growing: 0.125)\n"}) {
        REQUIRE(contains(info, row));
    }
    const std::string page = read_file(shop / "page.html");
    REQUIRE(contains(page, "<p class=\"quiet\">" + with + ", on "));
    REQUIRE(contains(page, "<dt>fire rate</dt><dd>0.9 (preset growing: 0.5)</dd>"));

    // Nothing is marked where nothing differs, or nobody knows the preset.
    REQUIRE_FALSE(contains(nca_tool({"info", shop.model}).out, "(preset"));
    nca::Model unknown = nca::Model::load(output);
    unknown.history.preset = "mine";
    unknown.save(shop / "unknown.safetensors");
    REQUIRE_FALSE(contains(nca_tool({"info", shop / "unknown.safetensors"}).out, "(preset"));
    // Filters that no option makes.
    nca::Model turned = nca::Model::load(shop.model);
    turned.rule = turned.rule.rotated(90);
    turned.rule.filters[0] = {};
    turned.save(shop / "turned.safetensors");
    const std::string turned_info = nca_tool({"info", shop / "turned.safetensors"}).out;
    REQUIRE(contains(turned_info, "\n  first filter  all zero (preset growing: the identity)\n"));
    REQUIRE(contains(turned_info, "\n  Sobel scale   other filters, "));
}

TEST_CASE("a preset's own values as options change no bit") {
    const Workshop shop;
    const std::string output = shop / "same.safetensors";
    for (const Words& preset :
         {Words{"--preset", "growing", "--edges", "zero", "--life", "pre_and_post", "--sobel-scale",
                "0.125", "--fire-rate", "0.5", "--step-size", "1"},
          Words{"--preset", "notebook", "--edges", "circular", "--life", "post", "--sobel-scale",
                "1", "--fire-rate", "0.5", "--step-size", "1"}}) {
        const Words train = shop.train_words() + Words{"--iterations", "2", "--overwrite"};
        REQUIRE(nca_tool(train + preset + Words{"-o", output}).code == 0);
        REQUIRE(nca_tool(train + Words(preset.begin(), preset.begin() + 2) +
                         Words{"-o", shop / "plain.safetensors"})
                    .code == 0);
        REQUIRE(read_file(output) == read_file(shop / "plain.safetensors"));
    }
}

TEST_CASE("values of the rule by which nothing can be learnt are refused") {
    const Workshop shop;
    const auto before = shop.contents();
    for (const Words& option : std::vector<Words>{{"--fire-rate", "0", "no cell would ever update"},
                                                  {"--fire-rate", "1.1", "0..1"},
                                                  {"--fire-rate", "nan", "0..1"},
                                                  {"--step-size", "0", "no update"},
                                                  {"--step-size", "inf", "a number"},
                                                  {"--sobel-scale", "1e39", "a number"},
                                                  {"--edges", "round", "circular or zero"},
                                                  {"--life", "1", "post or pre_and_post"}}) {
        for (const Words& more : {Words{}, Words{"--resume", shop / "c"}}) {
            const Outcome outcome =
                nca_tool(shop.train_words() +
                         Words{"-o", shop / "new.safetensors", option[0], option[1]} + more);
            require_message(outcome, {option[0], option[2]});
            REQUIRE(outcome.code == 2);
        }
    }
    REQUIRE(shop.contents() == before);
}
