// SPDX-License-Identifier: MIT
// nca: help, mistakes on the command line, and files that are not what they should be.
#include <nca/image.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/tool.hpp"

#include <nca/model.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

using namespace nca::test;

namespace {

// The start of a PNG file that claims to be 20,000 pixels high and wide.
std::string huge_picture() {
    const std::string big_endian("\0\0\x4e\x20", 4);
    return "\x89PNG\r\n\x1a\n" + std::string("\0\0\0\x0d", 4) + "IHDR" + big_endian + big_endian +
           std::string("\x08\x06\0\0\0", 5) + std::string("\x2c\x4a\x4b\xb6", 4) +
           std::string("\0\0\0\0", 4) + "IDAT" + std::string("\x35\xaf\x06\x1e", 4);
}

}  // namespace

TEST_CASE("version and help succeed and every help ends with an example") {
    REQUIRE(nca_tool({"--version"}).out.starts_with("nca "));
    for (const char* command : {"", "train", "grow", "gradcheck", "info", "convert"}) {
        const Outcome outcome =
            nca_tool(*command == '\0' ? Words{"--help"} : Words{command, "--help"});
        INFO(outcome.out);
        REQUIRE(outcome.code == 0);
        REQUIRE(contains(outcome.out, "Example:"));
        REQUIRE(outcome.err.empty());
    }
}

TEST_CASE("help names the precisions and the one that is taken") {
    for (const char* command : {"train", "grow", "gradcheck", "info"}) {
        std::string help = nca_tool({command, "--help"}).out;
        std::replace(help.begin(), help.end(), '\n', ' ');
        help.erase(std::unique(help.begin(), help.end(),
                               [](char a, char b) { return a == ' ' && b == ' '; }),
                   help.end());
        INFO(help);
        REQUIRE(contains(help,
                         "exact, precise or fast (precise where the device runs rollouts in "
                         "bands, exact elsewhere)"));
    }
}

