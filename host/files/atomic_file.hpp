// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace nca {

// The whole file. Throws IoError where it is missing, not a regular file, longer than max_bytes, or
// cannot be read.
std::vector<std::uint8_t> read_file(const std::filesystem::path& path, std::size_t max_bytes);

// Replaces the file's contents: a temporary file beside it is written, flushed to disk and renamed
// over it, so that at any moment, crashes included, the old or the new file is there whole. Keeps
// the permissions of the old file. Throws IoError and leaves nothing behind where that fails.
void write_file(const std::filesystem::path& path, std::span<const std::uint8_t> contents);
void write_text(const std::filesystem::path& path, std::string_view text);

// Throws IoError where write_file could not write there now, so that hours of work are not lost at
// their end. It makes the temporary file and removes it: permissions alone say nothing to root, or
// about a read-only disk.
void require_writable(const std::filesystem::path& path);

}  // namespace nca
