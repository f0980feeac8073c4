// SPDX-License-Identifier: MIT
// nca: what its outputs may replace.
#include "tests/support/catch.hpp"
#include "tests/support/tool.hpp"

#include <nca/image.hpp>
#include <nca/model.hpp>

#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

using namespace nca::test;

namespace {

// A command line that writes a file whose name comes behind it.
struct Writer {
    Words words;
    std::string extension;  // of the file
};

std::vector<Writer> writers(const Workshop& shop) {
    const Words train = shop.train_words() + Words{"--iterations", "2"};
    const Words trained = train + Words{"-o", shop / "out.safetensors"};
    const Words grow = {"grow", shop.model, "--steps", "4"};
    return {{train + Words{"-o"}, ".safetensors"},
            {trained + Words{"--checkpoint"}, ".checkpoint"},
            {trained + Words{"--log"}, ".csv"},
            {trained + Words{"--report"}, ".html"},
            {grow + Words{"-o"}, ".png"},
            {grow + Words{"-o"}, ".gif"},
            {grow + Words{"-o"}, ".webp"},
            {grow + Words{"-o", shop / "out.png", "--state-out"}, ".npy"},
            {{"gradcheck", shop.model, shop.target, "--steps", "3", "--out"}, ".safetensors"}};
}

// The file that each of them leaves.
struct Written {
    explicit Written(const Workshop& shop) {
        for (const Writer& writer : writers(shop)) {
            const std::string path = shop / ("written" + writer.extension);
            const Outcome outcome = nca_tool(writer.words + Words{path});
            INFO(outcome.err);
            REQUIRE(outcome.code == 0);
            files.push_back(read_file(path));
            for (const std::string& name : {path, shop / "out.safetensors"}) {
                std::filesystem::remove(name);
            }
        }
        std::filesystem::remove(shop / "out.png");
    }

    std::vector<std::string> files;
};

void require_refused(const Folder& folder, const Words& words, const Words& named) {
    std::string line;
    for (const std::string& word : words) line += word + " ";
    INFO(line);
    const auto before = folder.contents();
    const Outcome outcome = nca_tool(words);
    require_message(outcome, named);
    REQUIRE(outcome.code == 2);
    REQUIRE(outcome.out.empty());
    REQUIRE((folder.contents() == before));
}

}  // namespace

