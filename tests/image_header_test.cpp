// SPDX-License-Identifier: MIT
// Image files that are damaged, or made to do harm: each is an error, at once and in little memory.
#include <nca/error.hpp>
#include <nca/image.hpp>

#include "host/pictures/decode_image.hpp"
#include "host/pictures/image_header.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/image_files.hpp"
#include "tests/support/temporary_directory.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace {

using Catch::Matchers::ContainsSubstring;
using nca::FormatError;
using nca::Image;
using nca::test::Bytes;
using nca::test::message_of;

const std::string too_early = "x is not a whole image: it ends too early; copy or export it again";
const std::string too_large = "x is larger than 8192 x 8192 pixels; scale it down first";

// The message of the error, empty where the image is read.
std::string refused(const Bytes& bytes) {
    return message_of<FormatError>([&] { nca::decode_image(bytes, "x"); });
}

Bytes join(std::initializer_list<Bytes> parts) {
    Bytes all;
    for (const Bytes& part : parts) all.insert(all.end(), part.begin(), part.end());
    return all;
}

Bytes repeated(const Bytes& part, int times) {
    Bytes all;
    for (int i = 0; i < times; ++i) all.insert(all.end(), part.begin(), part.end());
    return all;
}

Bytes big16(int value) { return {std::uint8_t(value >> 8), std::uint8_t(value)}; }
Bytes big32(std::uint32_t value) { return join({big16(int(value >> 16)), big16(int(value))}); }
Bytes little16(int value) { return {std::uint8_t(value), std::uint8_t(value >> 8)}; }
Bytes little32(std::int64_t value) { return join({little16(int(value)), little16(value >> 16)}); }

// --- JPEG, of one channel unless it says otherwise
// ------------------------------------------------

Bytes segment(int marker, const Bytes& data) {
    return join({{0xff, std::uint8_t(marker)}, big16(int(data.size()) + 2), data});
}

const Bytes jpeg_start = {0xff, 0xd8};
const Bytes jpeg_end = {0xff, 0xd9};
const Bytes quantisation = segment(0xdb, join({{0}, Bytes(64, 1)}));

// A table with one code: a zero bit is this symbol.
Bytes huffman(int kind, std::uint8_t symbol = 0) {
    return segment(0xc4, join({{std::uint8_t(kind << 4), 1}, Bytes(15), {symbol}}));
}
const Bytes dc_table = huffman(0);
const Bytes ac_table = huffman(1);

enum Process { baseline = 0xc0, progressive = 0xc2 };

// Channels 1, 2, ... with one block each in a unit.
Bytes frame(Process process, int width, int height, int channels = 1) {
    Bytes data = join({{8}, big16(height), big16(width), {std::uint8_t(channels)}});
    for (int i = 1; i <= channels; ++i) data = join({data, {std::uint8_t(i), 0x11, 0}});
    return segment(process, data);
}

// A scan of channel 1. bits is the byte with the bit of the scan before and of this one.
Bytes scan(int first, int last, int bits, std::size_t data, std::uint8_t tables = 0) {
    return join(
        {segment(0xda, {1, 1, tables, std::uint8_t(first), std::uint8_t(last), std::uint8_t(bits)}),
         Bytes(data)});
}

Bytes small_jpeg() {
    return join({jpeg_start, quantisation, frame(baseline, 8, 8), dc_table, ac_table,
                 scan(0, 63, 0, 1), jpeg_end});
}

// --- PNG, without checksums, which stb_image does not read
// ----------------------------------------

Bytes chunk(const char* type, const Bytes& data) {
    return join({big32(std::uint32_t(data.size())), Bytes(type, type + 4), data, Bytes(4)});
}

