// SPDX-License-Identifier: MIT
#pragma once

#include "host/tool/arguments.hpp"

#include <nca/error.hpp>

#include <fmt/format.h>

#include <unistd.h>
#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>

namespace nca::tool {

// Of the file's name, with its dot.
inline std::string lower_case_extension(const std::filesystem::path& path) {
    std::string extension = path.extension().string();
    std::transform(extension.begin(), extension.end(), extension.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return extension;
}

// The file itself where the path is a link to one: what is to be replaced, so that the link stays.
inline std::filesystem::path linked_file(const std::filesystem::path& path) {
    std::error_code error;
    const std::filesystem::path file = std::filesystem::canonical(path, error);
    return error ? path : file;
}

// Throws IoError where a file cannot be made at this path, or the path leads to something that is
// no file, so that hours of work are not lost at their end. Tries instead of asking for
// permissions: root has them all, on read-only disks too.
inline void require_writable(const std::filesystem::path& path) {
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored)) {
        throw IoError(
            fmt::format("cannot write {}: it is a directory, name a file", path.string()));
    }
    const bool exists = std::filesystem::exists(path, ignored);
    // Replacing a device, such as /dev/null, or a pipe would destroy it.
    if (exists && !std::filesystem::is_regular_file(path, ignored)) {
        throw IoError(fmt::format(
            "cannot write {}: it is a device, a pipe or a socket, name a file", path.string()));
    }
    if (!exists && std::filesystem::is_symlink(path, ignored)) {
        throw IoError(
            fmt::format("cannot write {}: it is a link to a file that is not there, "
                        "remove the link or make the file first",
                        path.string()));
    }
    const std::filesystem::path file_path = linked_file(path);
    const std::filesystem::path parent =
        file_path.has_parent_path() ? file_path.parent_path() : ".";
    if (!std::filesystem::is_directory(parent, ignored)) {
        throw IoError(fmt::format("cannot write {}: there is no directory {}, make it first",
                                  path.string(), parent.string()));
    }
    std::string probe = (parent / ".nca-XXXXXX").string();
    const int file = mkstemp(probe.data());
    if (file < 0) {
        throw IoError(
            fmt::format("cannot write {}: no file can be made in {} ({}), choose another directory",
                        path.string(), parent.string(), std::strerror(errno)));
    }
    close(file);
    unlink(probe.c_str());
}

// Makes a folder, and those that it is in, where it is missing. Throws IoError.
inline void make_folder(const std::filesystem::path& path) {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    if (error) {
        throw IoError(
            fmt::format("cannot write into the folder {}: {}", path.string(), error.message()));
    }
}

// Throws UsageError where two files that are not to overwrite each other are one. Empty paths are
// options that were not given.
inline void require_different(const char* name, const std::filesystem::path& path,
                              const char* other_name, const std::filesystem::path& other) {
    if (path.empty() || other.empty()) {
        return;
    }
    std::error_code ignored;
    if (std::filesystem::weakly_canonical(path, ignored) ==
        std::filesystem::weakly_canonical(other, ignored)) {
        throw UsageError(fmt::format("{}: {} and {} are the same file, name two", path.string(),
                                     name, other_name));
    }
}

}  // namespace nca::tool
