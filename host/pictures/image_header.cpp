// SPDX-License-Identifier: MIT
#include "host/pictures/image_header.hpp"

#include "host/core/throw_error.hpp"
#include "host/files/file_kind.hpp"
#include "host/pictures/image_reader.hpp"
#include "host/pictures/other_format.hpp"

#include <nca/error.hpp>

#include <algorithm>
#include <array>
#include <cstdlib>

namespace nca {
namespace {

using Bytes = std::span<const std::uint8_t>;

constexpr std::array<std::uint8_t, 8> png_signature = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

bool starts_with(Bytes bytes, Bytes start) {
    return bytes.size() >= start.size() && std::ranges::equal(bytes.first(start.size()), start);
}

bool has_bmp_header(Bytes bytes) {
    if (bytes.size() < 18 || bytes[0] != 'B' || bytes[1] != 'M') return false;
    const int header_size = bytes[14];
    return bytes[15] == 0 && bytes[16] == 0 && bytes[17] == 0 &&
           (header_size == 12 || header_size == 40 || header_size == 56 || header_size == 108 ||
            header_size == 124);
}

bool is_gif(Bytes bytes) {
    const auto version = [&](const char* text) {
        return starts_with(bytes, {reinterpret_cast<const std::uint8_t*>(text), 6});
    };
    return version("GIF87a") || version("GIF89a");
}

// Any number of ff before the first marker is allowed.
bool is_jpeg(Bytes bytes) {
    const auto end = std::ranges::find_if(bytes, [](int byte) { return byte != 0xff; });
    return end != bytes.begin() && end != bytes.end() && *end == 0xd8;
}

// A TGA has no signature, so this looks at whether its header makes sense.
bool is_tga(Bytes bytes) {
    if (bytes.size() < 18) return false;
    const auto one_of = [](int value, std::initializer_list<int> expected) {
        return std::ranges::find(expected, value) != expected.end();
    };
    const int palette = bytes[1];
    const int bits = bytes[16];
    const bool fits = palette == 1 ? one_of(bytes[2], {1, 9}) && one_of(bits, {8, 16}) &&
                                         one_of(bytes[7], {8, 15, 16, 24, 32})
                                   : palette == 0 && one_of(bytes[2], {2, 3, 10, 11}) &&
                                         one_of(bits, {8, 15, 16, 24, 32});
    return fits && (bytes[12] | bytes[13]) != 0 && (bytes[14] | bytes[15]) != 0;
}

}  // namespace

// The formats of stb_image are tried in its order.
ImageHeader read_image_header(Bytes bytes, const std::string& name) {
    const auto reader = [&](const char* kind) { return ImageReader(bytes, name, kind); };
    if (bytes.empty()) {
        throw_error<FormatError>("{} is empty, expected an image; copy or export it again", name);
    }
    if (starts_with(bytes, png_signature)) return read_png_header(reader("PNG"));
    if (has_bmp_header(bytes)) return read_bmp_header(reader("BMP"));
    if (is_gif(bytes)) return read_gif_header(reader("GIF"));
    if (is_jpeg(bytes)) return read_jpeg_header(reader("JPEG"));
    const FileKind kind = file_kind(bytes.first(std::min(bytes.size(), kind_bytes)));
    if (kind == FileKind::webp) return read_webp_header(reader("WebP"));
    if (is_tga(bytes)) return read_tga_header(reader("TGA"));
    if (const char* format = name_other_format(bytes)) {
        throw_error<FormatError>(
            "{} is a picture in the format {}, expected {}; export it as PNG or JPEG", name, format,
            image_formats);
    }
    if (const std::string what = not_a_picture(kind); !what.empty()) {
        throw_error<FormatError>("{} is {}", name, what);
    }
    throw_error<FormatError>(
        "{} is not an image that can be read (unknown image type), expected {}; export it as PNG",
        name, image_formats);
}

ImageHeader read_bmp_header(ImageReader file) {
    const std::size_t length = file.left();
    file.skip(10);
    const std::size_t data_start = file.little32();
    const unsigned header_size = file.little32();
    std::int64_t width = 0;
    std::int64_t height = 0;
    if (header_size == 12) {
        width = file.little16();
        height = file.little16();
    } else {
        // A negative height says that the first row is the top one. 64 bits hold the absolute value
        // of -2^31.
        width = std::int32_t(file.little32());
        height = std::abs(std::int64_t{std::int32_t(file.little32())});
    }
    const ImageHeader header = file.header(width, height);
    file.skip(2);
    const std::size_t bits = file.little16();
    const unsigned compression = header_size == 12 ? 0 : file.little32();
    if (compression == 1 || compression == 2) {
        file.refuse("its pixels are compressed by run lengths");
    }
    // Each row takes a multiple of 4 bytes.
    const std::size_t data_size = (std::size_t(width) * bits + 31) / 32 * 4 * std::size_t(height);
    if (length < data_start || length - data_start < data_size) file.ends_too_early();
    return header;
}

ImageHeader read_tga_header(ImageReader file) {
    const std::size_t text_size = file.byte();
    const bool palette = file.byte() == 1;
    const unsigned type = file.byte();
    file.skip(2);
    const std::size_t colours = palette ? file.little16() : (file.skip(2), 0);
    const std::size_t colour_size = (file.byte() + 7) / 8;
    file.skip(4);
    const unsigned width = file.little16();
    const unsigned height = file.little16();
    const ImageHeader header = file.header(width, height);
    const std::size_t pixel_size = (file.byte() + 7) / 8;
    file.skip(1);
    // With run lengths, at most 128 pixels are one byte and one pixel.
    const std::size_t pixels = std::size_t{width} * height;
    const bool run_lengths = type >= 8;
    const std::size_t data_size =
        run_lengths ? (pixels + 127) / 128 * (1 + pixel_size) : pixels * pixel_size;
    if (file.left() < text_size + colours * colour_size + data_size) file.ends_too_early();
    return header;
}

}  // namespace nca
