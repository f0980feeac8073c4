// SPDX-License-Identifier: MIT
#pragma once

#include <nca/device.hpp>
#include <nca/engine.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <string_view>

namespace nca::tool {

// Replaces control characters, so that text from a file or a command line is safe to print.
inline std::string without_controls(std::string_view text) {
    std::string result(text);
    for (char& c : result) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
    }
    return result;
}

// Prints a line on stderr. Not by fmt::print, which throws where stderr cannot be written.
inline void say(std::string_view message) {
    const std::string line = "nca: " + without_controls(message) + "\n";
    std::fwrite(line.data(), 1, line.size(), stderr);
}

inline std::string duration(double seconds) {
    const auto whole = static_cast<std::int64_t>(std::min(seconds, 1e9) + 0.5);
    if (whole < 60) return fmt::format("{} s", whole);
    return whole < 3600 ? fmt::format("{} min {:02} s", whole / 60, whole % 60)
                        : fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

// Warns, also when quiet, where the engine does not have the precision that was asked for.
inline void check_precision(const Engine& engine, const Device& asked_for) {
    if (asked_for.precision && *asked_for.precision != engine.precision()) {
        say(fmt::format("--precision {}: means float32 on the CPU", name(*asked_for.precision)));
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
    const bool no_memory = dynamic_cast<const std::bad_alloc*>(&error) != nullptr;
    return no_memory ? "not enough memory: take a smaller size, batch or number of steps"
                     : error.what();
}

// Prints a result on stdout. main() checks at the end whether it could be written.
inline void print(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

}  // namespace nca::tool
