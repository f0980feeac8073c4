// SPDX-License-Identifier: MIT
#pragma once

// Runs the built tool, whose path is in the environment variable NCA_TOOL, and makes the files that
// its tests give it.

#include "tests/support/catch.hpp"
#include "tests/support/process.hpp"

#include <nca/image.hpp>
#include <nca/model.hpp>

#include <unistd.h>
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

namespace nca::test {

using Words = std::vector<std::string>;

inline Words tool_command(Words words) {
    const char* tool = std::getenv("NCA_TOOL");
    if (tool == nullptr) {
        FAIL("the environment variable NCA_TOOL has to hold the path of the tool");
    }
    words.insert(words.begin(), tool);
    return words;
}

inline Outcome nca_tool(const Words& words, rlim_t largest_file = 0) {
    return Process(tool_command(words), largest_file).wait();
}

inline Words operator+(Words a, const Words& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

inline bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

// Where a program of this name is in PATH; empty where there is none.
inline std::string find_program(const std::string& name) {
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
inline Image disc_picture() {
    Image image;
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
inline std::string opaque_picture(int side) {
    std::string bytes(18, '\0');
    bytes[2] = 2;
    bytes[12] = bytes[14] = static_cast<char>(side);
    bytes[16] = 24;
    return bytes +
           std::string(static_cast<std::size_t>(side) * static_cast<std::size_t>(side) * 3, 'x');
}

inline std::string file_with_header(const std::string& header, const std::string& data) {
    std::string bytes(8, '\0');
    const std::uint64_t length = header.size();
    std::memcpy(bytes.data(), &length, sizeof length);
    return bytes + header + data;
}

// The tensors of a model without output bias, as PyTorch writes them, with one piece of the header
// replaced.
inline std::string model_file(const std::string& piece = "", const std::string& replacement = "") {
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

inline std::string model_with_nan() {
    std::string bytes = model_file();
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(bytes.data() + bytes.size() - 33280 + 400, &nan, sizeof nan);
    return bytes;
}

// A model by which each cell changes by the same values in every step: one for alpha, one for a
// hidden channel. All other weights are zero.
inline nca::Model steady_model(float alpha, float hidden) {
    constexpr int some_hidden_channel = 9;
    nca::Model model;
    model.rule.fire_rate = 1;
    const nca::WeightsView weights = model.weights.view();
    weights.b2[nca::alpha_channel] = alpha;
    weights.b2[some_hidden_channel] = hidden;
    model.history.height = model.history.width = 12;
    return model;
}

// A folder with a target and a model that was trained for two iterations.
struct Workshop : Folder {
    Workshop() {
        save_png(target, disc_picture());
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
inline void require_message(const Outcome& outcome, const Words& words) {
    INFO(outcome.err);
    REQUIRE(outcome.err.starts_with("nca: "));
    REQUIRE(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
    for (const std::string& word : words) {
        INFO(word);
        REQUIRE(contains(outcome.err, word));
    }
}

}  // namespace nca::test