TEST_CASE("a mistake on the command line is one line and exit code 2, and writes nothing") {
    const Workshop shop;
    std::filesystem::create_symlink("model.safetensors", shop / "link.json");
    struct Mistake {
        Words words;
        Words named;
    };
    const Words train = {"train", shop.target, "-o", shop / "new.safetensors"};
    const Words grow = {"grow", shop.model, "-o", shop / "new.gif"};
    const Words png = {"grow", shop.model, "-o", shop / "new.png"};
    const Words two = {"grow", shop.model, shop.model, "-o", shop / "new.png"};
    const std::vector<Mistake> mistakes = {
        {{}, {"--help"}},
        {{"frobnicate"}, {"frobnicate", "train", "convert"}},
        {{"train"}, {"TARGET"}},
        {{"train", shop.target, shop.target, "-o", shop / "new"},
         {"target.png", "both become", "target.safetensors"}},
        {{"train", shop.target, shop / "a/target.png", "-o", shop / "new"},
         {"a/target.png", "both become", "target.safetensors"}},
        {{"train", shop.target, shop / "target.csv", "-o", shop / "new", "--log", shop / "."},
         {"target.csv", "both become"}},
        {{"train", shop.target, shop / "a.png", "-o", shop / "new", "--resume", shop / "b",
          "--checkpoint", shop / "c"},
         {"--resume", "--checkpoint", "name one"}},
        {{"train", shop / "a.png", shop / "a/target.png", "-o", shop / "new", "--pictures",
          shop / "."},
         {"a/target.png", "--pictures", "TARGET", "same file"}},
        {{"train", shop.target, shop / "a.png", "-o", shop / "new", "--preset", "fast"},
         {"fast", "growing"}},
        {{"train", shop.target}, {"--output"}},
        {train + Words{"--frobnicate"}, {"--frobnicate"}},
        {train + Words{"--report"}, {"--report"}},
        {train + Words{"--pictures"}, {"--pictures"}},
        {train + Words{"--report", shop / "new.safetensors"}, {"--report", "same file"}},
        {train + Words{"--report", shop.target}, {"--report", "same file"}},
        {train + Words{"--report", shop / "a", "--log", shop / "a"}, {"--report", "same file"}},
        {train + Words{"--report", shop / "a", "--resume", shop / "a"}, {"--report", "same file"}},
        {train + Words{"--pictures", shop / "."}, {"--pictures", "TARGET", "same file"}},
        {{"train", shop / "eye.png", "-o", shop / "pool.png", "--pictures", shop / "."},
         {"--pictures", "MODEL", "same file"}},
        {train + Words{"--preset", "fast"}, {"fast", "growing", "notebook"}},
        {train + Words{"--preset", "Persistent"}, {"persistent", "regenerating"}},
        {train + Words{"--pool", "7"}, {"pool is 7", "batch", "8"}},
        {train + Words{"--pool", "-1"}, {"--pool", "-1"}},
        {train + Words{"--pool", "99999999"}, {"--pool", "65536"}},
        {train + Words{"--preset", "persistent", "--batch", "2000"}, {"pool is 1024", "2000"}},
        {train + Words{"--damage", "3"}, {"damage is 3", "no pool"}},
        {train + Words{"--pool", "8", "--damage", "8"}, {"damage is 8", "less than the batch"}},
        {train + Words{"--damage", "-1"}, {"--damage", "-1"}},
        {train + Words{"--damage-radius", "0.1"}, {"--damage-radius", "0.1:0.4"}},
        {train + Words{"--damage-radius", ""}, {"--damage-radius", "0.1:0.4"}},
        {train + Words{"--damage-radius", "0.4:0.1"}, {"smallest radius", "0.4"}},
        {train + Words{"--damage-radius", "nan:0.1"}, {"smallest radius", "nan"}},
        {train + Words{"--damage-radius", "0.1:9"}, {"largest radius", "9"}},
        {train + Words{"--damage-centre", "2"}, {"--damage-centre", "2"}},
        {train + Words{"--damage-centre", "nan"}, {"--damage-centre", "nan"}},
        {train + Words{"--warmup", "-1"}, {"--warmup", "-1"}},
        {train + Words{"--warmup", "soon"}, {"--warmup", "soon"}},
        {train + Words{"--betas", "0.9"}, {"--betas", "0.9:0.999"}},
        {train + Words{"--betas", "0.9:1"}, {"beta2", "1"}},
        {train + Words{"--betas", "nan:0.9"}, {"beta1", "nan"}},
        {train + Words{"--steps", "96:64"}, {"--steps", "96:64"}},
        {train + Words{"--steps", "64:64"}, {"--steps", "64:64"}},
        {train + Words{"--steps", "0:64"}, {"--steps", "0:64"}},
        {train + Words{"--steps", "64"}, {"--steps", "64:96"}},
        {train + Words{"--steps", "a:b"}, {"--steps", "a:b"}},
        {train + Words{"--steps", ""}, {"--steps"}},
        {train + Words{"--loss-steps", "96:64"}, {"--loss-steps", "96:64", "A"}},
        {train + Words{"--loss-steps", "first"}, {"--loss-steps", "last|A:B", "48:96"}},
        {train + Words{"--loss-steps", "0:64"}, {"--loss-steps 0:64", "1 or more, or last"}},
        {train + Words{"--sobel-scale", "3e38"}, {"--sobel-scale 3e+38", "finite"}},
        {train + Words{"--loss-steps", "70:96"}, {"--loss-steps", "loss is 70", "1 to 64"}},
        {train + Words{"--loss-steps", "48:97"}, {"--loss-steps", "loss is 97", "49 to 96"}},
        {train + Words{"--batch", "0"}, {"--batch", "0"}},
        {train + Words{"--batch", "many"}, {"--batch", "many"}},
        {train + Words{"--batch", "99999999999999999999"}, {"--batch"}},
        {train + Words{"--size", "-1"}, {"--size", "-1"}},
        {train + Words{"--padding", "-1"}, {"--padding", "-1"}},
        {train + Words{"--seed-at", "5"}, {"--seed-at 5", "X,Y"}},
        {train + Words{"--seed-at", "5,x"}, {"--seed-at 5,x", "X,Y"}},
        {train + Words{"--seed-at", "72,0"},
         {"--seed-at 72,0", "outside", "72x72", "X is in 0..71 and Y in 0..71"}},
        // The target has 12 rows, so the grid has 44.
        {train + Words{"--seed-at", "44,0"}, {"--seed-at 44,0", "X is in 0..43 and Y in 0..43"}},
        {train + Words{"--seed-at", "5,6", "--seed-at", "0,-1"}, {"--seed-at 0,-1", "outside"}},
        {train + Words{"--seed-at", "5,6", "--seed-at", "5,6"},
         {"--seed-at", "column 5 and row 6", "twice"}},
        {{"train", shop.target, shop / "eye.png", "-o", shop / "many", "--size", "8", "--padding",
          "2", "--seed-at", "0,12"},
         {"--seed-at 0,12", "outside", "12x12"}},
        {train + Words{"--iterations", "0"}, {"--iterations", "0"}},
        {train + Words{"--stop-at", "0"}, {"--stop-at", "got 0", "above 0"}},
        {train + Words{"--stop-at", "-1"}, {"--stop-at", "-1", "above 0"}},
        {train + Words{"--stop-at", "nan"}, {"--stop-at", "nan", "above 0"}},
        {train + Words{"--stop-at", "inf"}, {"--stop-at", "inf", "above 0"}},
        {train + Words{"--stop-at", "1e-999"}, {"--stop-at", "1e-999", "above 0"}},
        {train + Words{"--stop-at", "low"}, {"--stop-at", "low", "above 0"}},
        {train + Words{"--stop-at", ""}, {"--stop-at", "above 0"}},
        {train + Words{"--time", "10"}, {"--time 10:", "90s, 10m or 1h30m"}},
        {train + Words{"--time", "0s"}, {"--time 0s:", "from 1s to 8760h"}},
        {train + Words{"--time", ""}, {"--time", "90s, 10m or 1h30m"}},
        {train + Words{"--time", "8761h"}, {"--time 8761h:", "from 1s to 8760h"}},
        {train + Words{"--lr", "nan"}, {"--lr", "nan"}},
        {train + Words{"--lr", "-1"}, {"--lr", "-1"}},
        {train + Words{"--lr", "0"}, {"learning rate", "0"}},
        {train + Words{"--seed", "-1"}, {"--seed", "-1"}},
        {train + Words{"--threads", "-1"}, {"--threads", "-1"}},
        {train + Words{"--device", "toaster"}, {"toaster", "cpu"}},
        {train + Words{"--precision", "float16"},
         {"--precision", "float16", "exact, precise or fast"}},
        {train + Words{"--precision", ""}, {"--precision", "exact, precise or fast"}},
        {train + Words{"--precision", "half"}, {"--precision half", "is gone: use fast"}},
        {grow + Words{"--precision", "Half"}, {"Half", "exact, precise or fast"}},
        {train + Words{"--identity-filter", "0"}, {"--identity-filter", "notebook"}},
        {train + Words{"--every", "5"}, {"--every", "--checkpoint"}},
        {train + Words{"--checkpoint", shop / "new.safetensors"}, {"--checkpoint", "same file"}},
        {train + Words{"--log", shop.target}, {"--log", "same file"}},
        {{"train", shop.target, "-o", shop.target}, {"same file"}},
        {grow + Words{"--fire-rate", "2"}, {"--fire-rate", "2"}},
        {grow + Words{"--fire-rate", "nan"}, {"--fire-rate", "nan"}},
        {grow + Words{"--size", "-1"}, {"--size", "-1"}},
        {grow + Words{"--size", "0x5"}, {"--size", "0x5"}},
        {grow + Words{"--size", "5x5x5"}, {"--size", "5x5x5"}},
        {grow + Words{"--size", "99999x5"}, {"--size", "99999x5"}},
        {grow + Words{"--size", "4096x4096"}, {"--scale", "4096x4096"}},
        {grow + Words{"--size", "8x2049"}, {"--size 8x2049", "--scale 8", "16384"}},
        {{"grow", shop.model, "-o", shop / "new.webp", "--size", "256x8", "--scale", "64"},
         {"--size 256x8", "--scale 64", "16383"}},
        {{"grow", shop.model, "-o", shop / "new.png", "--size", "8x665", "--compare", shop.target},
         {"--size 8x665", "--scale 8", "comparison"}},
        {grow + Words{"--hidden", "--alpha"}, {"--hidden", "--alpha out"}},
        {grow + Words{"--hidden", "--transparent"}, {"--hidden", "--transparent out"}},
        {grow + Words{"--alpha", "--transparent"}, {"--alpha", "--transparent out"}},
        {grow + Words{"--background", "red", "--transparent"},
         {"--background", "--transparent out"}},
        {png + Words{"--compare", shop.target, "--transparent"},
         {"--compare", "--transparent out"}},
        {png + Words{"--compare", shop.target, "--background", "white"},
         {"--compare", "--background out"}},
        {png + Words{"--compare", shop.target, "--hidden"}, {"--compare", "--hidden out"}},
        {png + Words{"--compare", shop.target, "--alpha"}, {"--compare", "--alpha out"}},
        {png + Words{"--compare", shop.target, "--strip", "3"}, {"--compare", "--strip out"}},
        {grow + Words{"--background", ""}, {"--background", "checker", "#rrggbb", "lightgrey"}},
        {grow + Words{"--background", "#"}, {"--background #:", "#rrggbb"}},
        {grow + Words{"--background", "##fff"}, {"--background ##fff:"}},
        {grow + Words{"--background", "#ffff"}, {"--background #ffff:"}},
        {grow + Words{"--background", "12345"}, {"--background 12345:"}},
        {grow + Words{"--background", "#12345g"}, {"--background #12345g:"}},
        {grow + Words{"--background", "-12345"}, {"--background -12345:"}},
        {grow + Words{"--background", "0xffff"}, {"--background 0xffff:"}},
        {grow + Words{"--background", "1234567"}, {"--background 1234567:"}},
        {grow + Words{"--background", "purple"}, {"--background purple:", "yellow"}},
        {png + Words{"--strip", "1"}, {"--strip", "1", "2..100"}},
        {png + Words{"--strip", "101"}, {"--strip", "101", "2..100"}},
        {png + Words{"--strip", "x"}, {"--strip", "x"}},
        {png + Words{"--strip", "8", "--every", "5"}, {"--strip", "--every out"}},
        {png + Words{"--strip", "8", "--steps", "6"}, {"--strip 8", "--steps 6", "7 states"}},
        {png + Words{"--strip", "2", "--steps", "0"}, {"--strip 2", "--steps 0"}},
        {grow + Words{"--strip", "8"}, {"--strip", ".png", "new.gif"}},
        {{"grow", shop.model, "-o", shop / "new_%d.png", "--strip", "8"},
         {"--strip", "new_%d.png"}},
        {png + Words{"--strip", "100", "--scale", "64"},
         {"a strip of 100", "83136", "16384", "or --strip"}},
        {png + Words{"--strip", "2", "--size", "200x50", "--scale", "64", "--hidden"},
         {"a strip of 2", "38656", "--scale 64"}},
        {png + Words{"--strip", "3", "--size", "80x80", "--scale", "64"},
         {"4 pictures of 80x246 cells", "or --strip"}},
        {grow + Words{"--hidden", "--size", "8x513", "--scale", "8"},
         {"a mosaic of 12", "16920", "16384"}},
        {grow + Words{"--hidden", "--size", "72x72", "--scale", "8"},
         {"102 pictures of 222x297 cells", "--every"}},
        {grow + Words{"--steps", "-1"}, {"--steps", "-1"}},
        {grow + Words{"--steps", "10000000", "--every", "1"}, {"--every"}},
        {grow + Words{"--every", "0"}, {"--every", "0"}},
        {grow + Words{"--scale", "0"}, {"--scale", "0"}},
        {grow + Words{"--angle", "inf"}, {"--angle", "inf"}},
        {grow + Words{"--damage", "5"}, {"--damage", "5"}},
        {grow + Words{"--damage", "5:square,1"}, {"--damage", "5:square,1"}},
        {grow + Words{"--damage", ""}, {"--damage", "STEP:circle,X,Y,RADIUS"}},
        {grow + Words{"--damage", ":half,left"}, {"--damage", ":half,left"}},
        {grow + Words{"--damage", "5:half"}, {"--damage", "left|right|top|bottom"}},
        {grow + Words{"--damage", "5:half,middle"}, {"--damage", "left|right|top|bottom"}},
        {grow + Words{"--damage", "5:half,left,top"}, {"--damage", "5:half,left,top"}},
        {grow + Words{"--damage", "5:circle,1,2"}, {"--damage", "circle,X,Y,RADIUS"}},
        {grow + Words{"--damage", "5:circle,1,2,3,4"}, {"--damage", "circle,X,Y,RADIUS"}},
        {grow + Words{"--damage", "5:circle,1,2,-3"}, {"--damage", "5:circle,1,2,-3"}},
        {grow + Words{"--damage", "5:circle,1,2,nan"}, {"--damage", "nan"}},
        {grow + Words{"--damage", "-5:half,left"}, {"--damage", "-5"}},
        {grow + Words{"--damage", "500:half,left"}, {"--damage", "500", "200"}},
        {grow + Words{"--damage", "201:circle,1,2,3"}, {"--damage", "201", "200"}},
        {grow + Words{"--damage", "99999999999:half,left"}, {"--damage", "99999999999"}},
        {grow + Words{"--damage", "5:half,left", "--damage", "5:circle,30,3,2"},
         {"--damage 5:circle,30,3,2", "no cell", "12x12"}},
        {grow + Words{"--damage", "5:circle,3,-3,2.9"}, {"--damage 5:circle,3,-3,2.9", "no cell"}},
        {grow + Words{"--damage", "5:circle,0.5,0.5,0.7"}, {"5:circle,0.5,0.5,0.7", "no cell"}},
        {grow + Words{"--damage", "5:circle,1e300,0,1e299"}, {"--damage 5:circle", "no cell"}},
        {grow + Words{"--size", "9x7", "--damage", "5:circle,8,3,1"}, {"no cell", "X is in 0..6"}},
        {grow + Words{"--seed-at", ""}, {"--seed-at", "X,Y"}},
        {grow + Words{"--seed-at", "5"}, {"--seed-at 5", "X,Y"}},
        {grow + Words{"--seed-at", "5,"}, {"--seed-at 5,", "X,Y"}},
        {grow + Words{"--seed-at", "5,5,5"}, {"--seed-at 5,5,5", "X,Y"}},
        {grow + Words{"--seed-at", "1.5,2"}, {"--seed-at 1.5,2", "X,Y"}},
        {grow + Words{"--seed-at", "5x5"}, {"--seed-at 5x5", "X,Y"}},
        {grow + Words{"--seed-at", "99999999999,0"}, {"--seed-at 99999999999,0", "X,Y"}},
        {grow + Words{"--seed-at", "12,0"}, {"--seed-at 12,0", "outside", "12x12"}},
        {grow + Words{"--seed-at", "5,5", "--seed-at", "0,12"}, {"--seed-at 0,12", "outside"}},
        {grow + Words{"--seed-at", "-1,0"}, {"--seed-at -1,0", "outside"}},
        {grow + Words{"--size", "9x7", "--seed-at", "8,6"}, {"outside", "X is in 0..6"}},
        {grow + Words{"--compare", shop.target}, {"--compare", ".png"}},
        {{"grow", shop.model, "-o", shop / "new.png", "--compare", shop.target, "--seed-at", "5,5",
          "--seed-at", "5,6"},
         {"--compare", "--seed-at"}},
        {{"grow", shop.model, "-o", shop / "new.png", "--compare", shop.target, "--size", "5x5"},
         {"--compare", "a target of 8 cells", "5x5", "larger --size"}},
        {two + Words{"--compare", shop.target}, {"--compare", "one model", "2"}},
        {two + Words{"--state-out", shop / "state.npy"}, {"--state-out", "one model", "2"}},
        {two + Words{"--size", "8x1024"}, {"--size 8x1024", "--scale 8", "a mosaic of 2", "16384"}},
        {two + Words{shop.model, shop.model, shop.model, "--size", "4096x4096", "--scale", "1"},
         {"8362x12628 cells", "--size"}},
        {{"grow", shop.model, shop / "new.png", "-o", shop / "new.png"}, {"same file"}},
        {{"grow", shop.model, "-o", shop / "new.bmp"}, {"new.bmp", ".gif", ".png", ".webp"}},
        {{"grow", shop.model, "-o", shop / "new"}, {".gif", ".png", ".webp"}},
        {{"gradcheck", shop.model, shop.target, "--fire-rate", "2"}, {"--fire-rate", "2"}},
        {{"gradcheck", shop.model, shop.target, "--steps", "0"}, {"--steps", "0"}},
        {{"gradcheck", shop.model, shop.target, "--precision", "tf32"},
         {"tf32", "exact, precise or fast"}},
        {{"info"}, {"MODEL", "--device"}},
        {{"info", "--device", "toaster"}, {"toaster", "cpu"}},
        {{"info", "--device", "cpu", "--precision", "tf32"}, {"tf32", "precise"}},
        {{"info", shop.model, "--precision", "fast"}, {"--precision", "--device"}},
        {{"info", shop.model, "another"}, {"another"}},
        {{"convert"}, {"IN", "convert --help"}},
        {{"convert", shop.model}, {"OUT"}},
        {{"convert", shop.model, shop / "new.json", "another"}, {"another"}},
        {{"convert", shop.model, shop / "new"}, {"OUT", "/new:", ".safetensors", ".json"}},
        {{"convert", shop.model, shop / "new.safetensors", "--edges", "zero"},
         {"model.safetensors", "rule of its own", "--input-order"}},
        {{"info", shop.model, "--rule", "wrong"}, {"--rule wrong", "notebook, growing, demo"}},
        {{"info", shop.model, "--input-order", "x"}, {"--input-order x", "channel or filter"}},
        {{"info", shop.model, "--edges", "round"}, {"--edges round", "circular or zero"}},
        {{"info", shop.model, "--life", "1"}, {"--life 1", "post or pre_and_post"}},
        {{"info", shop.model, "--start-cell", "1"}, {"--start-cell 1", "alpha_and_hidden"}},
        {{"info", shop.model, "--premultiplied", "1"}, {"--premultiplied 1", "no or yes"}},
        {{"info", shop.model, "--sobel-scale", "nan"}, {"--sobel-scale", "nan"}},
        {{"info", shop.model, "--step-size", "1e99"}, {"--step-size", "1e99"}},
        {{"convert", shop.model, shop / "link.json"}, {"same file"}},
    };
    const auto before = shop.contents();
    for (const Mistake& mistake : mistakes) {
        const Outcome outcome = nca_tool(mistake.words);
        std::string line;
        for (const std::string& word : mistake.words) {
            line += word + " ";
        }
        INFO(line);
        require_message(outcome, mistake.named);
        REQUIRE(outcome.code == 2);
        REQUIRE(outcome.out.empty());
        REQUIRE(shop.contents() == before);
    }
}

