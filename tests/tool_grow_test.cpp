// SPDX-License-Identifier: MIT
// nca grow.
#include <nca/image.hpp>
#include <nca/model.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/tool.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

using namespace nca::test;

TEST_CASE("grow writes gif, png and webp of the size that was asked for") {
    const Workshop shop;
    const auto grow = [&](const std::string& name, const Words& more) {
        const Outcome outcome = nca_tool(Words{"grow", shop.model, "-o", shop / name} + more);
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        REQUIRE(contains(outcome.out, name));
        return read_file(shop / name);
    };
    const std::string gif = grow("out.gif", {"--steps", "6", "--size", "9x7", "--scale", "3"});
    REQUIRE(gif.substr(0, 10) == std::string("GIF89a\x15\0\x1b\0", 10));
    const std::string webp = grow("out.webp", {"--steps", "6", "--transparent"});
    REQUIRE(webp.substr(0, 4) == "RIFF");
    REQUIRE(webp.substr(8, 4) == "WEBP");

    // The grid of the training without --size, and white around the automaton.
    grow("out.PNG", {"--steps", "6", "--scale", "2"});
    const nca::Image white = nca::load_image(shop / "out.PNG");
    REQUIRE(white.height == 24);
    REQUIRE(white.width == 24);
    REQUIRE(std::vector<int>(white.pixel(0, 0), white.pixel(0, 1)) ==
            std::vector<int>{255, 255, 255, 255});
    grow("clear.png", {"--steps", "6", "--transparent"});
    REQUIRE(int{nca::load_image(shop / "clear.png").pixel(0, 0)[3]} == 0);
}

TEST_CASE("grow makes pictures as large as the formats have them") {
    const Workshop shop;
    for (const Words& words :
         {Words{shop / "new.gif", "--size", "8x2048"},
          Words{shop / "new.webp", "--size", "8x1023", "--scale", "16"},
          Words{shop / "new.png", "--size", "8x664", "--compare", shop.target}}) {
        const Outcome outcome = nca_tool(Words{"grow", shop.model, "--steps", "0", "-o"} + words);
        INFO(words[0] << outcome.err);
        REQUIRE(outcome.code == 0);
        REQUIRE(std::filesystem::exists(words[0]));
    }
}

TEST_CASE("a comparison shows target, grown picture and difference side by side") {
    const Workshop shop;
    const Outcome outcome = nca_tool({"grow", shop.model, "-o", shop / "out.png", "--compare",
                                      shop.target, "--scale", "2", "--steps", "0"});
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    REQUIRE(contains(outcome.out, "loss"));
    const nca::Image image = nca::load_image(shop / "out.png");
    REQUIRE(image.height == 24);
    REQUIRE(image.width == 2 * (12 + 1 + 12 + 1 + 12));
    for (int y = 0; y < image.height; ++y) {
        for (int x = 0; x < 24; ++x) {
            for (int c = 0; c < 3; ++c) {
                const int in = image.pixel(y, x)[c];
                const int out = image.pixel(y, x + 26)[c];
                REQUIRE(int{image.pixel(y, x + 52)[c]} == std::abs(in - out));
            }
        }
    }
    // The start cell is all that has grown so far, in the middle and black.
    REQUIRE(int{image.pixel(12, 26 + 12)[0]} == 0);
    REQUIRE(int{image.pixel(9, 26 + 12)[0]} == 255);
}

TEST_CASE("a comparison turns the target with the angle, about the start cell") {
    const Workshop shop;
    const auto target = [&](const Words& more) {
        const Outcome outcome =
            nca_tool(Words{"grow", shop.model, "-o", shop / "out.png", "--compare", shop.target,
                           "--scale", "1", "--steps", "0", "--size", "15x20"} +
                     more);
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        return nca::load_image(shop / "out.png");
    };
    const nca::Image upright = target({"--seed-at", "11,6"});
    const nca::Image turned = target({"--seed-at", "11,6", "--seed-at", "11,6", "--angle", "90"});
    REQUIRE(upright.pixels != turned.pixels);
    for (int right = -5; right <= 5; ++right) {
        for (int down = -5; down <= 5; ++down) {
            for (int c = 0; c < 3; ++c) {
                REQUIRE(int{turned.pixel(6 + down, 11 + right)[c]} ==
                        int{upright.pixel(6 + right, 11 - down)[c]});
            }
        }
    }
}

TEST_CASE("the state of grow depends on seed, damage and angle, and not on threads") {
    const Workshop shop;
    const auto state = [&](const Words& more) {
        const Outcome outcome =
            nca_tool(Words{"grow", shop.model, "-o", shop / "out.png", "--steps", "12", "--size",
                           "9x7", "--state-out", shop / "state.npy"} +
                     more);
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        return read_file(shop / "state.npy");
    };
    const std::string plain = state({"--threads", "1"});
    REQUIRE(plain.substr(1, 5) == "NUMPY");
    REQUIRE(contains(plain, "(9, 7, 16)"));
    REQUIRE(plain == state({"--threads", "2"}));
    REQUIRE(plain == state({"--fire-rate", "0.5"}));
    REQUIRE(plain != state({"--seed", "1"}));
    REQUIRE(plain != state({"--fire-rate", "1"}));
    REQUIRE(plain != state({"--angle", "90"}));
    for (const char* damage : {"6:circle,3,4,0.5", "6:half,left", "6:half,right", "6:half,top",
                               "6:half,bottom", "12:half,bottom"}) {
        REQUIRE(plain != state({"--damage", damage}));
    }
    const std::string dead = state({"--damage", "12:half,left", "--damage", "12:half,right"});
    REQUIRE(dead.find_first_not_of('\0', dead.size() - 9 * 7 * 16 * 4) == std::string::npos);
    REQUIRE(dead == state({"--damage", "3:circle,3,4,50"}));
}