Bytes png(std::uint32_t width, std::uint32_t height, int depth, int colour, const Bytes& data) {
    const Bytes header =
        join({big32(width), big32(height), {std::uint8_t(depth), std::uint8_t(colour), 0, 0, 0}});
    return join({{0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'},
                 chunk("IHDR", header),
                 chunk("IDAT", data),
                 chunk("IEND", {})});
}

// A stream of zeros that deflate makes as short as it can: each byte is 1032 of them.
Bytes zeros(std::size_t count) {
    const Bytes tables = {0x78, 0x01, 0xed, 0xc0, 0x81, 0,    0,    0,
                          0,    0x80, 0xa0, 0xfd, 0xa9, 0x17, 0xa9, 0};
    return join({tables, Bytes(count / 1032 + 1), {0x06}, Bytes(4)});  // and a checksum
}

// --- BMP, GIF, TGA, WebP
// --------------------------------------------------------------------------------

Bytes bmp(std::int64_t width, std::int64_t height, std::size_t data) {
    return join({{'B', 'M'},
                 Bytes(8),
                 little32(54),
                 little32(40),
                 little32(width),
                 little32(height),
                 little16(1),
                 little16(24),
                 Bytes(24),
                 Bytes(data)});
}

Bytes small_bmp(int width, int height, std::size_t data) {  // with the header of OS/2
    return join({{'B', 'M'},
                 Bytes(8),
                 little32(26),
                 little32(12),
                 little16(width),
                 little16(height),
                 little16(1),
                 little16(24),
                 Bytes(data)});
}

Bytes gif(int width, int height, int frame_width, int frame_height, const Bytes& codes) {
    Bytes file = join({{'G', 'I', 'F', '8', '9', 'a'},
                       little16(width),
                       little16(height),
                       {0x80, 0, 0},
                       {0, 0, 255, 255, 0, 0},
                       {0x2c},
                       Bytes(4),
                       little16(frame_width),
                       little16(frame_height),
                       {0, 2}});
    for (std::size_t i = 0; i < codes.size(); i += 255) {
        const auto size = std::ptrdiff_t(std::min<std::size_t>(255, codes.size() - i));
        const auto begin = codes.begin() + std::ptrdiff_t(i);
        file.push_back(std::uint8_t(size));
        file.insert(file.end(), begin, begin + size);
    }
    return join({file, {0, 0x3b}});
}

const Bytes two_pixels = {0x44, 0x0a};

// The codes of a GIF that define code after code, each for one pixel more than the one before. A
// round has 4 + ... + 4095 pixels in 6 KB.
Bytes growing_codes(int rounds) {
    Bytes bytes;
    std::uint32_t bits = 0;
    int valid = 0;
    const auto put = [&](int code, int width) {
        bits |= std::uint32_t(code) << valid;
        for (valid += width; valid >= 8; valid -= 8, bits >>= 8) bytes.push_back(bits & 255);
    };
    for (int round = 0; round < rounds; ++round) {
        put(4, round == 0 ? 3 : 12);
        put(0, 3);
        int width = 3;
        for (int code = 6; code < 4096; ++code) {
            put(code, width);
            if (((code + 1) & ((1 << width) - 1)) == 0 && width < 12) ++width;
        }
    }
    put(5, 12);
    put(0, 7);
    return bytes;
}

Bytes riff_chunk(const char* type, const Bytes& data) {
    return join(
        {Bytes(type, type + 4), little32(std::int64_t(data.size())), data, Bytes(data.size() % 2)});
}

Bytes webp(const Bytes& chunks) {
    return join({{'R', 'I', 'F', 'F'},
                 little32(std::int64_t(chunks.size()) + 4),
                 {'W', 'E', 'B', 'P'},
                 chunks});
}

// One colour, lossless, whatever its size. The size is in 14 bits each, less 1.
Bytes plain_webp(std::uint32_t width, std::uint32_t height) {
    Image image{.height = 8, .width = 8, .pixels = {}};
    image.pixels.assign(std::size_t{8} * 8 * 4, 200);
    Bytes file = nca::test::encode_webp(image, true);
    const std::uint32_t size = (width - 1) | (height - 1) << 14;
    const std::uint32_t had = 7 | 7 << 14;
    for (std::size_t i = 0; i < 4; ++i) {
        file[21 + i] ^= std::uint8_t((had ^ size) >> 8 * i);
    }
    return file;
}

Bytes tga(int type, int width, int height, int bits, std::size_t data) {
    return join({{0, 0, std::uint8_t(type)},
                 Bytes(9),
                 little16(width),
                 little16(height),
                 {std::uint8_t(bits), 0},
                 Bytes(data)});
}

}  // namespace

TEST_CASE("a JPEG table has at most 256 codes") {
    Bytes found = {0xff, 0xd8, 0xff, 0xc4, 0x10, 0x03, 0x13};
    found.insert(found.end(), 16, 0xff);
    REQUIRE(refused(found) == too_early);
    found.resize(2 + 2 + 0x1003);
    REQUIRE_THAT(refused(found), ContainsSubstring("4080 codes, expected at most 256"));

    const auto with_codes = [](int kind, std::uint8_t shorter, std::uint8_t longest) {
        Bytes table = join({{std::uint8_t(kind << 4 | 3)}, Bytes(14), {shorter, longest}});
        table.resize(table.size() + shorter + longest);
        return join({jpeg_start, segment(0xc4, table), quantisation, frame(baseline, 8, 8),
                     dc_table, ac_table, scan(0, 63, 0, 1), jpeg_end});
    };
    for (const int kind : {0, 1}) {
        REQUIRE(refused(with_codes(kind, 1, 255)).empty());
        REQUIRE_THAT(refused(with_codes(kind, 2, 255)),
                     ContainsSubstring("257 codes, expected at most 256"));
        REQUIRE_THAT(refused(with_codes(kind, 255, 255)), ContainsSubstring("510 codes"));
    }
    for (const std::uint8_t what : {0x04, 0x14, 0x20, 0xff}) {
        const Bytes table = segment(0xc4, join({{what, 1}, Bytes(15), {0}}));
        REQUIRE_THAT(refused(join({jpeg_start, table, jpeg_end})),
                     ContainsSubstring("a Huffman table is malformed"));
    }
    // Tables longer than their segments.
    REQUIRE_THAT(refused(join({jpeg_start, segment(0xc4, Bytes(16)), jpeg_end})),
                 ContainsSubstring("a Huffman table is malformed"));
    REQUIRE_THAT(refused(join({jpeg_start, segment(0xc4, join({{0, 1}, Bytes(15)})), jpeg_end})),
                 ContainsSubstring("a Huffman table is cut off"));
    for (const int size : {64, 66}) {
        REQUIRE_THAT(refused(join({jpeg_start, segment(0xdb, Bytes(size)), jpeg_end})),
                     ContainsSubstring("a quantisation table is malformed"));
    }
}