TEST_CASE("a bad image is one line and exit code 1, and writes nothing") {
    const Workshop shop;
    nca::Image clear = disc_picture();
    std::fill(clear.pixels.begin(), clear.pixels.end(), std::uint8_t{0});
    const std::string good = read_file(shop.target);
    write_file(shop / "empty.png", "");
    write_file(shop / "truncated.png", good.substr(0, good.size() / 2));
    write_file(shop / "text.png", "This is not a picture.\n");
    write_file(shop / "1x1.tga", opaque_picture(1));
    write_file(shop / "huge.png", huge_picture());
    nca::save_png(shop / "clear.png", clear);
    const auto before = shop.contents();
    for (const char* name : {"missing.png", "empty.png", "truncated.png", "text.png", "1x1.tga",
                             "huge.png", "clear.png", "."}) {
        const std::string path = shop / name;
        for (const Words& words :
             {Words{"train", path, "-o", shop / "new.safetensors", "--iterations", "1"},
              Words{"gradcheck", shop.model, path, "--out", shop / "new.safetensors"},
              Words{"grow", shop.model, "-o", shop / "new.png", "--compare", path}}) {
            INFO(words[0] << " " << path);
            const Outcome outcome = nca_tool(words);
            require_message(outcome, {name});
            REQUIRE(outcome.code == 1);
            REQUIRE(shop.contents() == before);
        }
    }
    require_message(nca_tool({"train", shop / "huge.png", "-o", shop / "new.safetensors"}),
                    {"huge.png", "8192"});
}