TEST_CASE("train -o *.png leaves the pictures alone") {
    for (const Words& names :
         {Words{"a.png"}, Words{"a.png", "b.png"}, Words{"a.png", "b.png", "c.png"}}) {
        const Folder folder;
        for (const std::string& name : names) nca::save_png(folder / name, disc_picture());
        const auto before = folder.contents();
        for (const char* options : {"", " --overwrite", " --iterations 1"}) {
            const std::string command = "cd '" + (folder / ".") + "' && exec \"$0\" train -o *.png";
            const Outcome outcome = Process({"/bin/sh", "-c", command + options,
                                             std::filesystem::absolute(tool_command({})[0])})
                                        .wait();
            INFO(outcome.err);
            REQUIRE(outcome.code == 2);
            REQUIRE(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
            if (names.size() > 1) REQUIRE(contains(outcome.err, "-o a.png: "));
            REQUIRE((folder.contents() == before));
        }
    }
}

TEST_CASE("several targets do not become a folder with a model's name") {
    const Workshop shop;
    const std::string other = shop / "other.png";
    nca::save_png(other, disc_picture());
    Words words = shop.train_words() + Words{"-o", shop / "many.safetensors"};
    words.insert(words.begin() + 2, other);
    require_refused(shop, words, {"-o ", "many.safetensors", "folder"});
}

TEST_CASE("a file of another kind is not replaced, with --overwrite neither") {
    const Workshop shop;
    const std::vector<Writer> all = writers(shop);
    std::vector<std::string> contents = Written(shop).files;
    const std::size_t kinds = contents.size();
    for (const char* text : {"mine\n", "x", "<!DOCTYPE html>\n<html></html>\n",
                             "loss,iteration\n1,2\n", "\x89PNG", "# engine: mine\n"}) {
        contents.emplace_back(text);
    }
    contents.push_back(model_file("[16,128,1,1]", "[8,256,1,1]"));
    contents.push_back(contents[0].substr(0, 200));  // of a model
    const auto is_picture = [](std::size_t kind) { return kind >= 4 && kind <= 6; };
    for (std::size_t i = 0; i < kinds; ++i) {
        const std::string path = shop / ("there" + all[i].extension);
        const bool is_train = all[i].words[0] == "train";
        for (std::size_t j = 0; j < contents.size(); ++j) {
            if (j == i || (is_picture(i) && is_picture(j))) continue;
            // A checkpoint can be read as a model, and so can a file of gradients.
            if (i == 0 && (j == 1 || j == kinds - 1)) continue;
            INFO(i << " over " << j);
            write_file(path, contents[j]);
            const Words words = all[i].words + Words{path};
            require_refused(shop, words, {path, "is not", "name another file"});
            if (is_train) {
                require_refused(shop, words + Words{"--overwrite"}, {path, "is not"});
            }
        }
        std::filesystem::remove(path);
    }
    // The checkpoint that Ctrl-C would write, one of the pictures, a frame.
    const std::string stop = shop / "out.safetensors.checkpoint";
    const Words train = shop.train_words() + Words{"-o", shop / "out.safetensors", "--overwrite"};
    write_file(stop, "mine\n");
    require_refused(shop, train, {stop, "Ctrl-C", "is not a checkpoint"});
    std::filesystem::remove(stop);
    std::filesystem::create_directory(shop / "pictures");
    write_file(shop / "pictures/pool.png", "mine\n");
    require_refused(shop, train + Words{"--pictures", shop / "pictures"},
                    {"pictures/pool.png", "is not a PNG"});
    REQUIRE(read_file(shop / "pictures/pool.png") == "mine\n");
    write_file(shop / "f_03.png", "mine\n");
    require_refused(shop, {"grow", shop.model, "-o", shop / "f_%02d.png"}, {"f_03.png", "is not"});
}

TEST_CASE("an empty file and a file of the same kind are replaced") {
    const Workshop shop;
    const std::vector<std::string> written = Written(shop).files;
    const std::vector<Writer> all = writers(shop);
    for (std::size_t i = 0; i < all.size(); ++i) {
        const std::string path = shop / ("there" + all[i].extension);
        const Words overwrite = all[i].words[0] == "train" ? Words{"--overwrite"} : Words{};
        for (const std::string& old : {std::string(), written[i]}) {
            INFO(path << " of " << old.size() << " bytes");
            write_file(path, old);
            // A model that is there, out.safetensors, is of the command before.
            const Outcome outcome =
                nca_tool(all[i].words + Words{path} + (old.empty() ? Words{} : overwrite));
            INFO(outcome.err);
            REQUIRE(outcome.code == 0);
            REQUIRE(std::filesystem::file_size(path) > 10);
            std::filesystem::remove(shop / "out.safetensors");
        }
        std::filesystem::remove(path);
    }
}

TEST_CASE("a name that ends like another kind of file is refused") {
    const Workshop shop;
    for (const Writer& writer : writers(shop)) {
        for (const char* extension :
             {".png", ".jpg", ".JPEG", ".gif", ".webp", ".bmp", ".tga", ".csv", ".html", ".htm",
              ".checkpoint", ".safetensors", ".npy", ".json"}) {
            const std::string path = shop / ("file" + std::string(extension));
            const bool own = extension == writer.extension;
            const bool picture = writer.words[0] == "grow" && writer.extension != ".npy";
            const bool both = writer.extension == ".checkpoint" && path.ends_with(".safetensors");
            const bool page = writer.extension == ".html" && path.ends_with(".htm");
            const bool frame =
                path.ends_with(".gif") || path.ends_with(".png") || path.ends_with(".webp");
            if (own || both || page || (picture && frame)) continue;
            require_refused(shop, writer.words + Words{path}, {path, writer.extension});
        }
    }
    const Words train = shop.train_words() + Words{"-o"};
    for (const char* name : {"model", "model.pt", "model.safetensors.bak", ".safetensors", "a."}) {
        require_refused(shop, train + Words{shop / name}, {name, "has to end in .safetensors"});
    }
    // These say nothing of another kind.
    const Outcome outcome = nca_tool(
        train + Words{shop / "a.SafeTensors", "--log", shop / "log.txt", "--report", shop / "page",
                      "--checkpoint", shop / "c.ckpt", "--iterations", "1"});
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
}

TEST_CASE("a model without a history of iterations is replaced only with --overwrite") {
    const Workshop shop;
    const std::string model = shop / "foreign.safetensors";
    const Words words = shop.train_words() + Words{"-o", model, "--iterations", "3"};
    REQUIRE(nca_tool(shop.train_words() + Words{"-o", shop / "other.safetensors", "--checkpoint",
                                                shop / "c", "--iterations", "1"})
                .code == 0);
    steady_model(0, 0).save(model);
    require_refused(shop, words, {model, "no history", "--overwrite"});
    require_refused(shop, words + Words{"--resume", shop / "c"}, {model, "--overwrite"});
    REQUIRE(nca_tool(words + Words{"--resume", shop / "c", "--overwrite"}).code == 0);
    REQUIRE(nca::iterations_in_file(model) == 3);
    steady_model(0, 0).save(model);
    REQUIRE(nca_tool(words + Words{"--overwrite"}).code == 0);

    // Of several targets one has a checkpoint, the other only a model.
    const std::string folder = shop / "models";
    const std::string target = shop / "foreign.png";
    std::filesystem::copy(shop.target, target);
    std::filesystem::create_directory(folder);
    std::filesystem::copy(shop / "c", folder + "/target.checkpoint");
    steady_model(0, 0).save(folder + "/foreign.safetensors");
    const std::string foreign = read_file(folder + "/foreign.safetensors");
    Words several =
        shop.train_words() + Words{"-o", folder, "--iterations", "3", "--resume", folder};
    several.insert(several.begin() + 1, target);
    require_refused(shop, several, {"foreign.safetensors", "--overwrite"});
    REQUIRE((read_file(folder + "/foreign.safetensors") == foreign));
    REQUIRE_FALSE(std::filesystem::exists(folder + "/target.safetensors"));
    REQUIRE(nca_tool(several + Words{"--overwrite"}).code == 0);
    REQUIRE(nca::iterations_in_file(folder + "/foreign.safetensors") == 3);
}

TEST_CASE("a file in the place of a folder is refused") {
    const Workshop shop;
    const std::string file = shop / "file";
    write_file(file, "");  // an empty one, too
    std::filesystem::copy(shop.target, shop / "b.png");
    const Words two = {"train", shop.target, shop / "b.png"};
    const Words models = two + Words{"-o", shop / "models"};
    require_refused(shop, two + Words{"-o", file}, {"-o " + file, "folder"});
    for (const char* option : {"--checkpoint", "--log", "--report", "--pictures"}) {
        require_refused(shop, models + Words{option, file}, {option + (" " + file), "folder"});
    }
    require_refused(shop, {"train", shop.target, "-o", shop / "a.safetensors", "--pictures", file},
                    {"--pictures " + file, "folder"});
}
