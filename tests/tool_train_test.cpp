// SPDX-License-Identifier: MIT
// nca train with one target.
#include <nca/image.hpp>
#include <nca/model.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/tool.hpp"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

using namespace nca::test;

TEST_CASE("training says what it runs on, names its model and notes an image without alpha") {
    const Workshop shop;
    write_file(shop / "opaque.tga", opaque_picture(10));
    const Outcome outcome =
        nca_tool({"train", shop / "opaque.tga", "-o", shop / "new.safetensors", "--iterations", "2",
                  "--size", "8", "--padding", "2", "--steps", "2:5"});
    REQUIRE(outcome.code == 0);
    REQUIRE(contains(outcome.err, "running on"));
    REQUIRE(contains(outcome.err, "opaque"));
    REQUIRE(contains(outcome.err, "12x12 cells"));
    REQUIRE(contains(outcome.err, "2..4 steps"));
    REQUIRE(contains(outcome.out, shop / "new.safetensors"));
    const nca::Model model = nca::Model::load(shop / "new.safetensors");
    REQUIRE(model.history.preset == "growing");
    REQUIRE(model.history.target == "opaque.tga");
    REQUIRE(model.history.iterations == 2);
    REQUIRE(model.history.loss > 0);
}

TEST_CASE("a target that is transparent where the start cell is gets a warning") {
    const Workshop shop;
    Words words = shop.train_words() + Words{"-o", shop / "new.safetensors", "--iterations", "1"};
    std::erase(words, "--quiet");
    for (const int alpha : {0, 255}) {
        nca::Image picture = disc_picture();
        for (int y = 3; y < 9; ++y) {
            for (int x = 2; x < 8; ++x) picture.pixel(y, x)[3] = static_cast<std::uint8_t>(alpha);
        }
        nca::save_png(shop.target, picture);
        REQUIRE(contains(nca_tool(words).err, "transparent in the middle") == (alpha == 0));
    }
}

TEST_CASE("an identity filter of 0 trains the notebook's rule to the letter") {
    const Workshop shop;
    for (const char* choice : {"0", "1"}) {
        const Words words = {"--preset",    "notebook",     "--identity-filter",
                             choice,        "--iterations", "1",
                             "--overwrite", "-o",           shop / "new.safetensors"};
        REQUIRE(nca_tool(shop.train_words() + words).code == 0);
        const nca::Rule rule = nca::Model::load(shop / "new.safetensors").rule;
        REQUIRE(rule.filters[0][4] == (*choice == '1' ? 1.0F : 0.0F));
        REQUIRE(rule.edges == nca::Edges::circular);
    }
}

TEST_CASE("a run that failed on the way and has learnt nothing leaves the old model alone") {
    const Workshop shop;
    const auto before = shop.contents();
    const Outcome outcome = nca_tool(shop.train_words() + Words{"-o", shop.model, "--overwrite",
                                                                "--lr", "10", "--iterations", "4"});
    INFO(outcome.err);
    REQUIRE(outcome.code == 1);
    REQUIRE(contains(outcome.err, "back to the last good weights"));
    REQUIRE(contains(outcome.err, "has learnt nothing"));
    REQUIRE(contains(outcome.err, shop.model + " was not written"));
    REQUIRE(shop.contents() == before);
}

TEST_CASE("training that fails for good leaves the old model alone") {
    const Workshop shop;
    const auto before = shop.contents();
    const Outcome outcome =
        nca_tool(shop.train_words() +
                 Words{"-o", shop.model, "--overwrite", "--lr", "1e30", "--iterations", "50"});
    INFO(outcome.err);
    REQUIRE(outcome.code == 1);
    REQUIRE(contains(outcome.err, "learning rate"));
    REQUIRE(contains(outcome.err, "was not written"));
    REQUIRE(shop.contents() == before);
}

TEST_CASE("parts of a target that will not grow are named before training") {
    const Workshop shop;
    nca::Image picture = disc_picture();
    Words words = shop.train_words() +
                  Words{"-o", shop / "new.safetensors", "--overwrite", "--iterations", "1"};
    std::erase(words, "--quiet");
    *(std::find(words.begin(), words.end(), "--size") + 1) = "12";
    // A block in the middle, and a pixel at the left edge, behind a gap.
    for (const int gap : {0, 2, 3}) {
        for (int y = 0; y < 12; ++y) {
            for (int x = 0; x < 10; ++x) {
                const bool block = y >= 4 && y < 8 && x > gap && x < 8;
                const bool part = y == 6 && x == 0;
                picture.pixel(y, x)[3] = static_cast<std::uint8_t>(block || part ? 255 : 0);
            }
        }
        nca::save_png(shop.target, picture);
        const Outcome outcome = nca_tool(words);
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        const std::string expected =
            shop.target + ": 1 of its " + std::to_string(4 * (7 - gap) + 1) +
            " cells, the first in row 8 and column 3 of the grid, are not connected to the start";
        REQUIRE(contains(outcome.err, expected) == (gap == 3));
        REQUIRE(contains(outcome.err, "not connected") == (gap == 3));
    }
}

