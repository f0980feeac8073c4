// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace nca {

// What a file is, as far as its first bytes say.
enum class FileKind {
    unknown,
    empty,
    safetensors,
    zip,  // PyTorch's files are zip archives, and NumPy's npz
    json,
    pickle,
    old_pytorch,  // torch.save before PyTorch 1.6
    npy,
    hdf5,
    gzip,
    html,
    git_lfs,  // a pointer in place of the file
    png,
    gif,
    webp,
    picture,  // JPEG or BMP
};

// How many bytes file_kind() looks at.
inline constexpr std::size_t kind_bytes = 512;

// first: the first kind_bytes bytes of the file, or all that it has.
FileKind file_kind(std::span<const std::uint8_t> first);

// The same for a file on the disk. Throws IoError where it cannot be read.
FileKind file_kind(const std::filesystem::path& path);

// What such a file is and what to do, for a message "FILE is ..." where a model or a picture was
// expected: "an HTML page: ...". Empty where the kind is unknown.
std::string not_a_model(FileKind kind);
std::string not_a_picture(FileKind kind);

}  // namespace nca