TEST_CASE("a JPEG scan that uses a missing table is refused") {
    const auto jpeg = [](Process process, const std::vector<Bytes>& tables,
                         const std::vector<Bytes>& scans) {
        Bytes file = join({jpeg_start, frame(process, 8, 8)});
        for (const Bytes& part : tables) file = join({file, part});
        for (const Bytes& part : scans) file = join({file, part});
        return join({file, jpeg_end});
    };
    const auto missing = [](const std::string& table) {
        return ContainsSubstring("a scan uses the " + table + ", which is missing");
    };
    const Bytes all = scan(0, 63, 0, 1);
    REQUIRE(refused(jpeg(baseline, {quantisation, dc_table, ac_table}, {all})).empty());
    REQUIRE_THAT(refused(jpeg(baseline, {dc_table, ac_table}, {all})),
                 missing("quantisation table 0"));
    REQUIRE_THAT(refused(jpeg(baseline, {quantisation, ac_table}, {all})),
                 missing("Huffman (DC) table 0"));
    REQUIRE_THAT(refused(jpeg(baseline, {quantisation, dc_table}, {all})),
                 missing("Huffman (AC) table 0"));
    for (const std::uint8_t tables : {0x01, 0x10, 0x30, 0x03, 0x04, 0x40, 0xff}) {
        REQUIRE_THAT(refused(jpeg(baseline, {quantisation, dc_table, ac_table},
                                  {scan(0, 63, 0, 1, tables)})),
                     ContainsSubstring("which is missing"));
    }

    // A scan of a progressive JPEG needs at most one.
    const Bytes first = scan(0, 0, 0x01, 1);
    const Bytes refining = scan(0, 0, 0x10, 1, 0x33);
    const Bytes others = scan(1, 63, 0x00, 1, 0x30);
    REQUIRE(refused(jpeg(progressive, {quantisation, dc_table}, {first, refining})).empty());
    REQUIRE(
        refused(jpeg(progressive, {quantisation, dc_table}, {first, refining, ac_table, others}))
            .empty());
    REQUIRE_THAT(refused(jpeg(progressive, {quantisation, ac_table}, {first})),
                 missing("Huffman (DC) table 0"));
    REQUIRE_THAT(refused(jpeg(progressive, {quantisation, dc_table}, {first, others})),
                 missing("Huffman (AC) table 0"));
    REQUIRE_THAT(refused(jpeg(progressive, {dc_table, ac_table}, {first})),
                 missing("quantisation table 0"));
}

TEST_CASE("a JPEG whose segments make no picture is refused") {
    const Bytes tables = join({quantisation, dc_table, ac_table});
    const Bytes all = scan(0, 63, 0, 1);
    const Bytes start = join({jpeg_start, tables});
    REQUIRE_THAT(refused(join({start, jpeg_end})), ContainsSubstring("it has no picture"));
    REQUIRE_THAT(refused(join({start, all, frame(baseline, 8, 8), jpeg_end})),
                 ContainsSubstring("it has data before its frame"));
    REQUIRE_THAT(refused(join({start, frame(baseline, 8, 8), frame(baseline, 9, 9), all})),
                 ContainsSubstring("it has two frames"));
    REQUIRE_THAT(refused(join({start, frame(baseline, 8, 8), jpeg_end})),
                 ContainsSubstring("channel 1 has no data"));
    REQUIRE_THAT(refused(join({start, frame(baseline, 8, 8, 3), all, jpeg_end})),
                 ContainsSubstring("channel 2 has no data"));
    REQUIRE_THAT(refused(join({start, frame(progressive, 8, 8), scan(1, 63, 0, 1), jpeg_end})),
                 ContainsSubstring("channel 1 has no data"));
    REQUIRE_THAT(refused(join({start, frame(baseline, 8, 8), all, all, jpeg_end})),
                 ContainsSubstring("channel 1 has data twice"));
    REQUIRE_THAT(
        refused(join({start, frame(baseline, 8, 8), segment(0xda, {1, 7, 0, 0, 63, 0}), jpeg_end})),
        ContainsSubstring("a scan has a channel 7, its frame has not"));
    REQUIRE_THAT(refused(join({start, frame(baseline, 8, 8), segment(0xda, {}), jpeg_end})),
                 ContainsSubstring("a scan of 0 channels is malformed"));
    REQUIRE_THAT(refused(join({start, frame(baseline, 8, 8, 0), jpeg_end})),
                 ContainsSubstring("its frame has 0 channels"));
    REQUIRE_THAT(refused(join({start, frame(baseline, 8, 8, 5), jpeg_end})),
                 ContainsSubstring("its frame has 5 channels"));
    REQUIRE_THAT(refused(join({start, frame(baseline, 0, 8), jpeg_end})),
                 ContainsSubstring("it has 0 x 8 pixels"));
    REQUIRE(refused(join({start, frame(baseline, 8193, 8), jpeg_end})) == too_large);
    REQUIRE_THAT(refused(join({jpeg_start, {0xff, 0xc9, 0, 2}, jpeg_end})),
                 ContainsSubstring("neither baseline nor progressive, but has the marker ffc9"));
    REQUIRE_THAT(refused(join({jpeg_start, {0xff, 0xe0, 0, 1}, jpeg_end})),
                 ContainsSubstring("a segment has a length of 1"));
    // Each of the 65536 blocks has at least a bit.
    const Bytes large = join({start, frame(baseline, 2048, 2048)});
    REQUIRE(refused(join({large, scan(0, 63, 0, 65536 / 8 - 3), jpeg_end})) == too_early);
    REQUIRE(refused(join({large, scan(0, 63, 0, 65536 / 4), jpeg_end})).empty());
}

