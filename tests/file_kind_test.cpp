// SPDX-License-Identifier: MIT
// What a file is by its first bytes.
#include "host/files/file_kind.hpp"

#include "tests/support/catch.hpp"

#include <string>
#include <utility>

using namespace nca;
using namespace std::string_literals;
using Catch::Matchers::ContainsSubstring;

namespace {

FileKind kind_of(const std::string& text) {
    return file_kind({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

}  // namespace

TEST_CASE("a file's kind is known by its first bytes") {
    const std::pair<std::string, FileKind> files[] = {
        {"", FileKind::empty},
        {"\x40\x01\0\0\0\0\0\0{\"net"s, FileKind::safetensors},
        {"PK\x03\x04rest", FileKind::zip},
        {"\x80\x02}q\x00."s, FileKind::pickle},
        {"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20j\xa8P\x19.", FileKind::old_pytorch},
        {"(dp0\nVnet.0.weight\n", FileKind::pickle},
        {"(a text)", FileKind::unknown},
        {"\x93NUMPY\x01", FileKind::npy},
        {"\x89HDF\r\n\x1a\n", FileKind::hdf5},
        {"\x1f\x8b\x08", FileKind::gzip},
        {"\x89PNG\r\n\x1a\n", FileKind::png},
        {"\x89PNG", FileKind::unknown},
        {"GIF89a", FileKind::gif},
        {"BM\x9a\0\0\0\0\0\0\0"s, FileKind::picture},
        {"BMW is a car, and this a text", FileKind::unknown},
        {"\xff\xd8\xff\xe0", FileKind::picture},
        {"RIFF\x10\0\0\0WEBPVP8 "s, FileKind::webp},
        {"RIFF\x10\0\0\0WAVEfmt "s, FileKind::unknown},
        {"version https://git-lfs.github.com/spec/v1\noid sha256:0", FileKind::git_lfs},
        {"\n <!DOCTYPE HTML>", FileKind::html},
        {"<html lang=en>", FileKind::html},
        {"\xef\xbb\xbf {\"format\": 1}", FileKind::json},
        {"[{\"data_b64\"", FileKind::json},
        {"hello", FileKind::unknown},
    };
    for (const auto& [text, kind] : files) {
        CAPTURE(text);
        REQUIRE(kind_of(text) == kind);
    }
}

TEST_CASE("a file of another kind is named with what to do") {
    REQUIRE_THAT(not_a_model(FileKind::html), ContainsSubstring("download the file itself"));
    REQUIRE_THAT(not_a_model(FileKind::git_lfs), ContainsSubstring("git lfs pull"));
    REQUIRE_THAT(not_a_model(FileKind::hdf5), ContainsSubstring("HDF5"));
    REQUIRE_THAT(not_a_model(FileKind::picture), ContainsSubstring("expected a model"));
    REQUIRE_THAT(not_a_picture(FileKind::safetensors), ContainsSubstring("expected a picture"));
    REQUIRE_THAT(not_a_picture(FileKind::zip), ContainsSubstring("a model of PyTorch"));
    REQUIRE_THAT(not_a_picture(FileKind::html), ContainsSubstring("download the file itself"));
    REQUIRE(not_a_model(FileKind::unknown).empty());
    REQUIRE(not_a_model(FileKind::safetensors).empty());
    REQUIRE(not_a_picture(FileKind::picture).empty());
}
