// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace nca {

// Reads the whole file. Throws IoError where it is missing, not a regular file, longer than
// max_bytes, or cannot be read.
std::vector<std::uint8_t> read_file(const std::filesystem::path& path, std::size_t max_bytes);

// Replaces the file's contents. Writes a temporary file beside it, flushes that to disk and renames
// it, so that the old or the new file is there as a whole at any moment, even after a crash. Keeps
// the old file's permissions, and a link to it. Throws IoError where this fails, and removes the
// temporary file; but where only the renaming fails, keeps it as NAME.rescued-PROCESS, as the
// message says.
void write_file(const std::filesystem::path& path, std::span<const std::uint8_t> contents);
void write_text(const std::filesystem::path& path, std::string_view text);

// A text file that grows. After a failure it stays as it is, and nothing more is written.
class GrowingFile {
public:
    // Replaces the file by this text, as write_text does, and goes on behind it.
    GrowingFile(const std::filesystem::path& path, std::string_view text);

    void append(std::string_view text);  // to a buffer
    // Write the buffer, sync also to the disk. False once, where that fails.
    bool flush();
    bool sync();

private:
    struct Close {
        void operator()(std::FILE* file) const { std::fclose(file); }
    };
    bool close_unless(bool good);

    std::unique_ptr<std::FILE, Close> file_;  // null after a failure
};

// Throws IoError where write_file could not write this file now. For a check before hours of work.
// Makes the temporary file and removes it, because permissions are not enough to know: root may
// ignore them, and a disk may be read-only. Also removes the temporary files in the folder that
// belong to processes that were killed.
void require_writable(const std::filesystem::path& path);

// The path of the file that write_file would replace, absolute and without links, as far as its
// folders are there. Two paths name the same file where these are equal.
std::filesystem::path resolved(const std::filesystem::path& path);

}  // namespace nca
