// SPDX-License-Identifier: MIT
// nca train with one target.
#include <nca/image.hpp>
#include <nca/model.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/tool.hpp"

#include <cstdint>
#include <string>

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
