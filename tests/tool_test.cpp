// SPDX-License-Identifier: MIT
// Drives the built tool, whose path is in the environment variable NCA_TOOL.
#include <nca/engine.hpp>
#include <nca/image.hpp>
#include <nca/model.hpp>

#include "host/tool/gradcheck_reference.hpp"
#include "host/tool/threads.hpp"
#include "support/cases.hpp"
#include "support/catch.hpp"
#include "support/page.hpp"
#include "support/process.hpp"

#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <span>
#include <sstream>

using nca::test::Folder;
using nca::test::Outcome;
using nca::test::Process;
using nca::test::read_file;
using nca::test::write_file;
using Words = std::vector<std::string>;

namespace {

Words tool_command(Words words) {
    const char* tool = std::getenv("NCA_TOOL");
    if (tool == nullptr) {
        FAIL("the environment variable NCA_TOOL has to hold the path of the tool");
    }
    words.insert(words.begin(), tool);
    return words;
}

Outcome nca_tool(const Words& words, rlim_t largest_file = 0) {
    return Process(tool_command(words), largest_file).wait();
}

Words operator+(Words a, const Words& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

// A path of this program's in PATH, or an empty one.
std::string find_program(const std::string& name) {
    const char* path = std::getenv("PATH");
    std::istringstream folders(path == nullptr ? "" : path);
    for (std::string folder; std::getline(folders, folder, ':');) {
        if (access((folder + "/" + name).c_str(), X_OK) == 0) {
            return folder + "/" + name;
        }
    }
    return "";
}

// A disc with a hole, 12 rows and 10 columns, with an alpha channel.
nca::Image small_picture() {
    nca::Image image;
    image.height = 12;
    image.width = 10;
    for (int y = 0; y < 12; ++y) {
        for (int x = 0; x < 10; ++x) {
            const int distance = (2 * y - 11) * (2 * y - 11) + (2 * x - 9) * (2 * x - 9);
            const bool inside = distance < 90 && distance > 8;
            const int alpha = inside ? 255 : 0;
            for (const int value : {200, 20 * y, 25 * x, alpha}) {
                image.pixels.push_back(static_cast<std::uint8_t>(value));
            }
        }
    }
    return image;
}

// A TGA file without alpha.
std::string opaque_picture(int side) {
    std::string bytes(18, '\0');
    bytes[2] = 2;
    bytes[12] = bytes[14] = static_cast<char>(side);
    bytes[16] = 24;
    return bytes +
           std::string(static_cast<std::size_t>(side) * static_cast<std::size_t>(side) * 3, 'x');
}

// The start of a PNG file that claims to be 20,000 pixels high and wide.
std::string huge_picture() {
    const std::string big_endian("\0\0\x4e\x20", 4);
    return "\x89PNG\r\n\x1a\n" + std::string("\0\0\0\x0d", 4) + "IHDR" + big_endian + big_endian +
           std::string("\x08\x06\0\0\0", 5) + std::string("\x2c\x4a\x4b\xb6", 4) +
           std::string("\0\0\0\0", 4) + "IDAT" + std::string("\x35\xaf\x06\x1e", 4);
}

std::string file_with_header(const std::string& header, const std::string& data) {
    std::string bytes(8, '\0');
    const std::uint64_t length = header.size();
    std::memcpy(bytes.data(), &length, sizeof length);
    return bytes + header + data;
}

// The tensors of a model without output bias, as PyTorch writes them, with one piece of the header
// replaced.
std::string model_file(const std::string& piece = "", const std::string& replacement = "") {
    std::string header =
        R"({"net.0.weight":{"dtype":"F32","shape":[128,48,1,1],"data_offsets":[0,24576]},)"
        R"("net.0.bias":{"dtype":"F32","shape":[128],"data_offsets":[24576,25088]},)"
        R"("net.2.weight":{"dtype":"F32","shape":[16,128,1,1],"data_offsets":[25088,33280]}})";
    if (!piece.empty()) {
        const std::size_t at = header.find(piece);
        REQUIRE(at != std::string::npos);
        header.replace(at, piece.size(), replacement);
    }
    return file_with_header(header, std::string(33280, '\0'));
}

std::string model_with_nan() {
    std::string bytes = model_file();
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(bytes.data() + bytes.size() - 33280 + 400, &nan, sizeof nan);
    return bytes;
}

// A folder with a target and a model that was trained for two iterations.
struct Workshop : Folder {
    Workshop() {
        nca::save_png(target, small_picture());
        const Outcome outcome = nca_tool(train_words() + Words{"-o", model, "--iterations", "2"});
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
    }
    Words train_words() const {
        return {"train", target,    "--size", "8",         "--padding", "2",      "--batch",
                "2",     "--steps", "2:5",    "--threads", "1",         "--quiet"};
    }

    std::string target = *this / "target.png";
    std::string model = *this / "model.safetensors";
};

// One line that starts with the tool's name and holds these words.
void require_message(const Outcome& outcome, const Words& words) {
    INFO(outcome.err);
    REQUIRE(outcome.err.starts_with("nca: "));
    REQUIRE(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
    for (const std::string& word : words) {
        INFO(word);
        REQUIRE(contains(outcome.err, word));
    }
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

TEST_CASE("a mistake on the command line is one line and exit code 2, and writes nothing") {
    const Workshop shop;
    std::filesystem::create_symlink("model.safetensors", shop / "link.json");
    struct Mistake {
        Words words;
        Words named;
    };
    const Words train = {"train", shop.target, "-o", shop / "new"};
    const Words grow = {"grow", shop.model, "-o", shop / "new.gif"};
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
        {train + Words{"--report", shop / "new"}, {"--report", "same file"}},
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
        {train + Words{"--batch", "0"}, {"--batch", "0"}},
        {train + Words{"--batch", "many"}, {"--batch", "many"}},
        {train + Words{"--batch", "99999999999999999999"}, {"--batch"}},
        {train + Words{"--size", "-1"}, {"--size", "-1"}},
        {train + Words{"--padding", "-1"}, {"--padding", "-1"}},
        {train + Words{"--iterations", "0"}, {"--iterations", "0"}},
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
        {train + Words{"--checkpoint", shop / "new"}, {"--checkpoint", "same file"}},
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
         {"size", "5", "8 to 4096"}},
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
        {{"convert", shop.target, shop / "new.json"}, {"IN", "target.png", ".safetensors"}},
        {{"convert", shop.model, shop / "new.safetensors"},
         {"model.safetensors", "new.safetensors", "one format"}},
        {{"convert", shop / "old.json", shop / "new.JSON"}, {"old.json", "new.JSON", "one format"}},
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
    nca::Image clear = small_picture();
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
             {Words{"train", path, "-o", shop / "new", "--iterations", "1"},
              Words{"gradcheck", shop.model, path, "--out", shop / "new"},
              Words{"grow", shop.model, "-o", shop / "new.png", "--compare", path}}) {
            INFO(words[0] << " " << path);
            const Outcome outcome = nca_tool(words);
            require_message(outcome, {name});
            REQUIRE(outcome.code == 1);
            REQUIRE(shop.contents() == before);
        }
    }
    require_message(nca_tool({"train", shop / "huge.png", "-o", shop / "new"}),
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
    write_file(shop / "missing_tensor", model_file("net.2.weight", "net.9.weight"));
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

TEST_CASE("places that cannot be written are noticed before training starts") {
    const Workshop shop;
    REQUIRE(mkfifo((shop / "pipe").c_str(), 0600) == 0);
    std::filesystem::create_symlink(shop / "pipe", shop / "link to a pipe");
    std::filesystem::create_symlink(shop / "nothing", shop / "link to nothing");
    std::filesystem::create_symlink("/proc/file", shop / "link into proc");
    const auto before = shop.contents();
    // No file can be made in /proc, by root either.
    for (const std::string& path :
         {shop / "no such folder/file", shop / ".", std::string("/proc/file"), shop / "pipe",
          shop / "link to a pipe", shop / "link to nothing", shop / "link into proc"}) {
        for (const Words& words :
             {Words{"train", shop.target, "-o", path},
              Words{"train", shop.target, "-o", shop / "new", "--log", path},
              Words{"train", shop.target, "-o", shop / "new", "--checkpoint", path},
              Words{"train", shop.target, "-o", shop / "new", "--report", path},
              Words{"grow", shop.model, "-o", shop / "new.gif", "--state-out", path},
              Words{"gradcheck", shop.model, shop.target, "--out", path}}) {
            INFO(words[0] << " " << path);
            const Outcome outcome = nca_tool(words);
            require_message(outcome, {"cannot write"});
            REQUIRE(outcome.code == 1);
            REQUIRE(shop.contents() == before);
            REQUIRE(std::filesystem::is_fifo(shop / "pipe"));
            REQUIRE(std::filesystem::is_symlink(shop / "link to a pipe"));
        }
    }
}

TEST_CASE("a log behind a link is written and the link stays") {
    const Workshop shop;
    write_file(shop / "log.csv", "old");
    std::filesystem::create_symlink("log.csv", shop / "link.csv");
    const Words words = {"-o", shop / "new", "--iterations", "2", "--log", shop / "link.csv"};
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
    const Outcome train =
        nca_tool(shop.train_words() + Words{"-o", shop.model, "--iterations", "1"}, limit);
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
        nca_tool(shop.train_words() + Words{"-o", shop / "new", "--iterations", "3", "--checkpoint",
                                            shop / "checkpoint", "--every", "2"},
                 limit);
    INFO(outcome.err);
    REQUIRE(contains(outcome.err, "training goes on"));
    REQUIRE(std::filesystem::exists(shop / "new"));
    REQUIRE_FALSE(std::filesystem::exists(shop / "checkpoint"));
}

TEST_CASE("results that nobody can read are a failure") {
    const Workshop shop;
    const std::string command =
        tool_command({})[0] + " info " + shop.model + " > /dev/full 2> " + (shop / "err");
    const Outcome outcome = Process({"/bin/sh", "-c", command}).wait();
    REQUIRE(outcome.code == 1);
    REQUIRE(contains(read_file(shop / "err"), "standard output"));
}

TEST_CASE("CUDA without CUDA is one line and exit code 1") {
    const Workshop shop;
    const Outcome outcome =
        nca_tool({"grow", shop.model, "-o", shop / "new.png", "--device", "cuda:63"});
    require_message(outcome, {"CUDA"});
    REQUIRE(outcome.code == 1);
}

TEST_CASE("training says what it runs on, names its model and notes an image without alpha") {
    const Workshop shop;
    write_file(shop / "opaque.tga", opaque_picture(10));
    const Outcome outcome =
        nca_tool({"train", shop / "opaque.tga", "-o", shop / "new", "--iterations", "2", "--size",
                  "8", "--padding", "2", "--steps", "2:5"});
    REQUIRE(outcome.code == 0);
    REQUIRE(contains(outcome.err, "running on"));
    REQUIRE(contains(outcome.err, "opaque"));
    REQUIRE(contains(outcome.err, "12x12 cells"));
    REQUIRE(contains(outcome.err, "2..4 steps"));
    REQUIRE(contains(outcome.out, shop / "new"));
    const nca::Model model = nca::Model::load(shop / "new");
    REQUIRE(model.history.preset == "growing");
    REQUIRE(model.history.target == "opaque.tga");
    REQUIRE(model.history.iterations == 2);
    REQUIRE(model.history.loss > 0);
}

TEST_CASE("every command that runs an engine says when there is no CUDA device to take") {
    const Workshop shop;
    const bool host =
        nca::make_engine(nca::Device::automatic())->memory_space() == nca::MemorySpace::host;
    for (const Words& words : {Words{"train", shop.target, "-o", shop / "new", "--size", "8",
                                     "--padding", "2", "--steps", "2:5", "--iterations", "1"},
                               Words{"grow", shop.model, "-o", shop / "new.png", "--steps", "1"},
                               Words{"gradcheck", shop.model, shop.target, "--steps", "1"}}) {
        INFO(words[0]);
        REQUIRE(contains(nca_tool(words).err,
                         "no CUDA device that this build can use: running on") == host);
        const std::string chosen = nca_tool(words + Words{"--device", "cpu"}).err;
        REQUIRE(contains(chosen, "running on"));
        REQUIRE_FALSE(contains(chosen, "no CUDA device"));
    }
}

TEST_CASE("a precision on the CPU is accepted and said to mean float32") {
    const Workshop shop;
    const Words cpu = {"--device", "cpu"};
    for (const Words& words :
         {shop.train_words() + Words{"-o", shop / "new", "--iterations", "1"},
          Words{"grow", shop.model, "-o", shop / "new.png", "--steps", "1"},
          Words{"gradcheck", shop.model, shop.target, "--steps", "1"}, Words{"info"}}) {
        INFO(words[0]);
        const Outcome plain = nca_tool(words + cpu);
        for (const char* precision : {"exact", "precise", "fast"}) {
            const Outcome outcome = nca_tool(words + cpu + Words{"--precision", precision});
            INFO(outcome.err);
            REQUIRE(outcome.code == 0);
            REQUIRE(outcome.out == plain.out);
            const std::string said =
                "nca: --precision " + std::string(precision) + ": means float32 on the CPU\n";
            REQUIRE(outcome.err == plain.err + (precision == Words{"exact"}[0] ? "" : said));
        }
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

TEST_CASE("info tells what an engine is and how it runs each preset, with a model or without") {
    const Workshop shop;
    const Outcome alone = nca_tool({"info", "--device", "cpu"});
    REQUIRE(alone.code == 0);
    REQUIRE(alone.err.empty());
    REQUIRE(alone.out.starts_with("engine\n  device        " +
                                  nca::make_engine(nca::Device::cpu())->description() + "\n"));
    REQUIRE(contains(alone.out, "\n  notebook      batch 8 at 40x40: float32 on the CPU\n"));
    for (const char* name : {"growing       ", "persistent    ", "regenerating  "}) {
        REQUIRE(contains(alone.out,
                         "\n  " + std::string(name) + "batch 8 at 72x72: float32 on the CPU\n"));
    }
    REQUIRE(std::count(alone.out.begin(), alone.out.end(), '\n') == 6);
    const std::string model = nca_tool({"info", shop.model}).out;
    REQUIRE(nca_tool({"info", shop.model, "--device", "cpu"}).out == model + "\n" + alone.out);

    const std::string automatic = nca_tool({"info", "--device"}).out;
    REQUIRE(automatic == nca_tool({"info", "--device", "auto"}).out);
    REQUIRE(contains(automatic, nca::make_engine(nca::Device::automatic())->description()));
    const Outcome missing = nca_tool({"info", "--device", "cuda:63"});
    require_message(missing, {"CUDA"});
    REQUIRE(missing.code == 1);
}

TEST_CASE("a target that is transparent where the start cell is gets a warning") {
    const Workshop shop;
    Words words = shop.train_words() + Words{"-o", shop / "new", "--iterations", "1"};
    std::erase(words, "--quiet");
    for (const int alpha : {0, 255}) {
        nca::Image picture = small_picture();
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
        const Words words = {"--preset", "notebook", "--identity-filter", choice, "--iterations",
                             "1",        "-o",       shop / "new"};
        REQUIRE(nca_tool(shop.train_words() + words).code == 0);
        const nca::Rule rule = nca::Model::load(shop / "new").rule;
        REQUIRE(rule.filters[0][4] == (*choice == '1' ? 1.0F : 0.0F));
        REQUIRE(rule.edges == nca::Edges::circular);
    }
}

TEST_CASE("a run with a pool, damage and a warm-up can be set up and resumed") {
    const Workshop shop;
    Words all = shop.train_words();
    for (const char* word :
         {"--preset", "regenerating", "--pool", "10", "--damage", "1", "--damage-radius", "0.2:0.3",
          "--damage-centre", "0.1", "--warmup", "4", "--betas", "0.8:0.9"}) {
        all.push_back(word);
    }
    const auto run = [&](const std::string& name, const Words& more) {
        const Outcome outcome = nca_tool(all + Words{"-o", shop / name} + more);
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
    };
    run("whole", {"--iterations", "7"});
    run("early", {"--iterations", "3", "--checkpoint", shop / "checkpoint"});
    run("parts", {"--iterations", "7", "--resume", shop / "checkpoint"});
    REQUIRE(read_file(shop / "whole") == read_file(shop / "parts"));
    // Each of these is part of what a checkpoint belongs to.
    for (const auto& [option, value] :
         std::vector<std::pair<std::string, std::string>>{{"--pool", "11"},
                                                          {"--damage", "0"},
                                                          {"--damage-radius", "0.2:0.35"},
                                                          {"--damage-centre", "0.2"},
                                                          {"--warmup", "5"},
                                                          {"--betas", "0.8:0.91"}}) {
        Words other = all;
        *(std::find(other.begin(), other.end(), option) + 1) = value;
        const Outcome outcome = nca_tool(other + Words{"-o", shop / "other", "--iterations", "7",
                                                       "--resume", shop / "checkpoint"});
        INFO(option << ": " << outcome.err);
        REQUIRE(outcome.code == 1);
        REQUIRE(contains(outcome.err, "another configuration"));
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
    run("whole", {"--iterations", "7"});
    run("parts", {"--iterations", "5", "--checkpoint", shop / "checkpoint", "--every", "3"});
    // As if it had been killed after its fifth iteration with the checkpoint of the third.
    run("early", {"--iterations", "3", "--checkpoint", shop / "checkpoint"});
    run("parts", {"--iterations", "7", "--resume", shop / "checkpoint"});
    REQUIRE(read_file(shop / "whole") == read_file(shop / "parts"));

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
    REQUIRE(without_seconds("whole.csv").size() == 8);
    REQUIRE(without_seconds("whole.csv")[0] ==
            "iteration,loss,steps,learning_rate,gradient_norm,dead,reset,recovery,");
    REQUIRE(without_seconds("whole.csv") == without_seconds("parts.csv"));
}

TEST_CASE("resuming drops a row of the log that a crash cut off") {
    const Workshop shop;
    const std::string log = shop / "log.csv";
    const Words words = shop.train_words() + Words{"-o", shop / "new", "--log", log};
    REQUIRE(
        nca_tool(words + Words{"--iterations", "3", "--checkpoint", shop / "checkpoint"}).code ==
        0);
    const std::string whole = read_file(log);
    const std::size_t last = whole.rfind("\n2,") + 1;
    REQUIRE(last > 1);
    const auto resumed_from = [&](const std::string& text) {
        write_file(log, text);
        const Outcome outcome =
            nca_tool(words + Words{"--iterations", "4", "--resume", shop / "checkpoint"});
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
    REQUIRE(nca_tool(train + Words{"--checkpoint", shop / "checkpoint"}).code == 0);
    write_file(shop / "log.csv", "mine\n");
    const auto before = shop.contents();
    const Words resume = {"--resume", shop / "checkpoint", "--log", shop / "log.csv"};
    const std::vector<std::pair<Words, std::string>> cases = {
        {{"--seed", "5"}, "seed"},
        {{"--lr", "0.5"}, "rate"},
        {{"--preset", "notebook"}, "preset"},
    };
    for (const auto& [change, named] : cases) {
        const Outcome outcome = nca_tool(train + resume + change);
        require_message(outcome, {"checkpoint", named});
        REQUIRE(outcome.code == 1);
        REQUIRE(shop.contents() == before);
    }
    // A run that is done has nothing to go on with, and its model stays.
    const Outcome finished = nca_tool(train + resume);
    require_message(finished, {"checkpoint", "3", "--iterations"});
    REQUIRE(finished.code == 2);
    REQUIRE(shop.contents() == before);
    // A log that is none is not written over either.
    const Outcome outcome =
        nca_tool(shop.train_words() + Words{"-o", shop.model, "--iterations", "4"} + resume);
    require_message(outcome, {"log.csv"});
    REQUIRE(outcome.code == 1);
    REQUIRE(shop.contents() == before);
    for (const char* name : {"missing", "target.png", "model.safetensors"}) {
        const Outcome bad = nca_tool(shop.train_words() + Words{"-o", shop / "new", "--iterations",
                                                                "3", "--resume", shop / name});
        require_message(bad, {name});
        REQUIRE(bad.code == 1);
        REQUIRE(shop.contents() == before);
    }
}

TEST_CASE("a signal saves weights and checkpoint and prints the command that goes on") {
    const int signal = GENERATE(SIGINT, SIGTERM, SIGHUP);
    const Workshop shop;
    const std::string output = shop / "stopped model";
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
    const Words words = {"-o",           shop / "gone/model", "--log",   log,
                         "--checkpoint", checkpoint,          "--every", "100000000",
                         "--iterations", "100000000"};
    Process process(tool_command(shop.train_words() + words));
    REQUIRE(nca::test::eventually([&] { return contains(read_file(log), "\n2,"); }));
    std::filesystem::remove_all(shop / "gone");
    process.kill(SIGINT);
    const Outcome stopped = process.wait();
    INFO(stopped.err);
    REQUIRE(stopped.code == 1);
    REQUIRE(contains(stopped.err, "cannot write " + (shop / "gone/model")));
    REQUIRE(contains(stopped.err, "cannot write " + checkpoint) == both);
    REQUIRE(contains(stopped.err, "go on with: ") == !both);
    REQUIRE(std::filesystem::exists(checkpoint) == !both);
}

TEST_CASE("a second signal ends the tool at once") {
    const Workshop shop;
    // One iteration takes longer than this test.
    Process process(
        tool_command({"train", shop.target, "-o", shop / "new", "--size", "8", "--padding", "0",
                      "--batch", "1", "--steps", "99998:99999", "--threads", "1"}));
    REQUIRE(nca::test::eventually([&] { return contains(process.err_so_far(), "preset"); }));
    // Two that arrive before the tool has run at all are one to it, so there may be a third.
    REQUIRE(nca::test::eventually([&] {
        process.kill(SIGINT);
        return process.has_ended();
    }));
    REQUIRE(process.wait().signal == SIGINT);
    REQUIRE_FALSE(std::filesystem::exists(shop / "new"));
}

TEST_CASE("a run that failed on the way and has learnt nothing leaves the old model alone") {
    const Workshop shop;
    const auto before = shop.contents();
    const Outcome outcome =
        nca_tool(shop.train_words() + Words{"-o", shop.model, "--lr", "10", "--iterations", "4"});
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
    const Outcome outcome = nca_tool(shop.train_words() +
                                     Words{"-o", shop.model, "--lr", "1e30", "--iterations", "50"});
    INFO(outcome.err);
    REQUIRE(outcome.code == 1);
    REQUIRE(contains(outcome.err, "learning rate"));
    REQUIRE(contains(outcome.err, "was not written"));
    REQUIRE(shop.contents() == before);
}

namespace {

// A folder with three targets that are not alike.
struct Gallery : Folder {
    Gallery() {
        for (const std::string& name : names) {
            nca::Image picture = small_picture();
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
                         Words{"-o", gallery / (name + ".alone"), "--iterations", "6"})
                    .code == 0);
    }
    REQUIRE(read_file(gallery / "a.alone") != read_file(gallery / "bb.alone"));
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
                    read_file(gallery / (name + ".alone")));
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
    // A checkpoint of another seed is refused when its turn comes.
    REQUIRE(nca_tool(words + Words{"--iterations", "2", "--checkpoint", gallery / "c"}).code == 0);
    REQUIRE(nca_tool(gallery.train_words({"bb"}, 1) + Words{"-o", gallery / "other", "--iterations",
                                                            "2", "--seed", "9", "--checkpoint",
                                                            gallery / "c/bb.checkpoint"})
                .code == 0);
    const std::string before = gallery.file("new", "bb.safetensors");
    const Outcome outcome = nca_tool(words + Words{"--iterations", "4", "--resume", gallery / "c"});
    INFO(outcome.err);
    REQUIRE(outcome.code == 1);
    REQUIRE(contains(outcome.err, "nca: bb: " + (gallery / "c/bb.checkpoint") +
                                      " is a checkpoint of another configuration"));
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
                     Words{"-o", gallery / "alone", "--iterations", all})
                .code == 0);
    REQUIRE(read_file(gallery / "alone") == read_file(models + "/a.safetensors"));

    // What is done is left alone.
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
        Words words =
            gallery.train_words(targets, 2) +
            Words{"-o", gallery / (several ? "new" : "new model"), "--iterations", "8000"};
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
        REQUIRE(contains(outcome.out, several ? "/24000  " : "/8000  "));
        REQUIRE(contains(outcome.out, " it/s  median loss ") == several);
        // What is said after it begins on a clear line.
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

TEST_CASE("info prints rule, sizes, statistics and history, and no control characters") {
    const Workshop shop;
    nca::Model model = nca::Model::load(shop.model);
    model.history.target = "evil\x1b[31m\n.png";
    model.save(shop / "evil");
    const Outcome outcome = nca_tool({"info", shop / "evil"});
    INFO(outcome.out);
    REQUIRE(outcome.code == 0);
    REQUIRE(outcome.err.empty());
    for (const char* word : {"fire rate", "net.0.weight", "net.2.bias", "8336", "growing", "12x12",
                             "evil?[31m?.png"}) {
        INFO(word);
        REQUIRE(contains(outcome.out, word));
    }
    REQUIRE_FALSE(contains(outcome.out, "\x1b"));
}

TEST_CASE("convert makes a file for the web demo, and a model from it, and says what will differ") {
    const Workshop shop;
    nca::Model model = nca::Model::load(shop.model);
    nca::test::Uniform uniform(1);
    for (float& weight : model.weights.all()) {
        weight = uniform(-1, 1);
    }
    model.save(shop.model);
    const Outcome there = nca_tool({"convert", shop.model, shop / "demo.json"});
    require_message(there, {"demo.json", "edges", "wraps around"});  // of the preset growing
    REQUIRE(there.code == 0);
    REQUIRE(contains(there.out, "demo.json"));
    REQUIRE(read_file(shop / "demo.json").starts_with("[{\"data_b64\":\""));

    const auto silently = [&](const std::string& from, const std::string& to) {
        const Outcome outcome = nca_tool({"convert", from, to});
        INFO(outcome.err);
        REQUIRE(outcome.code == 0);
        REQUIRE(outcome.err.empty());
        REQUIRE(contains(outcome.out, to));
        return read_file(to);
    };
    silently(shop / "demo.json", shop / "back.SafeTensors");
    const nca::Model back = nca::Model::load(shop / "back.SafeTensors");
    REQUIRE(back.rule_in_file);
    REQUIRE(back.rule == nca::distill_demo_rule());
    const auto before = model.weights.all();
    const auto after = back.weights.all();
    REQUIRE(before.size() == after.size());
    for (const nca::ParameterTensor& tensor : nca::parameter_tensors(true)) {
        double largest = 0;
        double difference = 0;
        for (std::size_t i = tensor.offset; i < tensor.offset + tensor.size; ++i) {
            largest = std::max(largest, std::abs(double{before[i]}));
            difference = std::max(difference, std::abs(double{before[i]} - after[i]));
        }
        INFO(tensor.name);
        REQUIRE(largest > 0);
        REQUIRE(difference > 0);
        REQUIRE(difference <= largest / 255 * 1.0001);
    }
    // The demo's own model says nothing, and comes back byte for byte.
    REQUIRE(silently(shop / "back.SafeTensors", shop / "again.json") ==
            read_file(shop / "demo.json"));
}

TEST_CASE("convert names every field in which the web demo's rule differs from the model's") {
    const Workshop shop;
    nca::Model model = nca::Model::load(shop.model);
    model.rule = nca::notebook_rule();
    model.rule.edges = nca::Edges::zero;
    model.rule.fire_rate = 0.25F;
    model.rule.step_size = 0.75F;
    model.save(shop.model);
    const Outcome all = nca_tool({"convert", shop.model, shop / "demo.json"});
    INFO(all.err);
    REQUIRE(all.code == 0);
    REQUIRE(std::filesystem::exists(shop / "demo.json"));
    const Words fields = {"filters",   "edges",     "life",         "start_cell",
                          "fire_rate", "step_size", "premultiplied"};
    for (const std::string& field : fields) {
        INFO(field);
        REQUIRE(contains(all.err, "demo.json: the web demo differs in " + field + ": "));
    }
    REQUIRE(contains(all.err, "0.25"));
    REQUIRE(contains(all.err, "0.75"));
    REQUIRE(std::count(all.err.begin(), all.err.end(), '\n') == std::ptrdiff_t(fields.size()));

    write_file(shop / "pytorch.safetensors", model_file());
    const Outcome pytorch = nca_tool({"convert", shop / "pytorch.safetensors", shop / "demo.json"});
    REQUIRE(pytorch.code == 0);
    REQUIRE(contains(pytorch.err, "no rule in the file, the notebook's is assumed"));
    REQUIRE(contains(pytorch.err, "differs in filters"));
    REQUIRE_FALSE(contains(pytorch.err, "differs in edges"));
}

TEST_CASE("a model that cannot be converted is one line and exit code 1, and writes nothing") {
    const Workshop shop;
    REQUIRE(nca_tool({"convert", shop.model, shop / "good.json"}).code == 0);
    const std::string good = read_file(shop / "good.json");
    const auto replaced = [&](const std::string& from, const std::string& to) {
        std::string text = good;
        text.replace(text.find(from), from.size(), to);
        return text;
    };
    nca::Model large = nca::Model::load(shop.model);
    large.weights.all()[3] = std::numeric_limits<float>::max();
    large.save(shop / "large.safetensors");
    write_file(shop / "empty.json", "");
    write_file(shop / "truncated.json", good.substr(0, good.size() / 2));
    write_file(shop / "size.json", replaced("\"in_ch\":48", "\"in_ch\":1099511627776"));
    write_file(shop / "scale.json", replaced("\"bias_scale\":", "\"bias_scale\":-1"));
    write_file(shop / "base64.json", replaced("\"data_b64\":\"", "\"data_b64\":\"*"));
    write_file(shop / "type.json", replaced("uint8", "float32"));
    write_file(shop / "other.json", "{}");
    write_file(shop / "huge.json", std::string(2 << 20, '['));
    std::filesystem::create_directory(shop / "folder.json");
    write_file(shop / "nan.safetensors", model_with_nan());
    write_file(shop / "text.safetensors", "This is not a model, but more than eight bytes long.\n");
    const auto before = shop.contents();
    for (const char* name :
         {"missing.json", "empty.json", "truncated.json", "size.json", "scale.json", "base64.json",
          "type.json", "other.json", "huge.json", "folder.json", "missing.safetensors",
          "nan.safetensors", "text.safetensors", "large.safetensors"}) {
        INFO(name);
        const bool json = std::string(name).ends_with(".json");
        // The old file stays where there is one.
        for (const std::string& output : {json ? shop / "new.safetensors" : shop / "new.json",
                                          json ? shop.model : shop / "good.json"}) {
            const Outcome outcome = nca_tool({"convert", shop / name, output});
            require_message(outcome, {name});
            REQUIRE(outcome.code == 1);
            REQUIRE(outcome.out.empty());
            REQUIRE(shop.contents() == before);
        }
    }
    for (const auto& [from, to] : {std::pair(shop.model, shop / "none/new.json"),
                                   std::pair(shop.model, shop / "folder.json"),
                                   std::pair(shop / "good.json", shop / "none/new.safetensors")}) {
        const Outcome outcome = nca_tool({"convert", from, to});
        require_message(outcome, {"cannot write", to});
        REQUIRE(outcome.code == 1);
        REQUIRE(shop.contents() == before);
    }
    const rlim_t limit = 4096;  // less than either file
    for (const Words& words : {Words{"convert", shop.model, shop / "good.json"},
                               Words{"convert", shop / "good.json", shop.model}}) {
        const Outcome outcome = nca_tool(words, limit);
        require_message(outcome, {"cannot write"});
        REQUIRE(outcome.code == 1);
        REQUIRE(shop.contents() == before);
    }
}

TEST_CASE("gradcheck agrees with the reference and writes the gradients") {
    const Workshop shop;
    const Outcome outcome = nca_tool({"gradcheck", shop.model, shop.target, "--steps", "3",
                                      "--batch", "2", "--out", shop / "grads"});
    INFO(outcome.out << outcome.err);
    REQUIRE(outcome.code == 0);
    for (const char* name : {"net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"}) {
        REQUIRE(contains(outcome.out, name));
    }
    REQUIRE_FALSE(contains(outcome.out, "WRONG"));
    const nca::Model grads = nca::Model::load(shop / "grads");
    const auto values = grads.weights.all();
    REQUIRE(std::any_of(values.begin(), values.end(), [](float value) { return value != 0; }));
}

TEST_CASE("gradcheck refuses a target that the reference would take hours for") {
    const Workshop shop;
    nca::Image image;
    image.height = 300;
    image.width = 10;
    image.pixels.assign(std::size_t{300} * 10 * 4, 255);
    nca::save_png(shop / "large.png", image);
    const Outcome outcome = nca_tool({"gradcheck", shop.model, shop / "large.png"});
    require_message(outcome, {"large.png", "300x10", "256"});
    REQUIRE(outcome.code == 1);
}

TEST_CASE("one corrupted gradient entry makes the gradient check fail") {
    nca::test::CaseOptions options;
    options.height = 5;
    options.width = 4;
    options.batch = 2;
    options.steps = 3;
    const nca::test::Case drawn = nca::test::random_case(options, 3);
    nca::tool::GradcheckProblem problem;
    problem.model = {drawn.rule, drawn.weights, {}, true};
    problem.target = drawn.target;
    problem.state = drawn.state;
    problem.batch = drawn.batch;
    problem.height = drawn.height;
    problem.width = drawn.width;
    problem.options = drawn.options;
    const nca::tool::GradcheckReference reference(problem);
    const std::vector<double> expected = reference.gradient();
    nca::Weights gradient(true);
    std::copy(expected.begin(), expected.end(), gradient.all().begin());
    const double tolerance = nca::tool::gradcheck_tolerance(options.steps, nca::Precision::exact);
    for (const nca::ParameterTensor& tensor : nca::parameter_tensors(true)) {
        const auto good = [&] {
            return nca::tool::check_tensor(tensor, gradient, expected, reference, tolerance, 1)
                .good;
        };
        REQUIRE(good());
        float& entry = gradient.all()[tensor.offset + tensor.size / 2];
        const float saved = entry;
        const double largest =
            nca::tool::check_tensor(tensor, gradient, expected, reference, tolerance, 1).largest;
        REQUIRE(largest > 0);
        entry += static_cast<float>(largest / 100);
        REQUIRE(!good());
        entry = std::numeric_limits<float>::quiet_NaN();
        REQUIRE(!good());
        entry = saved;
        REQUIRE(good());
    }
}

TEST_CASE("a coarser precision may be further off, and none less than float32 at many steps") {
    using nca::Precision;
    using nca::tool::gradcheck_tolerance;
    REQUIRE(gradcheck_tolerance(8, Precision::exact) < 1e-4);
    REQUIRE(gradcheck_tolerance(8, Precision::precise) == 1e-4);
    REQUIRE(gradcheck_tolerance(8, Precision::fast) == 5e-2);
    REQUIRE(gradcheck_tolerance(1000, Precision::precise) ==
            gradcheck_tolerance(1000, Precision::exact));
}

TEST_CASE("a wrong reference does not agree with its central differences") {
    nca::test::CaseOptions options;
    const nca::test::Case drawn = nca::test::random_case(options, 3);
    nca::tool::GradcheckProblem problem;
    problem.model = {drawn.rule, drawn.weights, {}, true};
    problem.target = drawn.target;
    problem.state = drawn.state;
    problem.batch = drawn.batch;
    problem.height = drawn.height;
    problem.width = drawn.width;
    problem.options = drawn.options;
    const nca::tool::GradcheckReference reference(problem);
    std::vector<double> expected = reference.gradient();
    for (double& value : expected) {
        value *= 1.01;
    }
    nca::Weights gradient(true);
    std::copy(expected.begin(), expected.end(), gradient.all().begin());
    const double tolerance = nca::tool::gradcheck_tolerance(options.steps, nca::Precision::exact);
    for (const nca::ParameterTensor& tensor : nca::parameter_tensors(true)) {
        REQUIRE(!nca::tool::check_tensor(tensor, gradient, expected, reference, tolerance, 1).good);
    }
}

namespace {

// Iteration and log10 of the loss of each row.
std::vector<std::pair<double, double>> points_of_log(const std::string& path) {
    std::ifstream log(path);
    std::string row;
    std::getline(log, row);
    REQUIRE(row.starts_with("# engine: "));
    std::getline(log, row);
    std::vector<std::pair<double, double>> points;
    while (std::getline(log, row)) {
        const std::size_t comma = row.find(',');
        const double loss = std::strtod(row.c_str() + comma + 1, nullptr);
        if (std::isfinite(loss) && loss > 0) {
            points.emplace_back(std::stod(row), std::log10(loss));
        }
    }
    return points;
}

void require_points(const std::vector<std::pair<double, double>>& drawn,
                    const std::vector<std::pair<double, double>>& expected) {
    REQUIRE(drawn.size() == expected.size());
    REQUIRE_FALSE(drawn.empty());
    for (std::size_t i = 0; i < drawn.size(); ++i) {
        REQUIRE(drawn[i].first == expected[i].first);
        REQUIRE(std::abs(drawn[i].second - expected[i].second) <= 0.51e-5);
    }
}

void require_whole_page(const std::string& page, const std::string& says) {
    REQUIRE(page.starts_with("<!DOCTYPE html>"));
    REQUIRE(page.ends_with("</html>\n"));
    REQUIRE(contains(page, says));
    REQUIRE_FALSE(contains(page, "http-equiv"));
    REQUIRE(page.size() < (1 << 20));
}

// What a browser makes of a page, and what it says.
Outcome browse(const std::string& browser, const std::string& page,
               const Words& more = {"--dump-dom"}) {
    const Folder profile;
    return Process(Words{"/usr/bin/env", "timeout", "100", browser, "--headless", "--no-sandbox",
                         "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                         "--enable-logging=stderr", "--v=0", "--virtual-time-budget=2000",
                         "--user-data-dir=" + (profile / "profile"), "--window-size=1200,800"} +
                   more + Words{"file://" + page})
        .wait();
}

}  // namespace

TEST_CASE("a report has the points of the log and needs nothing but itself") {
    const Workshop shop;
    const std::string target = shop / "<b>&\"'.png";
    std::filesystem::copy_file(shop.target, target);
    Words words = shop.train_words() + Words{"-o",           shop / "new",
                                             "--preset",     "regenerating",
                                             "--pool",       "9",
                                             "--damage",     "1",
                                             "--iterations", "12",
                                             "--log",        shop / "log.csv",
                                             "--report",     shop / "run.html",
                                             "--pictures",   shop / "new folder/pictures"};
    words[1] = target;
    const Outcome outcome = nca_tool(words);
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    REQUIRE(outcome.err.empty());
    const std::string page = read_file(shop / "run.html");
    require_whole_page(page, "Training is done.");
    for (const char* outside : {"http:", "https:", "url(", "@import", "<script", "<b>&"}) {
        INFO(outside);
        REQUIRE_FALSE(contains(page, outside));
    }
    REQUIRE(nca::test::all_between(page, "href=", ">") == Words{"\"data:,\""});
    REQUIRE(contains(page, "<h1>&lt;b&gt;&amp;&quot;&#39;.png</h1>"));
    for (const char* part : {"12 of 12", "regenerating", "cpu", "64 steps", "1000 steps",
                             "9 of 9 states", "Nothing."}) {
        INFO(part);
        REQUIRE(contains(page, part));
    }
    REQUIRE(nca::test::curve_of(page).size() == 12);
    require_points(nca::test::curve_of(page), points_of_log(shop / "log.csv"));

    // The target, four grown states, two samples before and after, the pool.
    const std::vector<nca::Image> images = nca::test::images_of(page);
    REQUIRE(images.size() == 10);
    for (std::size_t i = 0; i < 9; ++i) {
        REQUIRE(images[i].height == 12);
        REQUIRE(images[i].width == 12);
    }
    REQUIRE(images[9].height == 2 * 12 + 1);
    REQUIRE(images[9].width == 8 * 12 + 7);
    const std::string pictures = shop / "new folder/pictures/";
    const auto saved = [&](const char* name) { return nca::load_image(pictures + name).pixels; };
    REQUIRE(saved("target.png") == nca::enlarge(images[0], 4).pixels);
    REQUIRE(saved("pool.png") == nca::enlarge(images[9], 4).pixels);
    REQUIRE(saved("grown.png").size() == std::size_t{4} * 48 * (4 * 48 + 3 * 4));
    REQUIRE(saved("batch_before.png").size() == std::size_t{4} * 48 * (2 * 48 + 4));
    REQUIRE(saved("batch_after.png").size() == std::size_t{4} * 48 * (2 * 48 + 4));
    REQUIRE(saved("batch_before.png") != saved("batch_after.png"));
}

TEST_CASE("a report does not change what is trained, and pictures come without one") {
    const Workshop shop;
    const Words words = shop.train_words() + Words{"--iterations", "6"};
    REQUIRE(nca_tool(words + Words{"-o", shop / "plain"}).code == 0);
    REQUIRE(nca_tool(words + Words{"-o", shop / "shown", "--pictures", shop / "pictures"}).code ==
            0);
    REQUIRE(read_file(shop / "plain") == read_file(shop / "shown"));
    REQUIRE(std::filesystem::exists(shop / "pictures/grown.png"));
    REQUIRE_FALSE(std::filesystem::exists(shop / "pictures/pool.png"));
}

TEST_CASE("a resumed report goes on with the points of the log, without one with its own") {
    const Workshop shop;
    const Words words = shop.train_words() + Words{"-o", shop / "new", "--report", shop / "run"};
    const Words log = {"--log", shop / "log.csv"};
    REQUIRE(nca_tool(words + log + Words{"--iterations", "5", "--checkpoint", shop / "c"}).code ==
            0);
    const Words resumed = words + Words{"--iterations", "8", "--resume", shop / "c"};
    REQUIRE(nca_tool(resumed + log).code == 0);
    const std::string page = read_file(shop / "run");
    REQUIRE(nca::test::curve_of(page).size() == 8);
    require_points(nca::test::curve_of(page), points_of_log(shop / "log.csv"));
    REQUIRE_FALSE(contains(page, "on.</p>"));
    REQUIRE(nca_tool(resumed).code == 0);
    const auto points = nca::test::curve_of(read_file(shop / "run"));
    REQUIRE(points.size() == 3);
    REQUIRE(points[0].first == 5);
    REQUIRE(contains(read_file(shop / "run"), "from iteration 5 on"));
}

TEST_CASE("a report can be read while training goes on, and is whole after a signal") {
    const Workshop shop;
    const std::string path = shop / "run.html";
    Process process(
        tool_command(shop.train_words() + Words{"-o", shop / "new", "--iterations", "100000000",
                                                "--log", shop / "log.csv", "--report", path}));
    REQUIRE(nca::test::eventually([&] { return std::filesystem::exists(path); }));
    const std::string first = read_file(path);
    REQUIRE(first.ends_with("</html>\n"));
    REQUIRE(contains(first, "Training goes on."));
    REQUIRE(contains(first, "<meta http-equiv=\"refresh\" content=\""));
    REQUIRE(nca::test::eventually([&] { return read_file(path) != first; }));
    process.kill(SIGINT);
    REQUIRE(process.wait().code == 1);
    const std::string page = read_file(path);
    require_whole_page(page, "Training was stopped.");
    const auto points = points_of_log(shop / "log.csv");
    REQUIRE(nca::test::curve_of(page).back().first == points.back().first);
    REQUIRE(nca::test::images_of(page).size() == 9);
}

TEST_CASE("the report of a training that fails for good says why") {
    const Workshop shop;
    const Outcome outcome =
        nca_tool(shop.train_words() + Words{"-o", shop / "new", "--lr", "1e30", "--iterations",
                                            "50", "--report", shop / "run.html"});
    REQUIRE(outcome.code == 1);
    const std::string page = read_file(shop / "run.html");
    require_whole_page(page, "Training failed: training failed 13 times in a row");
    REQUIRE(nca::test::all_between(page, "<li>iteration ", ":").size() == 12);
    REQUIRE(nca::test::all_between(page, "<title>recovery in iteration ", "<").size() == 12);
}

TEST_CASE("a report that cannot be written any more is said once and does not end training") {
    const Workshop shop;
    std::filesystem::create_directory(shop / "folder");
    const std::string path = shop / "folder/run.html";
    const std::string log = shop / "log.csv";
    Process process(tool_command(shop.train_words() +
                                 Words{"-o", shop / "new", "--iterations", "100000000", "--report",
                                       path, "--pictures", shop / "folder", "--log", log}));
    // The last file of a report, so that the next one fails at its first.
    REQUIRE(nca::test::eventually(
        [&] { return std::filesystem::exists(shop / "folder/batch_after.png"); }));
    std::filesystem::rename(shop / "folder", shop / "gone");
    REQUIRE(
        nca::test::eventually([&] { return contains(process.err_so_far(), "training goes on"); }));
    const auto size = std::filesystem::file_size(log);
    REQUIRE(nca::test::eventually([&] { return std::filesystem::file_size(log) > size; }));
    process.kill(SIGINT);
    const Outcome outcome = process.wait();
    INFO(outcome.err);
    REQUIRE(outcome.code == 1);
    REQUIRE(nca::test::all_between(outcome.err, "cannot write " + path, "\n").size() == 1);
    REQUIRE(std::filesystem::exists(shop / "new"));
    REQUIRE_FALSE(std::filesystem::exists(shop / "folder"));
}

TEST_CASE("a folder for pictures that cannot be made is refused before training") {
    const Workshop shop;
    const auto before = shop.contents();
    for (const std::string& path : {shop.target, shop.target + "/folder", std::string("/proc/a")}) {
        const Outcome outcome =
            nca_tool(shop.train_words() + Words{"-o", shop / "new", "--pictures", path});
        require_message(outcome, {"cannot write", path});
        REQUIRE(outcome.code == 1);
        REQUIRE(shop.contents() == before);
    }
}

TEST_CASE("a browser shows the report, on a phone too") {
    std::string browser = find_program("chromium");
    browser = browser.empty() ? find_program("google-chrome") : browser;
    if (browser.empty()) {
        WARN("skipped: no chromium to open the page with");
        return;
    }
    const Workshop shop;
    const Outcome trained =
        nca_tool(shop.train_words() + Words{"-o", shop / "new", "--preset", "persistent", "--pool",
                                            "9", "--iterations", "12", "--log", shop / "log.csv",
                                            "--report", shop / "run.html"});
    INFO(trained.err);
    REQUIRE(trained.code == 0);
    const Outcome shown = browse(browser, shop / "run.html");
    INFO(shown.err);
    REQUIRE(shown.code == 0);
    REQUIRE_FALSE(contains(shown.err, "CONSOLE"));
    require_points(nca::test::curve_of(shown.out), points_of_log(shop / "log.csv"));

    // The same page with a question to the browser at its end, in a frame as wide as a phone: no
    // window is.
    const std::string question =
        "<script>addEventListener('load', () => {"
        "const images = [...document.images].filter(i => i.complete && i.naturalWidth > 0);"
        "const curve = document.querySelector('.each').getBoundingClientRect();"
        "console.log(`window ${innerWidth} page ${document.documentElement.scrollWidth} "
        "images ${images.length} curve ${curve.width > 0.7 * innerWidth}`)})</script>";
    write_file(shop / "asked.html", read_file(shop / "run.html") + question);
    write_file(shop / "phone.html",
               "<iframe src=\"asked.html\" width=\"360\" height=\"800\" "
               "style=\"border:0\"></iframe>");
    const std::string screenshot = shop / "screenshot.png";
    const Outcome phone = browse(browser, shop / "phone.html", {"--screenshot=" + screenshot});
    INFO(phone.err);
    REQUIRE(contains(phone.err, "window 360 page 360 images 10 curve true"));
    REQUIRE(nca::test::all_between(phone.err, "CONSOLE", "\n").size() == 1);
    REQUIRE(nca::load_image(screenshot).width == 1200);

    write_file(shop / "broken.html", read_file(shop / "run.html") + "<script>no.such()</script>");
    REQUIRE(contains(browse(browser, shop / "broken.html").err, "CONSOLE"));
}