TEST_CASE("a bad model is one line and exit code 1, and writes nothing") {
    const Workshop shop;
    const std::string good = read_file(shop.model);
    std::string endless = good;
    endless.replace(0, 8, std::string("\0\0\0\0\0\0\0\x80", 8));
    write_file(shop / "empty", "");
    write_file(shop / "truncated", good.substr(0, good.size() - 100));
    write_file(shop / "short", good.substr(0, 20));
    write_file(shop / "text", "This is not a model, but it is more than eight bytes long.\n");
    write_file(shop / "length_2_63", endless);
    write_file(shop / "overlapping", model_file("[24576,25088]", "[24572,25084]"));
    write_file(shop / "out_of_range", model_file("[25088,33280]", "[25088,33284]"));
    write_file(shop / "far_out", model_file("[25088,33280]", "[25088,18446744073709551615]"));
    write_file(shop / "shape", model_file("[128,48,1,1]", "[48,128,1,1]"));
    write_file(shop / "missing_tensor", model_file("[16,128,1,1]", "[8,256,1,1]"));
    write_file(shop / "type", model_file("F32", "F16"));
    write_file(shop / "nan", model_with_nan());
    const auto before = shop.contents();
    for (const char* name :
         {"missing", "empty", "truncated", "short", "text", "length_2_63", "overlapping",
          "out_of_range", "far_out", "shape", "missing_tensor", "type", "nan", "."}) {
        const std::string path = shop / name;
        for (const Words& words : {Words{"info", path}, Words{"grow", path, "-o", shop / "new.gif"},
                                   Words{"grow", shop.model, path, "-o", shop / "new.gif"},
                                   Words{"gradcheck", path, shop.target}}) {
            INFO(words[0] << " " << path);
            const Outcome outcome = nca_tool(words);
            require_message(outcome, {name});
            REQUIRE(outcome.code == 1);
            REQUIRE(outcome.out.empty());
            REQUIRE(shop.contents() == before);
        }
    }
}