TEST_CASE("start cells and circles are where their column and row say") {
    const Workshop shop;
    const auto state = [&](const Words& more) {
        const Outcome outcome =
            nca_tool(Words{"grow", shop.model, "-o", shop / "out.png", "--steps", "0", "--size",
                           "9x7", "--state-out", shop / "state.npy"} +
                     more);
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        return read_file(shop / "state.npy");
    };
    // The cells, by their number in raster order, that are living.
    const auto living = [](const std::string& npy) {
        std::vector<int> cells;
        const std::size_t start = npy.size() - std::size_t{9} * 7 * nca::channels * 4;
        for (int cell = 0; cell < 9 * 7; ++cell) {
            float alpha = 0;
            std::memcpy(&alpha,
                        npy.data() + start + (cell * nca::channels + nca::alpha_channel) * 4, 4);
            if (alpha == 1) cells.push_back(cell);
        }
        return cells;
    };
    const Words both = {"--seed-at", "6,8", "--seed-at", "1,2"};
    REQUIRE(living(state({})) == std::vector<int>{4 * 7 + 3});
    REQUIRE(living(state({"--seed-at", "6,8"})) == std::vector<int>{8 * 7 + 6});
    REQUIRE(living(state(both)) == std::vector<int>{2 * 7 + 1, 8 * 7 + 6});
    REQUIRE(state(both) == state(both + both));
    REQUIRE(state({}) == state({"--seed-at", "3,4"}));
    REQUIRE(living(state(both + Words{"--damage", "0:circle,6,8,0"})) ==
            std::vector<int>{2 * 7 + 1});
    REQUIRE(living(state(both + Words{"--damage", "0:circle,9,8,3"})) ==
            std::vector<int>{2 * 7 + 1});
    REQUIRE(living(state(both + Words{"--damage", "0:half,top"})) == std::vector<int>{8 * 7 + 6});
    REQUIRE(living(state(both + Words{"--damage", "0:half,right"})) == std::vector<int>{2 * 7 + 1});
}

TEST_CASE("grow plants what the model was trained with, as far from the middle of any grid") {
    const Workshop shop;
    nca::Model model = nca::Model::load(shop.model);
    model.rule.fire_rate = 1;
    for (float& bias : std::span(model.weights.view().b2, nca::channels)) bias = 0.1F;
    model.history.start_cells = {{4, 3}, {7, 11}};  // of 12 x 12 cells
    model.save(shop.model);
    const Words grow = {"grow",           shop.model,    "-o",
                        shop / "out.png", "--state-out", shop / "state.npy"};
    const auto state = [&](const Words& more) {
        const Outcome outcome = nca_tool(grow + Words{"--steps", "2"} + more);
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        return read_file(shop / "state.npy");
    };
    REQUIRE(state({}) == state({"--seed-at", "3,4", "--seed-at", "11,7"}));
    REQUIRE(state({}) != state({"--seed-at", "6,6"}));
    REQUIRE(state({"--size", "15x20"}) ==
            state({"--size", "15x20", "--seed-at", "7,5", "--seed-at", "15,8"}));
    // Three to the left and two up, five to the right and one down; a quarter turn counterclockwise
    // makes that three down and two to the left, and five up and one to the right.
    const Words turned = {"--size", "15x20", "--angle", "90"};
    REQUIRE(state(turned) == state(turned + Words{"--seed-at", "8,10", "--seed-at", "11,2"}));
    const Words eighth = {"--angle", "-45"};  // 0.7 left and 3.5 up, 2.8 right and 4.2 down
    REQUIRE(state(eighth) == state(eighth + Words{"--seed-at", "5,2", "--seed-at", "9,10"}));

    const auto refused = [&](const Words& more, const std::string& size) {
        const Outcome outcome = nca_tool(grow + more);
        REQUIRE(outcome.code == 2);
        require_message(outcome, {shop.model, "outside the grid",
                                  "give --size " + size + " or more", "--seed-at"});
    };
    refused({"--size", "11x10"}, "11x11");
    refused({"--size", "3x12"}, "4x12");
    refused({"--size", "12x6", "--angle", "180"}, "12x10");
    REQUIRE(nca_tool(grow + Words{"--size", "11x10", "--seed-at", "3,4"}).code == 0);

    // In a mosaic each model has its own.
    nca::Model other = model;
    other.history.start_cells.clear();
    other.save(shop / "other");
    const auto picture = [&](const Words& models, const Words& more) {
        const Outcome outcome = nca_tool(Words{"grow"} + models + Words{"-o", shop / "out.png"} +
                                         Words{"--steps", "1", "--scale", "1"} + more);
        REQUIRE(outcome.code == 0);
        return nca::load_image(shop / "out.png");
    };
    const nca::Image both = picture({shop.model, shop / "other"}, {});
    const nca::Image first = picture({shop.model}, {});
    const nca::Image second = picture({shop / "other"}, {"--seed-at", "6,6"});
    for (int y = 0; y < 12; ++y) {
        REQUIRE(std::equal(first.pixel(y, 0), first.pixel(y, 0) + 48, both.pixel(y, 0)));
        REQUIRE(std::equal(second.pixel(y, 0), second.pixel(y, 0) + 48, both.pixel(y, 13)));
    }
}