TEST_CASE("whatever cameras put into a JPEG leaves its pixels alone") {
    const Bytes plain = small_jpeg();
    const Image expected = nca::decode_image(plain, "x");
    const Bytes rest(plain.begin() + 2, plain.end());
    const Bytes picture(plain.begin(), plain.end() - 2);
    const Bytes thumbnail = segment(0xe1, join({{'E', 'x', 'i', 'f'}, plain}));
    const Bytes comment = segment(0xfe, {'h', 'i', 0xff, 0xd9, 0xff, 0xda, 0xff, 0xc4});
    const Bytes both_tables =
        segment(0xc4, join({{0, 1}, Bytes(15), {0}, {0x10, 1}, Bytes(15), {0}}));
    const auto same = [&](const Bytes& file) {
        const Image image = nca::decode_image(file, "x");
        REQUIRE(image.height == 8);
        REQUIRE(image.width == 8);
        REQUIRE(image.pixels == expected.pixels);
    };
    same(join({jpeg_start, thumbnail, comment, rest}));
    same(join({jpeg_start, segment(0xdd, {0, 1}), rest}));                       // restart markers
    same(join({jpeg_start, {0xff, 0xff}, rest}));                                // fill bytes
    same(join({{0xff, 0xff, 0xff}, plain}));                                     // at the start
    same(join({picture, {0xff, 0xff}, jpeg_end}));                               // and the end
    same(join({jpeg_start, comment, {0, 1, 2}, rest}));                          // padding
    same(join({picture, Bytes(50), jpeg_end}));                                  // after the data
    same(join({plain, plain}));                                                  // a second picture
    same(join({plain, Bytes(1000, 0xff)}));                                      // anything
    same(join({picture, {0xff, 0xdc, 0, 4, 0, 8}, jpeg_end}));                   // the height again
    same(join({jpeg_start, dc_table, dc_table, quantisation, ac_table, rest}));  // redefined
    same(join({jpeg_start, quantisation, both_tables, frame(baseline, 8, 8), scan(0, 63, 0, 1),
               jpeg_end}));
    same(join({jpeg_start, frame(baseline, 8, 8), quantisation, both_tables, scan(0, 63, 0, 1),
               jpeg_end}));
}

TEST_CASE("a JPEG with far more scans than a picture needs is refused") {
    const std::string expected = "it has far more scans or tables than a picture needs";
    const auto jpeg = [](int side, int scans) {
        const auto blocks = std::size_t(side) * side / 64;
        return join({jpeg_start, quantisation, huffman(0), huffman(1, 0xe0),
                     frame(progressive, side, side), scan(0, 0, 0, blocks / 8 + 1),
                     repeated(scan(1, 63, 0, 0), scans), jpeg_end});
    };
    REQUIRE_THAT(refused(jpeg(8192, 9090)), ContainsSubstring(expected));
    REQUIRE_THAT(refused(jpeg(8192, 25)), ContainsSubstring(expected));
    REQUIRE_THAT(refused(jpeg(1024, 2000)), ContainsSubstring(expected));
    // More than any encoder makes.
    REQUIRE(refused(jpeg(512, 200)).empty());
    REQUIRE(refused(jpeg(8, 1000)).empty());
    const Bytes tables = repeated(huffman(0), 1000000);
    REQUIRE_THAT(refused(join({jpeg_start, tables, frame(baseline, 8, 8), jpeg_end})),
                 ContainsSubstring(expected));
}

