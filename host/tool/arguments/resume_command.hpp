// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cctype>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

namespace nca::tool {

inline std::string shell_quoted(const std::string& word) {
    const bool plain = !word.empty() && std::all_of(word.begin(), word.end(), [](unsigned char c) {
        return c >= 0x80 || std::isalnum(c) || std::strchr("_-./:=,+@%", c) != nullptr;
    });
    if (plain) return word;
    std::string result = "'";
    for (const char c : word) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return result + "'";
}

// The same command line, with --resume set to this checkpoint or folder of checkpoints.
inline std::string resume_command(const std::vector<std::string>& command_line,
                                  const std::filesystem::path& checkpoint) {
    std::string command;
    for (std::size_t i = 0; i < command_line.size(); ++i) {
        const std::string& word = command_line[i];
        if (word == "--resume") {
            ++i;
        } else if (!word.starts_with("--resume=")) {
            command += shell_quoted(word) + " ";
        }
    }
    return command + "--resume " + shell_quoted(checkpoint.string());
}

}  // namespace nca::tool
