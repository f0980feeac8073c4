// SPDX-License-Identifier: MIT
#pragma once

#include "host/core/throw_error.hpp"
#include "host/files/atomic_file.hpp"
#include "host/files/file_kind.hpp"
#include "host/tool/arguments/arguments.hpp"

#include <nca/model.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

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

// Throws UsageError where a file is in the place of a folder.
inline void require_folder(const char* name, const std::filesystem::path& path) {
    std::error_code ignored;
    if (path.empty() || !std::filesystem::exists(path, ignored) ||
        std::filesystem::is_directory(path, ignored)) {
        return;
    }
    throw_error<UsageError>("{} {}: expected a folder, but a file is there: name a folder", name,
                            path.string());
}

// Whether there is a file that has anything in it.
inline bool has_contents(const std::filesystem::path& path) {
    std::error_code error;
    return std::filesystem::is_regular_file(path, error) &&
           std::filesystem::file_size(path, error) > 0 && !error;
}

// A kind of file that the tool writes.
struct OutputKind {
    std::string_view name;                     // as in "is not a model"
    std::vector<std::string_view> extensions;  // of such files
    // Whether a file is of this kind. May throw FormatError where it is not.
    bool (*matches)(const std::filesystem::path& path);
};

inline bool is_png(const std::filesystem::path& path) { return file_kind(path) == FileKind::png; }

inline bool is_picture(const std::filesystem::path& path) {
    const FileKind kind = file_kind(path);
    return kind == FileKind::png || kind == FileKind::gif || kind == FileKind::webp;
}

inline bool is_npy(const std::filesystem::path& path) { return file_kind(path) == FileKind::npy; }

inline bool is_model(const std::filesystem::path& path) {
    Model::load(path);
    return true;
}

// The preset in the history of a file of gradients, which has the form of a model.
inline constexpr auto gradients_preset = "gradcheck";

inline bool is_gradients(const std::filesystem::path& path) {
    return Model::load(path).history.preset == gradients_preset;
}

inline const OutputKind model_kind{"a model", {".safetensors"}, is_model};
inline const OutputKind gradients_kind{"a file of gradients", {".safetensors"}, is_gradients};
inline const OutputKind picture_kind{
    "a PNG, GIF or WebP picture", {".png", ".gif", ".webp"}, is_picture};
inline const OutputKind png_kind{"a PNG picture", {".png"}, is_png};
inline const OutputKind npy_kind{"a NumPy array", {".npy"}, is_npy};

// Throws UsageError where the path has the extension of another kind of file, or is a file with
// contents of another kind, which would be lost. An empty path is an option that was not given.
inline void require_kind(const char* name, const std::filesystem::path& path,
                         const OutputKind& kind) {
    constexpr std::string_view known[] = {".safetensors", ".checkpoint", ".csv", ".html", ".htm",
                                          ".npy",         ".json",       ".png", ".jpg",  ".jpeg",
                                          ".gif",         ".webp",       ".bmp", ".tga"};
    if (path.empty()) return;
    const std::string extension = lower_case_extension(path);
    if (std::ranges::count(kind.extensions, extension) == 0 &&
        std::ranges::count(known, extension) > 0) {
        throw_error<UsageError>("{} {}: {} is the ending of another kind of file, expected {}",
                                name, path.string(), extension, fmt::join(kind.extensions, " or "));
    }
    if (!has_contents(path)) return;
    const auto matches = [&] {
        try {
            return kind.matches(path);
        } catch (const IoError&) {  // nobody knows what is in it
            throw;
        } catch (const Error&) {
            return false;
        }
    };
    if (!matches()) {
        throw_error<UsageError>(
            "{} {}: the file that is there is not {} and is not replaced: name another file, or "
            "remove it",
            name, path.string(), kind.name);
    }
}

}  // namespace nca::tool
