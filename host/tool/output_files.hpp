// SPDX-License-Identifier: MIT
#pragma once

#include "host/core/throw_error.hpp"
#include "host/files/atomic_file.hpp"
#include "host/tool/arguments/arguments.hpp"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <string>

namespace nca::tool {

// The extension of the file's name, with its dot.
inline std::string lower_case_extension(const std::filesystem::path& path) {
    std::string extension = path.extension().string();
    std::transform(extension.begin(), extension.end(), extension.begin(),
                   [](unsigned char c) { return char(std::tolower(c)); });
    return extension;
}

// Makes a folder and its parents where they are missing. Throws IoError.
inline void make_folder(const std::filesystem::path& path) {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    if (error) {
        throw_error<IoError>("cannot write into the folder {}: {}", path.string(), error.message());
    }
}

// Throws UsageError where the two paths are the same file. An empty path is an option that was not
// given.
inline void require_different(const char* name, const std::filesystem::path& path,
                              const char* other_name, const std::filesystem::path& other) {
    if (path.empty() || other.empty()) return;
    if (resolved(path) == resolved(other)) {
        throw_error<UsageError>("{}: {} and {} are the same file, name two", path.string(), name,
                                other_name);
    }
}

}  // namespace nca::tool
