// SPDX-License-Identifier: MIT
#pragma once

#include "host/core/rule_names.hpp"
#include "host/core/throw_error.hpp"
#include "host/tool/safe_text.hpp"

#include <nca/device.hpp>
#include <nca/engine.hpp>
#include <nca/error.hpp>
#include <nca/model.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nca::tool {

// Prints a line on stderr. Not by fmt::print, which throws where stderr cannot be written.
inline void say_whole(std::string_view message) {
    const std::string line = "nca: " + without_controls(message) + "\n";
    std::fwrite(line.data(), 1, line.size(), stderr);
}
inline void say(std::string_view message) { say_whole(shortened(message)); }
template <class Value, class... Values>
void say(fmt::format_string<Value, Values...> message, Value&& value, Values&&... values) {
    say(std::string_view(
        fmt::format(message, std::forward<Value>(value), std::forward<Values>(values)...)));
}

inline std::string duration(double seconds) {
    const std::int64_t whole = std::llround(std::min(seconds, 1e9));
    if (whole < 60) return fmt::format("{} s", whole);
    return whole < 3600 ? fmt::format("{} min {:02} s", whole / 60, whole % 60)
                        : fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

// Warns, also when quiet, where the engine does not have the precision that was asked for.
inline void check_precision(const Engine& engine, const Device& asked_for) {
    if (asked_for.precision && *asked_for.precision != engine.precision()) {
        say("--precision {}: means float32 on the CPU", name(*asked_for.precision));
    }
}

// The message before the work starts: which engine runs it.
inline std::string running_on(const Engine& engine, const Device& asked_for) {
    const bool fell_back =
        asked_for.kind == Device::Kind::automatic && engine.memory_space() == MemorySpace::host;
    return fmt::format("{}running on {}",
                       fell_back ? "no CUDA device that this build can use: " : "",
                       engine.description());
}

// An exception's message for the user.
inline std::string message_of(const std::exception& error) {
    if (dynamic_cast<const std::bad_alloc*>(&error)) {
        return "not enough memory: take a smaller size, batch or number of steps";
    }
    const bool needs_gpu =
        dynamic_cast<const CudaError*>(&error) || dynamic_cast<const NotCompiled*>(&error);
    return std::string(error.what()) + (needs_gpu ? "; --device cpu runs without a GPU" : "");
}

// Where a model's rule is from and what was converted, a line each; none for a file of this
// library.
inline std::vector<std::string> origin_text(const ModelOrigin& origin) {
    std::vector<std::string> lines;
    if (origin.rule_source == RuleSource::guess) {
        lines.push_back(fmt::format(
            "no rule in the file; guessed: --rule {} --input-order {}, the first under which it "
            "lives; give others where that looks wrong",
            origin.rule, input_order_names[std::size_t(origin.input_order)]));
    }
    lines.insert(lines.end(), origin.notes.begin(), origin.notes.end());
    return lines;
}

// Reads a model, and says what its file does not.
inline Model load_model(const std::filesystem::path& path, const LoadOptions& options = {}) {
    Model model = Model::load(path, options);
    for (const std::string& line : origin_text(model.origin)) say("{}: {}", path.string(), line);
    return model;
}

// Prints a result on stdout. main() checks at the end whether it could be written.
inline void print(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }
template <class Value, class... Values>
void print(fmt::format_string<Value, Values...> text, Value&& value, Values&&... values) {
    print(std::string_view(
        fmt::format(text, std::forward<Value>(value), std::forward<Values>(values)...)));
}

}  // namespace nca::tool
