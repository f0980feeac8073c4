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
