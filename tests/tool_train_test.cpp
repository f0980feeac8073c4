// SPDX-License-Identifier: MIT
// nca train with one target.
#include <nca/image.hpp>
#include <nca/model.hpp>
#include <nca/simulator.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/tool.hpp"

#include <algorithm>
#include <cmath>
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

TEST_CASE("the nearest cell is offered where a start cell would be in a hole, and takes it out") {
    const Workshop shop;
    nca::Image picture = disc_picture();
    for (int y = 3; y < 9; ++y) {
        for (int x = 2; x < 8; ++x) picture.pixel(y, x)[3] = 0;
    }
    nca::save_png(shop.target, picture);
    Words words = shop.train_words() +
                  Words{"-o", shop / "new.safetensors", "--overwrite", "--iterations", "1"};
    std::erase(words, "--quiet");
    *(std::find(words.begin(), words.end(), "--size") + 1) = "12";
    // The picture's columns 0 to 9 are columns 3 to 12 of the grid, its rows 0 to 11 rows 2 to 13.
    // The start cell in column 8 and row 8 is column 5 and row 6 of the picture: the hole's right
    // edge is three cells away, as its lower edge, which is farther down.
    const std::string in_the_middle =
        "nca: " + shop.target +
        " is transparent in the middle, where the start cell is, and training is likely to die of "
        "that: --seed-at 11,8 starts on the nearest cell that is not\n";
    REQUIRE(contains(nca_tool(words).err, in_the_middle));
    const Outcome there = nca_tool(words + Words{"--seed-at", "11,8"});
    REQUIRE(there.code == 0);
    REQUIRE_FALSE(contains(there.err, "transparent"));
    REQUIRE_FALSE(contains(there.err, "connected"));
    REQUIRE(nca::Model::load(shop / "new.safetensors").history.start_cells ==
            std::vector<nca::Place>{{8, 11}});

    const Outcome two =
        nca_tool(words + Words{"--seed-at", "11,8", "--seed-at", "0,4", "--seed-at", "8,6"});
    REQUIRE(two.code == 0);
    REQUIRE(std::count(two.err.begin(), two.err.end(), '\n') == 4);
    REQUIRE(contains(two.err,
                     " is transparent in row 4 and column 0 of the grid, where a start cell "
                     "is, and what starts there is likely to die of that: --seed-at 4,5 "));
    REQUIRE(contains(two.err, "in row 6 and column 8 of the grid, where"));
    REQUIRE(contains(two.err, ": --seed-at 8,4 starts on the nearest cell that is not\n"));
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
        const std::string way_out = "or start there, too: --seed-at 8,8 --seed-at 3,8\n";
        REQUIRE(contains(outcome.err, way_out) == (gap == 3));
    }
    Outcome outcome = nca_tool(words + Words{"--seed-at", "8,8", "--seed-at", "3,8"});
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    REQUIRE_FALSE(contains(outcome.err, "connected"));
    outcome = nca_tool(words + Words{"--seed-at", "7,7"});
    REQUIRE(contains(outcome.err,
                     "are not connected to the start cell and will not grow: join the parts, leave "
                     "them out, or start there, too: one more --seed-at 3,8\n"));
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
        REQUIRE(contains(outcome.err, "starts on the nearest cell that is not") == hollow);
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
    // No loss sees what grows behind its step.
    const std::string said =
        line_with(train_once(shop, {"--steps", "6:7", "--loss-steps", "2:5"}), "farther");
    REQUIRE(contains(said, ": 39 of its 120 cells"));
    REQUIRE(contains(said, "than 4 steps grow, one cell a step: give more --loss-steps, or"));
}