TEST_CASE("a PNG inflates to no more than its size needs") {
    const std::string expected = "holds more data than its size of 8 x 8 pixels needs";
    constexpr std::size_t needed = (8 * 4 + 1) * 8;
    const auto inflating_to = [](std::size_t size) { return png(8, 8, 8, 6, zeros(size)); };
    REQUIRE(refused(inflating_to(needed)).empty());
    // Some encoders add a little.
    REQUIRE(refused(inflating_to(20 * needed)).empty());
    REQUIRE_THAT(refused(inflating_to(10'000'000)), ContainsSubstring(expected));
    REQUIRE_THAT(refused(inflating_to(50'000'000)), ContainsSubstring(expected));
    REQUIRE_THAT(refused(inflating_to(1'100'000'000)), ContainsSubstring(expected));
    // With 16 bits, interlacing or a palette.
    for (const int depth : {1, 8, 16}) {
        REQUIRE_THAT(refused(png(8, 8, depth, 0, zeros(10'000'000))), ContainsSubstring(expected));
    }
    REQUIRE_THAT(refused(png(1000, 1000, 8, 6, zeros(50'000'000))),
                 ContainsSubstring("holds more data than its size of 1000 x 1000 pixels needs"));
}

TEST_CASE("a PNG that is too short for its size is refused") {
    // 2048 rows of 1 byte and 2048 bits.
    constexpr std::size_t needed = 2048 * (1 + 256);
    const Bytes data = zeros(needed);
    REQUIRE(refused(png(2048, 2048, 1, 0, data)).empty());
    const Bytes cut(data.begin(), data.begin() + needed / 1032 - 1);
    REQUIRE(refused(png(2048, 2048, 1, 0, cut)) == too_early);
    REQUIRE(refused(png(8192, 8192, 16, 6, data)) == too_early);
    REQUIRE(refused(png(8192, 8192, 8, 6, {})) == too_early);
}

TEST_CASE("a PNG whose chunks make no picture is refused") {
    const Bytes data = zeros(1000);
    REQUIRE(refused(png(0x7fffffff, 0x7fffffff, 8, 6, data)) == too_large);
    REQUIRE(refused(png(0xffffffff, 1, 8, 6, data)) == too_large);
    REQUIRE_THAT(refused(png(0, 8, 8, 6, data)), ContainsSubstring("it has 0 x 8 pixels"));
    REQUIRE_THAT(refused(png(8, 0, 8, 6, data)), ContainsSubstring("it has 8 x 0 pixels"));
    for (const int depth : {0, 3, 17, 255}) REQUIRE(!refused(png(8, 8, depth, 6, data)).empty());
    for (const int colour : {1, 5, 7, 255}) REQUIRE(!refused(png(8, 8, 8, colour, data)).empty());
    const Bytes whole = png(8, 8, 8, 6, data);
    const auto with = [&](const Bytes& extra, std::ptrdiff_t at) {
        return join({Bytes(whole.begin(), whole.begin() + at), extra,
                     Bytes(whole.begin() + at, whole.end())});
    };
    constexpr std::ptrdiff_t after_signature = 8;
    constexpr std::ptrdiff_t after_header = 33;
    REQUIRE(refused(with(chunk("tEXt", {1, 2, 3}), after_header)).empty());
    REQUIRE_THAT(refused(with(chunk("tEXt", {}), after_signature)),
                 ContainsSubstring("it does not begin with a header"));
    REQUIRE_THAT(refused(with(chunk("\x9b\xff\x01!", {}), after_header)),
                 ContainsSubstring("chunk of an unknown kind"));
    REQUIRE_THAT(refused(with(chunk("IHDR", Bytes(13, 1)), after_header)),
                 ContainsSubstring("its header has a wrong length or comes twice"));
    REQUIRE(refused(with(join({big32(0xfffffff0), {'t', 'E', 'X', 't'}}), after_header)) ==
            too_early);
}

TEST_CASE("the message about an image is not that about the image before") {
    // A deflate block of type 3, of which stb_image says nothing.
    const Bytes unknown_block = png(8, 8, 8, 6, {0x78, 0x01, 0x07, 0, 0, 0, 0});
    const std::string expected = refused(unknown_block);
    REQUIRE_THAT(expected, ContainsSubstring("is not an image that can be read"));
    REQUIRE_THAT(refused(png(8, 8, 8, 6, zeros(10'000'000))), ContainsSubstring("more data"));
    REQUIRE(refused(unknown_block) == expected);
}

TEST_CASE("a pixel of a colour behind the end of a PNG's palette is opaque") {
    // One row of a filter byte and the indices 0, 1 and 255, in a block that is not compressed.
    const Bytes data = {0x78, 0x01, 0x01, 4, 0, 0xfb, 0xff, 0, 0, 1, 255, 0, 0, 0, 0};
    const Bytes whole = png(3, 1, 8, 3, data);
    constexpr std::ptrdiff_t after_header = 33;
    const nca::Image image = nca::decode_image(
        join({Bytes(whole.begin(), whole.begin() + after_header), chunk("PLTE", {10, 20, 30}),
              Bytes(whole.begin() + after_header, whole.end())}),
        "palette.png");
    REQUIRE_FALSE(image.had_alpha);
    REQUIRE(Bytes(image.pixels.begin(), image.pixels.begin() + 4) == Bytes{10, 20, 30, 255});
    REQUIRE(image.pixels[7] == 255);
    REQUIRE(image.pixels[11] == 255);
}

TEST_CASE("a BMP of no height, of -2^31 or too short is refused") {
    constexpr std::int64_t least = std::numeric_limits<std::int32_t>::min();
    REQUIRE(refused(bmp(2, 2, 16)).empty());
    REQUIRE(refused(bmp(2, -2, 16)).empty());
    REQUIRE(refused(bmp(2, 2, 15)) == too_early);
    REQUIRE(refused(bmp(2, -2, 15)) == too_early);
    REQUIRE(refused(bmp(8192, 8192, 16)) == too_early);
    REQUIRE(refused(bmp(2, least, 16)) == too_large);
    REQUIRE(refused(bmp(2, least + 1, 16)) == too_large);
    REQUIRE(refused(bmp(2, -8193, 16)) == too_large);
    REQUIRE(refused(bmp(8193, 2, 16)) == too_large);
    REQUIRE_THAT(refused(bmp(2, 0, 16)), ContainsSubstring("it has 2 x 0 pixels"));
    REQUIRE_THAT(refused(bmp(0, 2, 16)), ContainsSubstring("it has 0 x 2 pixels"));
    REQUIRE_THAT(refused(bmp(-2, 2, 16)), ContainsSubstring("it has -2 x 2 pixels"));
    REQUIRE_THAT(refused(bmp(least, 2, 16)), ContainsSubstring("x 2 pixels, expected at least"));
    REQUIRE(refused(small_bmp(2, 2, 16)).empty());
    REQUIRE(refused(small_bmp(2, 2, 15)) == too_early);
    REQUIRE(refused(small_bmp(2, 65535, 16)) == too_large);
    REQUIRE_THAT(refused(small_bmp(0, 2, 16)), ContainsSubstring("it has 0 x 2 pixels"));
}

TEST_CASE("a BMP of run lengths is named as such") {
    Bytes bmp = {'B', 'M', 60, 0, 0, 0, 0, 0, 0, 0, 54, 0, 0, 0, 40,
                 0,   0,   0,  8, 0, 0, 0, 8, 0, 0, 0,  1, 0, 8, 0};
    for (const std::uint8_t compression : {1, 2}) {
        Bytes file = bmp;
        file.push_back(compression);
        file.resize(60);
        REQUIRE_THAT(refused(file), ContainsSubstring("run lengths"));
    }
}

TEST_CASE("a GIF of no size or with more data than its frame needs is refused") {
    REQUIRE(refused(gif(2, 1, 2, 1, two_pixels)).empty());
    REQUIRE_THAT(refused(gif(0, 1, 0, 1, two_pixels)), ContainsSubstring("it has 0 x 1 pixels"));
    REQUIRE_THAT(refused(gif(1, 0, 1, 0, two_pixels)), ContainsSubstring("it has 1 x 0 pixels"));
    REQUIRE(refused(gif(8193, 1, 2, 1, two_pixels)) == too_large);
    // A frame may be smaller than the screen, but not so much.
    REQUIRE(refused(gif(1000, 1000, 2, 1, two_pixels)).empty());
    REQUIRE(refused(gif(8192, 8192, 2, 1, two_pixels)) == too_early);
    // 8 million pixels in 6 KB.
    REQUIRE(refused(gif(3000, 3000, 3000, 3000, growing_codes(1))).empty());
    REQUIRE_THAT(refused(gif(8, 8, 8, 8, growing_codes(1))),
                 ContainsSubstring("holds more data than its size of 8 x 8 pixels needs"));
    REQUIRE_THAT(refused(gif(3000, 3000, 3000, 3000, growing_codes(5))),
                 ContainsSubstring("holds more data"));
    REQUIRE_THAT(refused(gif(8, 8, 8, 8, {0x3c})), ContainsSubstring("was not defined"));
    const Bytes no_picture = {'G', 'I', 'F', '8', '9', 'a', 1, 0, 1, 0, 0, 0, 0, 0x3b};
    REQUIRE_THAT(refused(no_picture), ContainsSubstring("it has no picture"));
}

TEST_CASE("a TGA that is too short for its size is refused") {
    REQUIRE(refused(tga(2, 3, 2, 24, 18)).empty());
    REQUIRE(refused(tga(2, 3, 2, 24, 17)) == too_early);
    REQUIRE(refused(tga(2, 8192, 8192, 32, 1000)) == too_early);
    REQUIRE(refused(tga(2, 8193, 1, 32, 1000)) == too_large);
    // Each packet of run lengths is 5 bytes here and has at most 128 pixels.
    REQUIRE(refused(tga(10, 8192, 8192, 32, 2'600'000)) == too_early);
    REQUIRE(refused(join({tga(10, 128, 2, 32, 0), {0xff, 1, 2, 3, 4, 0xff, 5, 6, 7, 8}})).empty());
    REQUIRE(refused(join({tga(10, 128, 2, 32, 0), {0xff, 1, 2, 3, 4, 0xff, 5, 6, 7}})) ==
            too_early);
    for (const int type : {0, 1, 4, 9, 12, 255}) {
        REQUIRE_THAT(refused(tga(type, 3, 2, 24, 100)), ContainsSubstring("unknown image type"));
    }
    REQUIRE_THAT(refused(tga(2, 0, 2, 24, 100)), ContainsSubstring("unknown image type"));
    REQUIRE_THAT(refused(tga(2, 3, 2, 23, 100)), ContainsSubstring("unknown image type"));
}

TEST_CASE("a WebP of too few bytes for its size, too large or cut off is refused") {
    REQUIRE(plain_webp(8, 8).size() < 60);
    REQUIRE(nca::decode_image(plain_webp(300, 200), "x").pixels == Bytes(300 * 200 * 4, 200));
    const auto header = [](std::uint32_t width, std::uint32_t height) {
        return message_of<FormatError>(
            [&] { nca::read_image_header(plain_webp(width, height), "x"); });
    };
    REQUIRE(header(4096, 4096).empty());
    REQUIRE_THAT(header(4096, 4097), ContainsSubstring("bytes for 4096 x 4097 pixels; export it"));
    REQUIRE_THAT(header(8192, 8192), ContainsSubstring("bytes for 8192 x 8192 pixels; export it"));
    REQUIRE(header(8193, 1) == too_large);
    REQUIRE(header(1, 8193) == too_large);
    REQUIRE(header(16384, 16384) == too_large);
    // The size of an animation is that of its canvas, in 24 bits each.
    const Bytes still = plain_webp(8, 8);
    const Bytes frame = riff_chunk(
        "ANMF",
        join({Bytes(6), {7, 0, 0, 7, 0, 0}, Bytes(4), Bytes(still.begin() + 12, still.end())}));
    const auto animation = [&](const Bytes& sides, const Bytes& frames) {
        return webp(join({riff_chunk("VP8X", join({{2, 0, 0, 0}, sides})),
                          riff_chunk("ANIM", Bytes(6)), frames}));
    };
    REQUIRE(nca::decode_image(animation({7, 0, 0, 7, 0, 0}, frame), "x").pixels == Bytes(256, 200));
    REQUIRE(refused(animation({0, 0, 1, 7, 0, 0}, frame)) == too_large);
    REQUIRE_THAT(refused(animation({7, 0, 0, 6, 0, 0}, frame)),
                 ContainsSubstring("its parts make no picture"));
    REQUIRE_THAT(refused(animation({7, 0, 0, 7, 0, 0}, {})),
                 ContainsSubstring("its parts make no picture"));
    REQUIRE(
        nca::read_image_header(animation({7, 0, 0, 7, 0, 0}, join({frame, frame})), "x").animated);

    const Bytes whole = plain_webp(8, 8);
    REQUIRE(refused(join({whole, Bytes(1000, 0xff)})).empty());
    for (std::size_t size = 12; size < whole.size(); ++size) {
        REQUIRE(refused(Bytes(whole.begin(), whole.begin() + std::ptrdiff_t(size))) == too_early);
    }
    // Cut off, and its sizes set to what is left.
    const Bytes data(whole.begin() + 20, whole.end() - 8);
    REQUIRE_THAT(refused(webp(riff_chunk("VP8L", data))),
                 ContainsSubstring("its data are damaged"));
    REQUIRE_THAT(refused(webp({})), ContainsSubstring("its parts make no picture"));
    REQUIRE_THAT(refused(webp(riff_chunk("VP8L", Bytes(40)))),
                 ContainsSubstring("its parts make no picture"));
    REQUIRE_THAT(refused(webp(riff_chunk("EXIF", Bytes(40)))),
                 ContainsSubstring("its parts make no picture"));
    Bytes other = whole;
    other[8] = 'A';  // a sound, say
    REQUIRE_THAT(refused(other), ContainsSubstring("unknown image type"));
}

TEST_CASE("an animated PNG says so, and its chunks change nothing else") {
    const Bytes whole = png(8, 8, 8, 6, zeros(264));
    const Image still = nca::decode_image(whole, "x");
    REQUIRE_FALSE(still.animated);
    constexpr std::ptrdiff_t after_header = 33;
    for (const auto& [control, animated] :
         std::vector<std::pair<Bytes, bool>>{{join({big32(2), big32(0)}), true},
                                             {join({big32(1), big32(0)}), false},  // one frame
                                             {big32(2), false},                    // damaged
                                             {{}, false}}) {
        const Image image = nca::decode_image(
            join({Bytes(whole.begin(), whole.begin() + after_header), chunk("acTL", control),
                  Bytes(whole.begin() + after_header, whole.end() - 12), chunk("fdAT", Bytes(50)),
                  chunk("IEND", {})}),
            "x");
        REQUIRE(image.animated == animated);
        REQUIRE(image.pixels == still.pixels);
    }
}

TEST_CASE("pictures in formats that are not read are named, with what to do") {
    const auto text = [](const std::string& letters) {
        return Bytes(letters.begin(), letters.end());
    };
    const auto brands = [&](const std::string& all) {
        return join({{0, 0, 0, std::uint8_t(all.size() + 8)}, text("ftyp" + all), Bytes(100)});
    };
    for (const auto& [file, format] : std::vector<std::pair<Bytes, std::string>>{
             {brands("heic" + std::string(4, '\0') + "mif1heic"), "HEIC"},
             {brands("mif1" + std::string(4, '\0') + "mif1heix"), "HEIC"},
             {brands("avif" + std::string(4, '\0') + "avifmif1miaf"), "AVIF"},
             {brands("mif1" + std::string(4, '\0') + "mif1avif"), "AVIF"},
             {join({text("II*"), Bytes(40)}), "TIFF"},
             {join({text("MM"), {0, '*'}, Bytes(40)}), "TIFF"},
             {join({text("8BPS"), Bytes(40)}), "PSD"},
             {join({{0xff, 0x0a}, Bytes(40)}), "JPEG XL"},
             {join({{0, 0, 0, 12}, text("JXL \r\n\x87\n"), Bytes(40)}), "JPEG XL"},
             {text("<svg xmlns=\"http://www.w3.org/2000/svg\"/>"), "SVG"},
             {text("\xef\xbb\xbf\n <?xml version=\"1.0\"?>\n<!-- <b> --><!DOCTYPE svg [\n"
                   "<!ENTITY a \"b\">]>\n<svg>"),
              "SVG"},
         }) {
        REQUIRE(refused(file) == "x is a picture in the format " + format + ", expected " +
                                     nca::image_formats + "; export it as PNG or JPEG");
    }
    for (const Bytes& file :
         {brands("isom" + std::string(4, '\0') + "mp41"), text("<htm><svg>"), text("<?xml?>"),
          text("<!-- <svg>"), text(" \n"), text("once <svg>"), text("....ftyp")}) {
        REQUIRE_THAT(refused(file), ContainsSubstring("unknown image type"));
    }
    REQUIRE(refused(text("<html><svg>")) ==
            "x is an HTML page: download the file itself, not the page that shows it");
    REQUIRE_THAT(refused(text("PK\x03\x04 and more")), ContainsSubstring("is a zip archive"));
}

TEST_CASE("the size that is read first is the size of the image") {
    const std::vector<Bytes> files = {
        small_jpeg(),        png(8, 8, 8, 6, zeros(264)), bmp(2, -2, 16),
        small_bmp(2, 2, 16), gif(2, 1, 2, 1, two_pixels), plain_webp(5, 9),
        tga(2, 3, 2, 24, 18)};
    for (const Bytes& file : files) {
        const nca::ImageHeader header = nca::read_image_header(file, "x");
        const Image image = nca::decode_image(file, "x");
        REQUIRE(header.height == image.height);
        REQUIRE(header.width == image.width);
    }
}

TEST_CASE("an image that is cut off anywhere is an error and no crash") {
    const std::vector<Bytes> files = {
        small_jpeg(),
        join({jpeg_start, quantisation, dc_table, frame(progressive, 8, 8), scan(0, 0, 0x01, 1),
              scan(0, 0, 0x10, 1), ac_table, scan(1, 63, 0, 1), jpeg_end}),
        png(8, 8, 8, 6, zeros(264)),
        png(5, 3, 16, 2, zeros(264)),
        bmp(2, 2, 16),
        small_bmp(2, 2, 16),
        plain_webp(5, 9),
        tga(2, 3, 2, 24, 18),
        join({tga(10, 128, 2, 32, 0), {0xff, 1, 2, 3, 4, 0xff, 5, 6, 7, 8}})};
    for (const Bytes& file : files) {
        REQUIRE(refused(file).empty());
        for (std::size_t size = 0; size < file.size(); ++size) {
            CAPTURE(size, file.size());
            REQUIRE(!refused(Bytes(file.begin(), file.begin() + std::ptrdiff_t(size))).empty());
        }
    }
}

TEST_CASE("random bytes behind any format's signature are an error or an image") {
    const std::vector<Bytes> starts = {{},
                                       {0xff, 0xd8},
                                       {'G', 'I', 'F', '8', '9', 'a'},
                                       {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'},
                                       webp({'V', 'P', '8', 'L', 30, 0, 0, 0, 0x2f}),
                                       join({{'B', 'M'}, Bytes(12), {40, 0, 0, 0}}),
                                       {0, 0, 2},
                                       {0, 1, 9},
                                       join({jpeg_start, quantisation, dc_table})};
    std::mt19937 random(1);
    for (int i = 0; i < 4000; ++i) {
        Bytes file = starts[std::size_t(i) % starts.size()];
        for (std::uint32_t left = random() % 300; left > 0; --left) {
            file.push_back(std::uint8_t(random()));
        }
        const std::string message = refused(file);
        REQUIRE(message.size() < 400);
    }
}

TEST_CASE("a file that is longer than any image is not read") {
    const nca::test::TemporaryDirectory folder;
    const auto path = folder / "x";
    nca::test::write_bytes(path, small_jpeg());
    constexpr std::uintmax_t longest = (std::uintmax_t{1} << 28) + (std::uintmax_t{1} << 20);
    std::filesystem::resize_file(path, longest + 1);  // a hole, so it takes no disk
    REQUIRE_THROWS_AS(nca::load_image(path), nca::IoError);
}
