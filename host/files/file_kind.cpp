// SPDX-License-Identifier: MIT
#include "host/files/file_kind.hpp"
#include "host/files/open_file.hpp"

#include <array>
#include <cctype>
#include <cstring>
#include <string_view>

namespace nca {
namespace {

using Bytes = std::span<const std::uint8_t>;

bool starts_with(Bytes bytes, std::string_view start) {
    return bytes.size() >= start.size() &&
           std::memcmp(bytes.data(), start.data(), start.size()) == 0;
}

// The text behind white space and a byte order mark, in lower case.
std::string text_of(Bytes bytes) {
    constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";
    if (starts_with(bytes, byte_order_mark)) bytes = bytes.subspan(byte_order_mark.size());
    std::string text;
    for (const std::uint8_t byte : bytes) {
        if (!text.empty() || std::isspace(byte) == 0) text += char(std::tolower(byte));
    }
    return text;
}

// A header length that is not absurd, and then the JSON of the header.
bool is_safetensors(Bytes bytes) {
    return bytes.size() > 8 && bytes[8] == '{' && bytes[5] == 0 && bytes[6] == 0 && bytes[7] == 0;
}

// How a pickle begins: of protocol 2 or later, or a dictionary or list of protocol 0. torch.save
// once wrote its magic number in one.
constexpr std::string_view old_pytorch_magic = "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
bool is_pickle(Bytes bytes) {
    return (bytes.size() > 2 && bytes[0] == 0x80 && bytes[1] >= 2 && bytes[1] <= 5) ||
           starts_with(bytes, "(dp0\n") || starts_with(bytes, "(lp0\n");
}

// "BM", the file's size, and four zeros.
bool is_bmp(Bytes bytes) {
    return starts_with(bytes, "BM") && bytes.size() >= 10 &&
           (bytes[6] | bytes[7] | bytes[8] | bytes[9]) == 0;
}

bool is_webp(Bytes bytes) {
    return starts_with(bytes, "RIFF") && bytes.size() >= 12 &&
           starts_with(bytes.subspan(8), "WEBP");
}

// The same for a model and a picture.
std::string neither(FileKind kind) {
    switch (kind) {
        case FileKind::empty:
            return "empty: copy or download it again";
        case FileKind::html:
            return "an HTML page: download the file itself, not the page that shows it";
        case FileKind::git_lfs:
            return "a pointer of git-lfs in place of the file: fetch that with git lfs pull";
        case FileKind::gzip:
            return "compressed with gzip: unpack it first";
        default:
            return "";
    }
}

}  // namespace

FileKind file_kind(Bytes first) {
    if (first.empty()) return FileKind::empty;
    if (is_safetensors(first)) return FileKind::safetensors;
    if (starts_with(first, "PK\x03\x04") || starts_with(first, "PK\x05\x06")) return FileKind::zip;
    if (starts_with(first, "\x93NUMPY")) return FileKind::npy;
    if (starts_with(first, "\x89HDF\r\n\x1a\n")) return FileKind::hdf5;
    if (starts_with(first, "\x1f\x8b")) return FileKind::gzip;
    if (is_pickle(first)) {
        return starts_with(first.subspan(2), old_pytorch_magic) ? FileKind::old_pytorch
                                                                : FileKind::pickle;
    }
    if (starts_with(first, "\x89PNG\r\n\x1a\n")) return FileKind::png;
    if (starts_with(first, "GIF8")) return FileKind::gif;
    if (is_webp(first)) return FileKind::webp;
    if (starts_with(first, "\xff\xd8\xff") || is_bmp(first)) return FileKind::picture;
    const std::string text = text_of(first);
    if (text.starts_with("version https://git-lfs")) return FileKind::git_lfs;
    if (text.starts_with("<!doctype html") || text.starts_with("<html")) return FileKind::html;
    if (text.starts_with('{') || text.starts_with('[')) return FileKind::json;
    return FileKind::unknown;
}

FileKind file_kind(const std::filesystem::path& path) {
    std::array<std::uint8_t, kind_bytes> first;
    return file_kind(std::span(first).first(OpenFile(path).read(first, 0)));
}

std::string not_a_model(FileKind kind) {
    switch (kind) {
        case FileKind::zip:
        case FileKind::old_pytorch:
        case FileKind::json:
            return "of another program: nca convert makes a safetensors file of such weights";
        case FileKind::png:
        case FileKind::gif:
        case FileKind::webp:
        case FileKind::picture:
            return "a picture, expected a model: nca train makes a model from a picture";
        case FileKind::pickle:
            return "a pickle, which may run any program: load it in Python and save its tensors "
                   "with safetensors.torch.save_file or torch.save";
        case FileKind::npy:
            return "a NumPy array: save all tensors of the model with safetensors.numpy.save_file";
        case FileKind::hdf5:
            return "an HDF5 file, as Keras writes: load it there and save its weights with "
                   "safetensors.numpy.save_file";
        default:
            return neither(kind);
    }
}

std::string not_a_picture(FileKind kind) {
    switch (kind) {
        case FileKind::safetensors:
            return "a safetensors file, expected a picture: nca grow makes a picture of a model";
        case FileKind::zip:
            return "a zip archive or a model of PyTorch, expected a picture: unpack the archive "
                   "first";
        case FileKind::json:
            return "json, expected a picture";
        case FileKind::pickle:
        case FileKind::old_pytorch:
            return "a pickle of Python, expected a picture";
        case FileKind::npy:
            return "a NumPy array, expected a picture: save it as PNG";
        case FileKind::hdf5:
            return "an HDF5 file, expected a picture";
        default:
            return neither(kind);
    }
}

}  // namespace nca