TEST_CASE("a comparison puts the target where a model with start cells grows") {
    const Workshop shop;
    nca::Model model = nca::Model::load(shop.model);
    model.history.start_cells = {{4, 9}};
    model.save(shop / "one");
    model.history.start_cells.push_back({7, 3});
    model.save(shop / "two");
    const auto compared = [&](const std::string& name, const Words& more) {
        return nca_tool(Words{"grow", shop / name, "-o", shop / "out.png", "--compare", shop.target,
                              "--scale", "1", "--steps", "0", "--size", "15x20"} +
                        more);
    };
    const auto target = [&](const std::string& name, const Words& more) {
        const Outcome outcome = compared(name, more);
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        nca::Image image = nca::load_image(shop / "out.png");
        std::vector<std::uint8_t> pixels;  // of the target, without the rest of the picture
        for (int y = 0; y < 15; ++y) {
            pixels.insert(pixels.end(), image.pixel(y, 0), image.pixel(y, 0) + 20 * 4);
        }
        return pixels;
    };
    // In the grid's middle, {7, 10}, whatever it grew from.
    for (const Words& more : {Words{}, Words{"--angle", "90"}}) {
        const auto in_the_middle = target("model.safetensors", more);
        REQUIRE(target("one", more) == in_the_middle);
        REQUIRE(target("two", more) == in_the_middle);
        // One row down and two columns to the left of where the trained start cell is.
        const auto moved = target("model.safetensors", more + Words{"--seed-at", "8,8"});
        REQUIRE(target("one", more + Words{"--seed-at", more.empty() ? "11,6" : "6,5"}) == moved);
    }
    const Outcome refused = compared("two", {"--seed-at", "11,6"});
    REQUIRE(refused.code == 2);
    require_message(refused, {"--compare", "2 cells", "leave --seed-at out"});
}

