// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace nca {

// Reads the whole file. Throws IoError where it is missing, not a regular file, longer than
// max_bytes, or cannot be read.
std::vector<std::uint8_t> read_file(const std::filesystem::path& path, std::size_t max_bytes);

// Replaces the file's contents. Writes a temporary file beside it, flushes that to disk and renames
// it, so that the old or the new file is there as a whole at any moment, even after a crash. Keeps
// the old file's permissions. Throws IoError where this fails, and removes the temporary file.
void write_file(const std::filesystem::path& path, std::span<const std::uint8_t> contents);
void write_text(const std::filesystem::path& path, std::string_view text);

// Throws IoError where write_file could not write this file now. For a check before hours of work.
// It makes the temporary file and removes it, because permissions are not enough to know: root may
// ignore them, and a disk may be read-only.
void require_writable(const std::filesystem::path& path);

}  // namespace nca
