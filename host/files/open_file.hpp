// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace nca {

// The system's words for a value of errno.
std::string error_text(int error);

// Whether a name has a NUL character. The system would take the characters before it for the name:
// that of another file.
bool has_nul(const std::filesystem::path& path);

// A regular file that is open for reading.
class OpenFile {
public:
    // Throws IoError where the file is missing, not a regular file, or cannot be read.
    explicit OpenFile(const std::filesystem::path& path);
    ~OpenFile();
    OpenFile(const OpenFile&) = delete;
    OpenFile& operator=(const OpenFile&) = delete;

    std::uint64_t size() const { return size_; }  // in bytes, when it was opened

    // Fills `bytes` with those of the file from offset on. Returns how many there are: fewer than
    // asked for where the file ends before. Throws IoError where they cannot be read.
    std::size_t read(std::span<std::uint8_t> bytes, std::uint64_t offset) const;

private:
    std::filesystem::path path_;
    int descriptor_;
    std::uint64_t size_ = 0;
};

}  // namespace nca
