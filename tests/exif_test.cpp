// SPDX-License-Identifier: MIT
// The orientation in EXIF data.
#include "host/pictures/exif.hpp"

#include "host/pictures/decode_image.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/image_files.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb_image_write.h>
#pragma GCC diagnostic pop

namespace {

using nca::Image;
using nca::test::Bytes;
using nca::test::exif_data;

int orientation_of(const Bytes& exif) {
    const std::string name = "x";
    return nca::read_orientation(nca::ImageReader(exif, name, "JPEG"));
}

// An opaque picture of one pixel for each letter; / ends a row.
Image picture_of(const std::string& letters) {
    const auto width = letters.find('/');
    Image image{
        .height = int((letters.size() + 1) / (width + 1)), .width = int(width), .pixels = {}};
    for (const char letter : letters) {
        if (letter == '/') continue;
        const auto value = std::uint8_t(30 * (letter - 'A'));
        image.pixels.insert(image.pixels.end(), {value, std::uint8_t(255 - value), 77, 255});
    }
    return image;
}

Bytes jpeg_of(const Image& image) {
    Bytes bytes;
    const auto append = [](void* user, void* data, int size) {
        const auto* begin = static_cast<const std::uint8_t*>(data);
        auto& all = *static_cast<Bytes*>(user);
        all.insert(all.end(), begin, begin + size);
    };
    stbi_write_jpg_to_func(append, &bytes, image.width, image.height, 4, image.pixels.data(), 95);
    return bytes;
}

// Where ABC/DEF belongs, by orientation.
const std::array<std::string, 8> oriented = {"ABC/DEF",  "CBA/FED",  "FED/CBA",  "DEF/ABC",
                                             "AD/BE/CF", "DA/EB/FC", "FC/EB/DA", "CF/BE/AD"};

}  // namespace

TEST_CASE("an orientation is read in both orders of bytes, with and without the prefix") {
    for (int orientation = 1; orientation <= 8; ++orientation) {
        for (const bool little_endian : {false, true}) {
            Bytes exif = exif_data(orientation, little_endian);
            REQUIRE(orientation_of(exif) == orientation);
            exif.insert(exif.begin(), {'E', 'x', 'i', 'f', 0, 0});
            REQUIRE(orientation_of(exif) == orientation);
        }
    }
    // The directory may be anywhere.
    Bytes far = exif_data(6, true);
    far.insert(far.begin() + 8, 1000, 0xff);
    far[4] = 0xf0;
    far[5] = 0x03;  // 8 + 1000
    REQUIRE(orientation_of(far) == 6);
}

TEST_CASE("damaged EXIF data leave the picture as it is stored") {
    const auto changed = [](std::size_t at, std::uint8_t value) {
        Bytes exif = exif_data(6, true);
        exif[at] = value;
        return exif;
    };
    REQUIRE(orientation_of(changed(0, 'I')) == 6);
    for (const auto& [at, value] : std::vector<std::pair<std::size_t, std::uint8_t>>{
             {0, 'M'},   // two orders of bytes
             {2, 43},    // not a TIFF
             {4, 0},     // the directory is the header
             {4, 255},   // or behind the end
             {7, 255},   // or far behind it
             {8, 4},     // more entries than there are
             {9, 255},   // far more
             {8, 1},     // fewer: the second is none
             {22, 0x13}  // another tag
         }) {
        CAPTURE(at, int(value));
        REQUIRE(orientation_of(changed(at, value)) == 1);
    }
    for (const int value : {0, 9, 255, 256, 65535})
        REQUIRE(orientation_of(exif_data(value, true)) == 1);
    for (const int type : {0, 1, 2, 4, 7}) REQUIRE(orientation_of(exif_data(6, true, type)) == 1);
    for (const int count : {0, 2, 65535})
        REQUIRE(orientation_of(exif_data(6, true, 3, count)) == 1);
    const Bytes whole = exif_data(6, false);
    for (std::size_t size = 0; size < whole.size() - 4; ++size) {
        CAPTURE(size);
        REQUIRE(orientation_of(Bytes(whole.begin(), whole.begin() + std::ptrdiff_t(size))) == 1);
    }
}

TEST_CASE("each orientation puts every pixel where it belongs") {
    for (int orientation = 1; orientation <= 8; ++orientation) {
        CAPTURE(orientation);
        const Image expected = picture_of(oriented[std::size_t(orientation - 1)]);
        const Image image = nca::turned_upright(picture_of("ABC/DEF"), orientation);
        REQUIRE(image.height == expected.height);
        REQUIRE(image.width == expected.width);
        REQUIRE(image.pixels == expected.pixels);
    }
}

TEST_CASE("PNG, WebP and JPEG are turned as their EXIF data say") {
    const Image stored = picture_of("ABC/DEF");
    const Bytes png = nca::encode_png(stored);
    const Bytes webp = nca::test::encode_webp(stored, true);
    for (int orientation = 1; orientation <= 8; ++orientation) {
        CAPTURE(orientation);
        const Image expected = picture_of(oriented[std::size_t(orientation - 1)]);
        for (const Bytes& file : {png, webp}) {
            const Bytes turned = nca::test::with_exif(file, exif_data(orientation, false));
            const Image image = nca::decode_image(turned, "x");
            REQUIRE(image.height == expected.height);
            REQUIRE(image.width == expected.width);
            REQUIRE(image.pixels == expected.pixels);
        }
    }
    for (const Bytes& file : {png, webp, jpeg_of(stored)}) {
        const Image image = nca::decode_image(nca::test::with_exif(file, {1, 2, 3}), "x");
        REQUIRE(image.width == 3);  // damaged data refuse nothing
    }
}

TEST_CASE("a JPEG with orientation 6 of a picture with a red left edge has a red top edge") {
    Image stored{.height = 32, .width = 48, .pixels = {}};
    for (int y = 0; y < stored.height; ++y) {
        for (int x = 0; x < stored.width; ++x) {
            const std::uint8_t red = x < 8 ? 255 : 0;
            stored.pixels.insert(stored.pixels.end(), {red, 0, std::uint8_t(255 - red), 255});
        }
    }
    const Bytes plain = jpeg_of(stored);
    const auto is_red = [](const std::uint8_t* pixel) { return pixel[0] > 200 && pixel[2] < 50; };
    REQUIRE(is_red(nca::decode_image(plain, "x").pixel(31, 0)));
    // Text of another program in the same kind of segment comes first.
    Bytes file = nca::test::with_exif(plain, exif_data(6, true));
    const Bytes other = {0xff, 0xe1, 0, 8, 'h', 't', 't', 'p', ':', 0};
    file.insert(file.begin() + 2, other.begin(), other.end());
    const Image image = nca::decode_image(file, "x");
    REQUIRE(image.height == 48);
    REQUIRE(image.width == 32);
    for (int y = 0; y < 48; ++y) {
        for (int x = 0; x < 32; ++x) REQUIRE(is_red(image.pixel(y, x)) == (y < 8));
    }
    // Of two the first counts.
    const Image twice = nca::decode_image(nca::test::with_exif(file, exif_data(3, true)), "x");
    REQUIRE(is_red(twice.pixel(0, 47)));
    REQUIRE_FALSE(is_red(twice.pixel(0, 0)));
}