TEST_CASE("a file that PyTorch wrote is taken for the notebook's automaton, and that is said") {
    const Workshop shop;
    write_file(shop / "pytorch", model_file());
    const Outcome info = nca_tool({"info", shop / "pytorch"});
    REQUIRE(info.code == 0);
    REQUIRE(contains(info.out, "notebook"));
    const Outcome grow =
        nca_tool({"grow", shop / "pytorch", "-o", shop / "new.png", "--steps", "2"});
    REQUIRE(grow.code == 0);
    REQUIRE(contains(grow.err, "notebook"));
}

TEST_CASE("a message about a very long word is one line of less than 400 characters") {
    const Workshop shop;
    const std::string word(100000, 'x');
    const std::string wide = [] {
        std::string text;
        for (int i = 0; i < 30000; ++i) text += "é";
        return text;
    }();
    const Words train = {"train", shop.target, "-o", shop / "new.safetensors"};
    for (const std::string& text : {word, wide}) {
        for (const Words& words :
             {Words{text},
              Words{"--" + text},
              train + Words{text},
              train + Words{"--" + text},
              train + Words{"--batch", text},
              train + Words{"--preset", text},
              train + Words{"--device", text},
              train + Words{"--precision", text},
              train + Words{"--steps", text},
              train + Words{"--log", text},
              train + Words{"--report", text},
              Words{"train", text, "-o", shop / "new.safetensors"},
              Words{"train", shop.target, "-o", text},
              Words{"info", text},
              Words{"convert", text, text},
              Words{"grow", shop.model, "-o", text},
              Words{"grow", shop.model, "-o", text + ".png"},
              Words{"grow", shop.model, "-o", shop / "a.png", "--size", text},
              Words{"grow", shop.model, "-o", shop / "a.png", "--damage", text},
              Words{"grow", shop.model, "-o", shop / "a.png", "--seed-at", text}}) {
            const Outcome outcome = nca_tool(words);
            require_message(outcome, {});
            REQUIRE(outcome.code > 0);
            REQUIRE(outcome.err.size() <= std::string("nca: \n").size() + 399);
        }
    }
}

TEST_CASE("names reach the terminal without what it would obey") {
    const Workshop shop;
    const std::string name = shop /
                             "fish\xc2\x9b"
                             "31m\x9b\u202egnp";
    for (const Words& words :
         {Words{"info", name}, Words{"train", name, "-o", shop / "new.safetensors"},
          Words{"grow", shop.model, "-o", name},
          Words{"train", shop.target, "-o", shop / "new.safetensors", "--preset", name}}) {
        const Outcome outcome = nca_tool(words);
        require_message(outcome, {"fish?31m"});
        REQUIRE_FALSE(contains(outcome.err, "\x9b"));
        REQUIRE_FALSE(contains(outcome.err, "\u202e"));
    }
    // From a model's metadata.
    nca::Model model = nca::Model::load(shop.model);
    model.history.target = "fish\u009b31m\u202egnp";
    model.history.preset = "a\x1b[2Jb";
    model.save(shop.model);
    const Outcome outcome = nca_tool({"info", shop.model});
    REQUIRE(outcome.code == 0);
    REQUIRE(contains(outcome.out, "fish?31m?gnp"));
    REQUIRE(contains(outcome.out, "a?[2Jb"));
}