TEST_CASE("each tile of a mosaic is what its model grows alone") {
    const Workshop shop;
    nca::Model other = nca::Model::load(shop.model);
    other.rule.fire_rate = 1;
    for (float& bias : std::span(other.weights.view().b2, nca::channels)) bias = 0.1F;
    other.history.height = other.history.width = 10;  // the mosaic's grids are the largest model's
    other.save(shop / "other");
    const Words options = {"--steps",          "12",      "--scale", "2",         "--damage",
                           "6:circle,6,5,1.5", "--angle", "30",      "--seed-at", "4,5"};
    const auto picture = [&](const Words& models, const Words& more) {
        const Outcome outcome =
            nca_tool(Words{"grow"} + models + Words{"-o", shop / "out.png"} + options + more);
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        REQUIRE(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
        return nca::load_image(shop / "out.png");
    };
    const Words more = GENERATE(Words{}, Words{"--transparent"});
    const nca::Image first = picture({shop.model}, more);
    const nca::Image second = picture({shop / "other"}, more + Words{"--size", "12x12"});
    REQUIRE((first.pixels != second.pixels));
    const nca::Image whole = picture({shop.model, shop / "other", shop.model}, more);
    REQUIRE(whole.height == 2 * (12 + 1 + 12));
    REQUIRE(whole.width == 2 * (12 + 1 + 12));
    const int beyond = more.empty() ? 255 : 0;
    for (int y = 0; y < 24; ++y) {
        for (int x = 0; x < 24; ++x) {
            for (int c = 0; c < 4; ++c) {
                REQUIRE(int{whole.pixel(y, x)[c]} == int{first.pixel(y, x)[c]});
                REQUIRE(int{whole.pixel(y, x + 26)[c]} == int{second.pixel(y, x)[c]});
                REQUIRE(int{whole.pixel(y + 26, x)[c]} == int{first.pixel(y, x)[c]});
                REQUIRE(int{whole.pixel(y + 26, x + 26)[c]} == beyond);
            }
        }
    }
}

TEST_CASE("a mosaic is one animation") {
    const Workshop shop;
    for (const char* name : {"out.gif", "out.webp"}) {
        const Outcome outcome =
            nca_tool({"grow", shop.model, shop.model, "-o", shop / name, "--steps", "6"});
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        REQUIRE(contains(outcome.out, "7 frames of 96x200 pixels"));
    }
    REQUIRE(read_file(shop / "out.gif").substr(0, 10) == std::string("GIF89a\xc8\0\x60\0", 10));
}

namespace {

// What grow writes as out.png.
nca::Image grown_picture(const Workshop& shop, const Words& words) {
    const Outcome outcome = nca_tool(Words{"grow", "-o", shop / "out.png"} + words);
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    return nca::load_image(shop / "out.png");
}

std::vector<int> colour_of(const nca::Image& image, int y, int x) {
    return {image.pixel(y, x), image.pixel(y, x) + 4};
}

}  // namespace

TEST_CASE("a cell is a square of pixels of one colour") {
    const Workshop shop;
    const Words words = {shop.model, "--steps", "6"};
    const nca::Image small = grown_picture(shop, words + Words{"--scale", "1"});
    const nca::Image large = grown_picture(shop, words + Words{"--scale", "5"});
    REQUIRE(large.height == 5 * small.height);
    REQUIRE(large.width == 5 * small.width);
    for (int y = 0; y < large.height; ++y) {
        for (int x = 0; x < large.width; ++x) {
            REQUIRE(colour_of(large, y, x) == colour_of(small, y / 5, x / 5));
        }
    }
}

TEST_CASE("the hidden channels are four in a row, blue, white and red") {
    const Workshop shop;
    const std::string model = shop / "steady.safetensors";
    steady_model(0, -0.75F).save(model);  // of channel 9
    const std::vector<int> white = {255, 255, 255, 255};
    const auto grow = [&](const std::string& steps, const std::vector<int>& ninth,
                          const std::vector<int>& beside_ninth) {
        const nca::Image image =
            grown_picture(shop, {model, "--hidden", "--scale", "2", "--steps", steps});
        REQUIRE(image.height == 2 * (3 * 12 + 2));
        REQUIRE(image.width == 2 * (4 * 12 + 3));
        for (int y = 0; y < image.height; ++y) {
            for (int x = 0; x < image.width; ++x) {
                INFO(steps << " steps, pixel " << y << ", " << x);
                const int row = y / 2 % 13, column = x / 2 % 13;
                const int channel = 4 + y / 26 * 4 + x / 26;
                const bool start = row == 6 && column == 6;
                const bool beside = !start && row >= 5 && row <= 7 && column >= 5 && column <= 7;
                const std::vector<int> red = {217, 140, 149, 255};  // of 1
                const std::vector<int> grey = {211, 211, 211, 255};
                if (row == 12 || column == 12) {  // a gap
                    REQUIRE(colour_of(image, y, x) == grey);
                    continue;
                }
                REQUIRE(colour_of(image, y, x) == (channel == 9 ? start    ? ninth
                                                                  : beside ? beside_ninth
                                                                           : white
                                                   : start      ? red
                                                                : white));
            }
        }
    };
    grow("0", {217, 140, 149, 255}, white);                 // 1
    grow("1", {245, 226, 229, 255}, {172, 198, 224, 255});  // 0.25, -0.75
    grow("2", {200, 217, 234, 255}, {89, 140, 193, 255});   // -0.5, -1.5
    grow("3", {116, 159, 203, 255}, {33, 102, 172, 255});   // -1.25, -2.25
    const auto said = [&](const std::string& output, const std::string& steps) {
        const Outcome outcome =
            nca_tool({"grow", model, "--hidden", "-o", shop / output, "--steps", steps});
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        return outcome.out;
    };
    REQUIRE(contains(said("out.webp", "2"),
                     "out.webp: 2 steps, 3 frames of 114x153 pixels, hidden channels from -2 "
                     "(blue) to 2 (red)\n"));
    REQUIRE(contains(said("out.gif", "3"),
                     "out.gif: 3 steps, 4 frames of 114x153 pixels, hidden channels from -2 "
                     "(blue) to 2 (red), values reach 2.2\n"));
    // As the first frame of an animation.
    const nca::Image first = grown_picture(shop, {model, "--hidden", "--steps", "0"});
    REQUIRE((nca::load_image(shop / "out.gif").pixels == first.pixels));
}

TEST_CASE("alpha is grey, from 0 black to 1 white") {
    const Workshop shop;
    const std::string model = shop / "steady.safetensors";
    steady_model(0.25F, 0).save(model);
    const auto grey = [](int value) { return std::vector<int>{value, value, value, 255}; };
    const nca::Image image =
        grown_picture(shop, {model, "--alpha", "--scale", "1", "--steps", "2"});
    REQUIRE(image.height == 12);
    REQUIRE(image.width == 12);
    for (int y = 0; y < 12; ++y) {
        for (int x = 0; x < 12; ++x) {
            INFO(y << ", " << x);
            const int distance = std::max(std::abs(y - 6), std::abs(x - 6));
            const int expected[] = {255, 128, 64};  // of 1.5, 0.5 and 0.25
            REQUIRE(colour_of(image, y, x) == grey(distance <= 2 ? expected[distance] : 0));
        }
    }
    // Between the pictures of several models is the background.
    const nca::Image two = grown_picture(
        shop, {model, model, "--alpha", "--background", "#123", "--scale", "1", "--steps", "2"});
    REQUIRE(colour_of(two, 0, 11) == grey(0));
    REQUIRE(colour_of(two, 0, 12) == std::vector<int>{17, 34, 51, 255});
    REQUIRE(colour_of(two, 6, 19) == grey(255));
}

TEST_CASE("a background shines through a cell as its alpha says") {
    const Workshop shop;
    nca::Model model = steady_model(-0.5F, 0);
    model.weights.view().b2[0] = 0.25F;
    const std::string premultiplied = shop / "premultiplied.safetensors";
    const std::string straight = shop / "straight.safetensors";
    model.rule.premultiplied = true;
    model.save(premultiplied);
    model.rule.premultiplied = false;
    model.save(straight);
    // The start cell has alpha 0.5 and red 0.25 after a step, all others no alpha.
    const Words words = {"--steps", "1", "--scale", "1"};
    using Colour = std::vector<int>;
    const auto on = [&](const std::string& colour, const Colour& behind, const Colour& half) {
        const nca::Image image =
            grown_picture(shop, Words{premultiplied, "--background", colour} + words);
        for (int y = 0; y < 12; ++y) {
            for (int x = 0; x < 12; ++x) {
                REQUIRE(colour_of(image, y, x) == (y == 6 && x == 6 ? half : behind));
            }
        }
    };
    on("#3366ff", {51, 102, 255, 255}, {90, 51, 127, 255});
    on("36F", {51, 102, 255, 255}, {90, 51, 127, 255});
    on("black", {0, 0, 0, 255}, {64, 0, 0, 255});
    on("grey", {128, 128, 128, 255}, {128, 64, 64, 255});
    on("lightgrey", {211, 211, 211, 255}, {169, 105, 105, 255});
    on("red", {255, 0, 0, 255}, {191, 0, 0, 255});
    on("green", {0, 128, 0, 255}, {64, 64, 0, 255});
    on("blue", {0, 0, 255, 255}, {64, 0, 127, 255});
    on("yellow", {255, 255, 0, 255}, {191, 127, 0, 255});
    on("white", {255, 255, 255, 255}, {191, 127, 127, 255});
    const nca::Image on_blue =
        grown_picture(shop, Words{straight, "--background", "3366ff"} + words);
    REQUIRE(colour_of(on_blue, 6, 6) == Colour{58, 51, 127, 255});
    // White is the background without the option.
    for (const char* white : {"white", "#fff", "FFFFFF"}) {
        grown_picture(shop, Words{straight} + words);
        const std::string usual = read_file(shop / "out.png");
        grown_picture(shop, Words{straight, "--background", white} + words);
        REQUIRE((read_file(shop / "out.png") == usual));
    }
    const nca::Image usual = grown_picture(shop, Words{straight, straight} + words);
    const nca::Image clear =
        grown_picture(shop, Words{straight, straight, "--transparent"} + words);
    REQUIRE((nca::on_white(clear).pixels == usual.pixels));
}

TEST_CASE("the squares of a checker have 8 pixels at any scale, and go on between pictures") {
    const Workshop shop;
    nca::Model model = steady_model(-0.5F, 0);
    model.weights.view().b2[0] = 0.25F;
    const std::string path = shop / "half.safetensors";
    model.save(path);
    for (const int scale : {1, 3, 8}) {
        const nca::Image image =
            grown_picture(shop, {path, path, "--background", "checker", "--steps", "1", "--seed-at",
                                 "5,6", "--scale", std::to_string(scale)});
        REQUIRE(image.height == 12 * scale);
        REQUIRE(image.width == 25 * scale);
        for (int y = 0; y < image.height; ++y) {
            for (int x = 0; x < image.width; ++x) {
                INFO(scale << ": " << y << ", " << x);
                const bool light = (y / 8 + x / 8) % 2 == 0;
                const bool half = y / scale == 6 && x / scale % 13 == 5;
                const int red = half ? (light ? 191 : 166) : (light ? 255 : 204);
                const int blue = half ? (light ? 127 : 102) : (light ? 255 : 204);
                REQUIRE(colour_of(image, y, x) == std::vector<int>{red, blue, blue, 255});
            }
        }
    }
}

TEST_CASE("a strip is frames side by side, a row for each model") {
    const Workshop shop;
    const std::string other = shop / "other.safetensors";
    nca::Model steady = steady_model(0.125F, -0.25F);
    steady.weights.view().b2[1] = 0.1F;
    steady.save(other);
    struct Strip {
        Words look;
        std::string steps;
        std::vector<int> at;
        std::vector<int> behind;
    };
    // 5 / 2 is rounded up, 7 / 3 down and 14 / 3 up.
    const Strip strips[] = {
        {{}, "7", {0, 2, 5, 7}, {255, 255, 255, 255}},
        {{"--transparent"}, "5", {0, 3, 5}, {0, 0, 0, 0}},
        {{"--background", "#123"}, "2", {0, 1, 2}, {17, 34, 51, 255}},
        {{"--hidden"}, "7", {0, 2, 5, 7}, {211, 211, 211, 255}},
        {{"--alpha"}, "5", {0, 3, 5}, {255, 255, 255, 255}},
    };
    const Words models = GENERATE(1, 2) == 1 ? Words{other} : Words{other, shop.model};
    for (const auto& [look, steps, at, behind] : strips) {
        const Words options = look + Words{"--scale", "2", "--seed", "3"};
        const Words damage = {"--damage", "2:circle,6,5,1"};
        const nca::Image strip =
            grown_picture(shop, models + options + damage +
                                    Words{"--steps", steps, "--strip", std::to_string(at.size())});
        const bool hidden = look == Words{"--hidden"};
        const int height = 2 * (hidden ? 38 : 12), width = 2 * (hidden ? 51 : 12);
        const int gap = hidden ? 4 : 2;
        REQUIRE(strip.height == int(models.size()) * (height + gap) - gap);
        REQUIRE(strip.width == int(at.size()) * (width + gap) - gap);
        for (std::size_t row = 0; row < models.size(); ++row) {
            nca::Image before;
            for (std::size_t column = 0; column < at.size(); ++column) {
                INFO("row " << row << ", column " << column);
                const nca::Image frame = grown_picture(
                    shop, Words{models[row]} + options + (at[column] < 2 ? Words{} : damage) +
                              Words{"--steps", std::to_string(at[column])});
                REQUIRE(frame.height == height);
                REQUIRE(frame.width == width);
                const int top = int(row) * (height + gap), left = int(column) * (width + gap);
                for (int y = 0; y < height; ++y) {
                    REQUIRE(std::equal(frame.pixel(y, 0), frame.pixel(y, 0) + 4 * width,
                                       strip.pixel(top + y, left)));
                }
                if (row == 0) REQUIRE((frame.pixels != before.pixels));
                before = frame;
            }
        }
        for (int y = 0; y < strip.height; ++y) {
            for (int x = width; x < width + gap; ++x) REQUIRE(colour_of(strip, y, x) == behind);
        }
    }
}

TEST_CASE("the line of a strip says what it is, and the state is the last") {
    const Workshop shop;
    const Outcome outcome =
        nca_tool({"grow", shop.model, "-o", shop / "out.PNG", "--steps", "98", "--strip", "8",
                  "--scale", "1", "--state-out", shop / "state.npy"});
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    REQUIRE(contains(outcome.out, "out.PNG: 98 steps, a strip of 8 frames of 12x103 pixels\n"));
    REQUIRE(nca_tool({"grow", shop.model, "-o", shop / "one.png", "--steps", "98", "--state-out",
                      shop / "one.npy"})
                .code == 0);
    REQUIRE((read_file(shop / "state.npy") == read_file(shop / "one.npy")));
}

TEST_CASE("the last state is a frame, whatever --every says") {
    const Workshop shop;
    for (const std::string name : {"out.gif", "out.webp", "out_%d.png"}) {
        for (const auto& [every, frames] :
             {std::pair{"1", "8"}, {"3", "4"}, {"7", "2"}, {"99", "2"}}) {
            const Outcome outcome = nca_tool({"grow", shop.model, "-o", shop / name, "--scale", "1",
                                              "--steps", "7", "--every", every});
            INFO(outcome.err);
            REQUIRE(contains(outcome.out, name + ": 7 steps, " + frames + " frames of 12x12"));
        }
    }
}

TEST_CASE("a model that asks for a grid of much memory needs the user's word") {
    const Workshop shop;
    nca::Model model = nca::Model::load(shop.model);
    const auto grown = [&](int height, int width, const Words& more) {
        model.history.height = height;
        model.history.width = width;
        model.save(shop.model);
        return nca_tool(Words{"grow", shop.model, "-o", shop / "new.png", "--steps", "1"} + more);
    };
    for (const auto& [height, width] : {std::pair{4096, 4096}, {1600, 1600}, {1, 4096}}) {
        const Outcome outcome = grown(height, width, {"--scale", "1"});
        if (height == 1) {  // little memory
            REQUIRE(outcome.code == 0);
            continue;
        }
        require_message(outcome,
                        {"grid of " + std::to_string(height), "model.safetensors", "MB", "--size"});
        REQUIRE(outcome.code == 2);
        REQUIRE_FALSE(std::filesystem::exists(shop / "new.png"));
    }
    REQUIRE(grown(4096, 4096, {"--scale", "1", "--size", "1600x1600"}).code == 0);
    REQUIRE(grown(500, 500, {}).code == 0);
}

TEST_CASE("a state that is not finite ends grow with a message and without a picture") {
    const Workshop shop;
    // Infinite in a hidden channel after the fourth step. The second one dies in the fifth, and is
    // finite again then: all zero.
    steady_model(0, 1e38F).save(shop / "lasting.safetensors");
    steady_model(-0.2F, 1e38F).save(shop / "passing.safetensors");
    for (const char* name : {"old.gif", "old.webp", "old.png", "old_0.png", "old_3.png"}) {
        nca::save_png(shop / name, disc_picture());
    }
    REQUIRE(nca_tool({"grow", shop.model, "-o", shop / "old.gif", "--steps", "0", "--state-out",
                      shop / "old.npy"})
                .code == 0);
    const auto before = shop.contents();
    for (const std::string& model : {shop / "lasting.safetensors", shop / "passing.safetensors"}) {
        for (const Words& more :
             {Words{"old.gif"}, Words{"old.webp"}, Words{"old.png"}, Words{"old_%d.png"},
              Words{"new.gif"}, Words{"new_%d.png"}, Words{"new.png", "--every", "100"},
              Words{"new.gif", "--every", "100"}, Words{"new.png", "--compare", shop.target},
              Words{"new.png", "--state-out", shop / "old.npy"},
              Words{"new.gif", "--state-out", shop / "new.npy"}}) {
            INFO(model << " " << more[0]);
            Words words = more;
            words[0] = shop / more[0];
            const Outcome outcome = nca_tool(Words{"grow", model, "--steps", "100", "-o"} + words);
            INFO(outcome.err);
            REQUIRE(outcome.code == 1);
            REQUIRE(outcome.out.empty());
            REQUIRE(contains(outcome.err,
                             "nca: " + model + ": after step 4 of 100 the state is not finite"));
            for (const char* part : {"no picture was written", "with another rule"}) {
                REQUIRE(contains(outcome.err, part));
            }
            REQUIRE_FALSE(contains(outcome.err, "--rule"));  // a file with a rule takes no other
            REQUIRE(shop.contents() == before);
        }
    }
    // Of several models the one is named.
    const Outcome mosaic = nca_tool({"grow", shop.model, shop / "lasting.safetensors", "-o",
                                     shop / "old.gif", "--steps", "20"});
    REQUIRE(mosaic.code == 1);
    REQUIRE(contains(mosaic.err, "lasting.safetensors: after step 4 of 20"));
    REQUIRE(shop.contents() == before);
    // Before the fourth step there is a picture.
    REQUIRE(nca_tool({"grow", shop / "lasting.safetensors", "-o", shop / "old.gif", "--steps", "3"})
                .code == 0);
}

TEST_CASE("values that no trained automaton has are said") {
    const Workshop shop;
    const std::string model = shop / "strong.safetensors";
    steady_model(0, 30).save(model);  // 90 in a hidden channel after the third step
    const auto said = [&](const std::string& steps) {
        const Outcome outcome = nca_tool({"grow", model, "-o", shop / "out.png", "--steps", steps});
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        return contains(outcome.err, model + ": after step " + steps + " values reach 1.2e+02");
    };
    REQUIRE_FALSE(said("3"));
    REQUIRE(said("4"));
}

TEST_CASE("a grid that has died is said with the step, and its picture is written") {
    const Workshop shop;
    const std::string dying = shop / "dying.safetensors", living = shop / "living.safetensors";
    steady_model(-0.25F, 0).save(dying);  // alpha is 0 after the fourth step
    steady_model(0, 0).save(living);
    const auto grow = [&](const Words& words) {
        const Outcome outcome = nca_tool(Words{"grow"} + words);
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        return outcome.err;
    };
    const auto count = [](const std::string& text, const std::string& part) {
        int found = 0;
        for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++found;
        return found;
    };
    for (const std::string& output : {shop / "new.gif", shop / "new.png", shop / "new_%02d.png"}) {
        const Words words = {dying, "-o", output};
        const auto dead_after = [&](const std::string& step, const Words& more) {
            const std::string said = grow(words + more);
            INFO(said);
            REQUIRE(count(said, "dead") == 1);
            REQUIRE(contains(said, "nca: " + dying + ": all cells were dead after step " + step));
            REQUIRE(contains(said, more.size() > 4 ? "take less --damage" : "take fewer --steps"));
        };
        REQUIRE(count(grow(words + Words{"--steps", "3"}), "dead") == 0);
        dead_after("4 of 4:", {"--steps", "4"});
        dead_after("4 of 100:", {"--steps", "100"});
        // It is looked at after each hundredth of the steps, however few pictures there are.
        dead_after("10 of 1000:", {"--steps", "1000"});
        dead_after("10 of 1000:", {"--steps", "1000", "--every", "500"});
        dead_after("3 of 8:",
                   {"--steps", "8", "--damage", "3:half,left", "--damage", "3:half,right"});
    }
    REQUIRE(std::filesystem::exists(shop / "new_02.png"));
    // Of several models each that has died is named.
    const std::string two =
        grow({living, dying, shop.model, dying, "-o", shop / "new.png", "--steps", "9"});
    INFO(two);
    REQUIRE(count(two, dying + ": all cells were dead after step 4 of 9") == 2);
    REQUIRE(count(two, "dead") == 2);
    // What the user has killed is dead, too.
    const std::string killed =
        grow({living, "-o", shop / "new.png", "--steps", "9", "--damage", "0:circle,6,6,0"});
    REQUIRE(contains(killed, living + ": all cells were dead after step 0 of 9"));
    REQUIRE(contains(killed, "less --damage"));
}

TEST_CASE("numbered pictures are the frames, each as it is after so many steps") {
    const Workshop shop;
    const Words models = GENERATE(0, 1) == 0 ? Words{shop.model} : Words{shop.model, shop.model};
    const Words look = GENERATE(0, 1) == 0 ? Words{} : Words{"--transparent"};
    const Words words = Words{"grow"} + models + look + Words{"--seed", "3", "--scale", "2"};
    write_file(shop / "f_0002.png", "");                 // is replaced, because it is empty
    nca::save_png(shop / "f_0003.png", disc_picture());  // and this one because it is a picture
    const Outcome outcome =
        nca_tool(words + Words{"-o", shop / "f_%04d.png", "--steps", "7", "--every", "3"});
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    REQUIRE(contains(outcome.out, "f_%04d.png: 7 steps, 4 frames of 24x"));
    REQUIRE(shop.contents().size() == 2 + 4);
    const std::pair<const char*, const char*> frames[] = {
        {"f_0000.png", "0"}, {"f_0001.png", "3"}, {"f_0002.png", "6"}, {"f_0003.png", "7"}};
    for (const auto& [name, steps] : frames) {
        INFO(name);
        REQUIRE(nca_tool(words + Words{"-o", shop / "one.png", "--steps", steps}).code == 0);
        REQUIRE((read_file(shop / name) == read_file(shop / "one.png")));
    }
    REQUIRE((read_file(shop / "f_0000.png") != read_file(shop / "f_0003.png")));
}

TEST_CASE("a name has %d once, or %03d, and %% for a per cent sign") {
    const Workshop shop;
    const auto before = shop.contents();
    const std::vector<std::pair<std::string, std::string>> wrong = {
        {"f_%s.png", "%0Nd"},  {"f_%d_%d.png", "%0Nd"},    {"f_%3d.png", "%0Nd"},
        {"f_%0d.png", "%0Nd"}, {"f_%012d.png", "%0Nd"},    {"f_%-3d.png", "%0Nd"},
        {"f_%i.png", "%0Nd"},  {"f_%.png", "%0Nd"},        {"f.png%", "%0Nd"},
        {"f_%%%.png", "%0Nd"}, {"f_%D.png", "%0Nd"},       {"50%.gif", "%%"},
        {"f_%d.gif", ".png"},  {"f_%02d.webp", ".png"},    {"f_%d", ".png"},
        {"f_%d.apng", ".png"}, {"f.apng", ".gif or .webp"}};
    for (const auto& [name, named] : wrong) {
        const Outcome outcome = nca_tool({"grow", shop.model, "-o", shop / name});
        require_message(outcome, {name, named});
        REQUIRE(outcome.code == 2);
        REQUIRE(shop.contents() == before);
    }
    for (const Words& words : {Words{"--compare", shop.target}, Words{"--steps", "100000"},
                               Words{"--state-out", shop / "f_5.png"}}) {
        const Outcome outcome =
            nca_tool(Words{"grow", shop.model, "-o", shop / "f_%d.png", "--every", "1"} + words);
        require_message(outcome, {words[0]});
        REQUIRE(outcome.code == 2);
        REQUIRE(shop.contents() == before);
    }
    // A frame must not replace what is read.
    std::filesystem::rename(shop.model, shop / "f_5.png");
    require_message(nca_tool({"grow", shop / "f_5.png", "-o", shop / "f_%d.png"}), {"same file"});
    REQUIRE(nca_tool({"grow", shop / "f_5.png", "-o", shop / "f_%d.png", "--steps", "4"}).code ==
            0);
    std::filesystem::rename(shop / "f_5.png", shop.model);
    // Only the file's name is a pattern, not its folder's.
    std::filesystem::create_directory(shop / "a%s%d");
    for (const auto& [name, file] : {std::pair("50%%.png", "50%.png"),
                                     {"%%%d.png", "%0.png"},
                                     {"%09d%%d.png", "000000000%d.png"},
                                     {"a%s%d/b%d.png", "a%s%d/b1.png"}}) {
        const Outcome outcome = nca_tool({"grow", shop.model, "-o", shop / name, "--steps", "1"});
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        REQUIRE(std::filesystem::exists(shop / file));
    }
}

TEST_CASE("a model of a small target is compared with each pixel in its cell") {
    const Workshop shop;
    nca::Image picture = disc_picture();
    for (std::size_t i = 3; i < picture.pixels.size(); i += 4) picture.pixels[i] = 255;
    const nca::Image frames[] = {picture, disc_picture()};
    nca::save_gif(shop.target, frames, 10);
    REQUIRE(nca_tool({"train", shop.target, "-o", shop.model, "--overwrite", "--iterations", "1",
                      "--padding", "3", "--batch", "2", "--steps", "2:3", "--quiet"})
                .code == 0);
    const Outcome outcome = nca_tool({"grow", shop.model, "-o", shop / "out.png", "--compare",
                                      shop.target, "--scale", "1", "--steps", "1"});
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    REQUIRE(contains(outcome.err, "nca: " + shop.target + ": an animation, its first frame"));
    const nca::Image compared = nca::load_image(shop / "out.png");
    for (int y = 0; y < 12; ++y) {
        for (int x = 0; x < 10; ++x) {
            for (int c = 0; c < 4; ++c) {
                REQUIRE(int{compared.pixel(y + 3, x + 4)[c]} == int{picture.pixel(y, x)[c]});
            }
        }
    }
}