TEST_CASE("a run that gives up on a hollow target names the hole") {
    const Workshop shop;
    for (const bool hollow : {true, false}) {
        nca::Image picture = disc_picture();
        for (int y = 2; y < 10; ++y) {
            for (int x = 2; x < 8; ++x) {
                picture.pixel(y, x)[3] = static_cast<std::uint8_t>(hollow ? 0 : 255);
            }
        }
        nca::save_png(shop.target, picture);
        const Outcome outcome =
            nca_tool(shop.train_words() +
                     Words{"-o", shop / "new.safetensors", "--lr", "1e30", "--iterations", "50"});
        INFO(outcome.err);
        REQUIRE(outcome.code == 1);
        REQUIRE(contains(outcome.err, "the target is transparent in the middle") == hollow);
    }
}

namespace {

// Trains for an iteration on small grids, and returns what is said.
Outcome train_once(const Workshop& shop, const Words& more) {
    const Words words = {"train",
                         shop.target,
                         "-o",
                         shop / "new.safetensors",
                         "--overwrite",
                         "--iterations",
                         "1",
                         "--padding",
                         "2",
                         "--batch",
                         "2",
                         "--threads",
                         "1"};
    return nca_tool(words + more);
}

std::string line_with(const Outcome& outcome, const std::string& words) {
    const std::size_t at = outcome.err.find(words);
    if (at == std::string::npos) return "";
    const std::size_t begin = outcome.err.rfind('\n', at) + 1;
    return outcome.err.substr(begin, outcome.err.find('\n', at) - begin);
}

}  // namespace

TEST_CASE("a small target is trained in its own size, and enlarged only with --size") {
    const Workshop shop;  // 10 pixels wide, 12 high
    struct Row {
        Words words;
        int grid;
        std::string said;
    };
    for (const Row& row : std::vector<Row>{
             {{}, 16, "10 x 12 pixels, so each is one cell; --size enlarges it"},
             {{"--size", "12"}, 16, ""},
             {{"--size", "24"},
              28,
              "10 x 12 pixels, enlarged to 24 cells: each is a square of 2 x 2"},
             {{"--size", "20"},
              24,
              "10 x 12 pixels, enlarged to 20 cells by a smooth filter; a --size of 12 or 24 keeps "
              "pixels sharp"},
             {{"--size", "8"}, 12, ""}}) {
        const Outcome outcome = train_once(shop, row.words + Words{"--steps", "2:5"});
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        REQUIRE(nca::Model::load(shop / "new.safetensors").history.height == row.grid);
        const std::string said = line_with(outcome, "pixels");
        REQUIRE(said == (row.said.empty() ? "" : "nca: " + shop.target + ": " + row.said));
        const Outcome quiet = train_once(shop, row.words + Words{"--steps", "2:5", "--quiet"});
        REQUIRE(quiet.err.empty());
    }
    // As large as the preset's size and larger: nothing is said.
    for (const int scale : {4, 5}) {
        nca::save_png(shop.target, nca::enlarge(disc_picture(), scale));
        const Outcome outcome = train_once(shop, {"--steps", "2:5"});
        REQUIRE(outcome.code == 0);
        REQUIRE(nca::Model::load(shop / "new.safetensors").history.height == 44);
        REQUIRE(line_with(outcome, "pixels").empty());
    }
}

TEST_CASE("a target whose every pixel is opaque is named, and so is an animation") {
    const Workshop shop;
    nca::Image picture = disc_picture();
    REQUIRE(line_with(train_once(shop, {"--steps", "2:5"}), "opaque").empty());
    for (std::size_t i = 3; i < picture.pixels.size(); i += 4) picture.pixels[i] = 255;
    nca::save_png(shop.target, picture);
    Outcome outcome = train_once(shop, {"--steps", "2:5"});
    REQUIRE(line_with(outcome, "opaque") ==
            "nca: " + shop.target +
                ": every pixel is opaque, so the background is grown too; make it transparent "
                "where it should not be");
    REQUIRE(line_with(outcome, "animation").empty());

    const nca::Image frames[] = {disc_picture(), picture};
    nca::save_webp(shop.target, frames, 10);
    outcome = train_once(shop, {"--steps", "2:5"});
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    REQUIRE(line_with(outcome, "animation") ==
            "nca: " + shop.target + ": an animation, its first frame is taken");
    REQUIRE(line_with(outcome, "opaque").empty());
    REQUIRE(train_once(shop, {"--steps", "2:5", "--quiet"}).err.empty());
}

TEST_CASE("a target that is farther from the start cell than the steps reach is named") {
    const Workshop shop;
    nca::Image picture = disc_picture();
    for (std::size_t i = 3; i < picture.pixels.size(); i += 4) picture.pixels[i] = 255;
    nca::save_png(shop.target, picture);  // rows 2 to 13 and columns 3 to 12 of 16; the start is 8
    for (const auto& [steps, cells] : {std::pair{"1:5", 39}, {"5:6", 10}, {"6:7", 0}}) {
        const Outcome outcome = train_once(shop, {"--steps", steps});
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        const std::string most(1, char(steps[2] - 1));
        REQUIRE(line_with(outcome, "farther") ==
                (cells == 0 ? ""
                            : "nca: " + shop.target + ": " + std::to_string(cells) +
                                  " of its 120 cells, the first in row 2 and column 3 of the grid, "
                                  "are farther from the start cell than " +
                                  most +
                                  " steps grow, one cell a step: give more --steps, or a smaller "
                                  "--size"));
        REQUIRE(
            line_with(train_once(shop, {"--steps", steps, "--preset", "persistent", "--pool", "2"}),
                      "farther")
                .empty());
    }
}