TEST_CASE("steps reach from the nearest of several start cells") {
    const Workshop shop;
    nca::Image picture = disc_picture();
    for (std::size_t i = 3; i < picture.pixels.size(); i += 4) picture.pixels[i] = 255;
    nca::save_png(shop.target, picture);  // rows 2 to 13 and columns 3 to 12
    const auto said = [&](const Words& more) {
        return line_with(train_once(shop, more + Words{"--steps", "4:5", "--seed-at", "5,4"}),
                         "farther");
    };
    REQUIRE(contains(said({}),
                     ": 71 of its 120 cells, the first in row 2 and column 10 of the grid, "
                     "are farther from the start cell than 4 steps"));
    REQUIRE(contains(said({"--seed-at", "12,13"}),
                     ": 46 of its 120 cells, the first in row 2 and "
                     "column 10 of the grid, are farther from every "
                     "start cell than 4 steps"));
}

namespace {

// The cells whose middle is at most so far from a circle around {y, x}; a disc has radius 0.
struct Shape {
    double y, x, radius, reach;
    bool covers(int row, int column) const {
        return std::abs(std::hypot(row - y, column - x) - radius) <= reach;
    }
};

// Trains on the shapes for 300 iterations, on a grid with three cells of padding. Returns the alpha
// that has grown from the model's own start cells after 28 steps, [side + 6, side + 6].
std::vector<float> grown_alpha(const std::vector<Shape>& shapes, int side, const Words& starts) {
    const Folder folder;
    nca::Image image{side, side, std::vector<std::uint8_t>(std::size_t(side) * side * 4)};
    double blank = 0;  // the loss of an empty grid: red is 1, alpha is 1
    for (int y = 0; y < side; ++y) {
        for (int x = 0; x < side; ++x) {
            if (std::ranges::none_of(shapes, [&](const Shape& s) { return s.covers(y, x); })) {
                continue;
            }
            image.pixel(y, x)[0] = image.pixel(y, x)[3] = 255;
            blank += 2.0 / 4 / (side + 6) / (side + 6);
        }
    }
    nca::save_png(folder / "target.png", image);
    const Outcome outcome =
        nca_tool(Words{"train", folder / "target.png", "-o", folder / "model.safetensors",
                       "--iterations", "300", "--padding", "3", "--batch", "4", "--steps", "24:32",
                       "--threads", "1", "--quiet"} +
                 starts);
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    REQUIRE(outcome.err.empty());
    const nca::Model model = nca::Model::load(folder / "model.safetensors");
    INFO(model.history.loss << " of " << blank);
    REQUIRE(model.history.loss <= 0.5 * blank);  // the mean of the last hundred
    nca::Simulator simulator(model, {.device = nca::Device::cpu(1),
                                     .height = model.history.height,
                                     .width = model.history.width});
    simulator.plant_seed();
    simulator.step(28);
    const std::vector<float> state = simulator.download();
    std::vector<float> alpha;
    for (std::size_t i = nca::alpha_channel; i < state.size(); i += nca::channels) {
        alpha.push_back(state[i]);
    }
    return alpha;
}

}  // namespace

TEST_CASE("a ring grows from a cell on it, and two dots from a cell in each") {
    struct Row {
        std::vector<Shape> shapes;
        Words starts;
    };
    constexpr int side = 20;
    for (const Row& row : {Row{{{9.5, 9.5, 6, 1.5}}, {"--seed-at", "12,18"}},
                           Row{{{9.5, 3.5, 0, 2.5}, {9.5, 15.5, 0, 2.5}},
                               {"--seed-at", "6,12", "--seed-at", "18,12"}}}) {
        const std::vector<float> alpha = grown_alpha(row.shapes, side, row.starts);
        int cells = 0, wrong = 0;
        for (int y = 0; y < side + 6; ++y) {
            for (int x = 0; x < side + 6; ++x) {
                const float value = alpha[std::size_t(y) * (side + 6) + std::size_t(x)];
                const bool in = std::ranges::any_of(
                    row.shapes, [&](const Shape& shape) { return shape.covers(y - 3, x - 3); });
                cells += in;
                wrong += in != (value > 0.5F);
            }
        }
        INFO(wrong << " of " << cells << " cells");
        REQUIRE(wrong <= cells / 4);  // one dot alone is half of them
    }
}
