// SPDX-License-Identifier: MIT
#include <nca/error.hpp>
#include <nca/image.hpp>

#include "host/pictures/decode_image.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/image_files.hpp"
#include "tests/support/temporary_directory.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb_image_write.h>
#pragma GCC diagnostic pop

namespace {

using Catch::Matchers::ContainsSubstring;
using nca::FormatError;
using nca::Image;
using nca::test::Bytes;
using nca::test::message_of;
using nca::test::TemporaryDirectory;
using nca::test::write_bytes;
using nca::test::write_text;

// Noise, so that every part of a compressed file matters.
Image noise(int height, int width, bool opaque = false) {
    Image image{.height = height, .width = width, .pixels = {}};
    std::uint32_t state = 1;
    for (int i = 0; i < height * width * 4; ++i) {
        state = state * 1664525U + 1013904223U;
        const bool alpha = i % 4 == nca::alpha_channel;
        image.pixels.push_back(opaque && alpha ? 255 : std::uint8_t(state >> 24));
    }
    return image;
}

Image filled(int height, int width, std::array<std::uint8_t, 4> colour) {
    Image image{.height = height, .width = width, .pixels = {}};
    image.pixels.resize(std::size_t(height) * width * 4);
    for (std::size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = colour[i % 4];
    return image;
}

void append(void* user, void* data, int size) {
    const auto* begin = static_cast<const std::uint8_t*>(data);
    auto& bytes = *static_cast<Bytes*>(user);
    bytes.insert(bytes.end(), begin, begin + size);
}

// 2 x 1 pixels, red and blue, written by hand.
const Bytes gif = {'G', 'I',  'F', '8', '9', 'a', 2, 0, 1, 0, 0x80, 0, 0, 255,  0,    0, 0,   0,
                   255, 0x2c, 0,   0,   0,   0,   2, 0, 1, 0, 0,    2, 2, 0x44, 0x0a, 0, 0x3b};

struct Encoded {
    std::string name;
    Bytes bytes;
    bool exact = true;
    bool alpha = true;
};

std::vector<Encoded> all_formats(const Image& image) {
    std::vector<Encoded> all(6);
    all[0] = {"png", nca::encode_png(image)};
    all[1].name = "bmp";
    stbi_write_bmp_to_func(append, &all[1].bytes, image.width, image.height, 4,
                           image.pixels.data());
    all[2].name = "tga";
    stbi_write_tga_to_func(append, &all[2].bytes, image.width, image.height, 4,
                           image.pixels.data());
    all[3] = {.name = "jpg", .bytes = {}, .exact = false, .alpha = false};
    stbi_write_jpg_to_func(append, &all[3].bytes, image.width, image.height, 4, image.pixels.data(),
                           90);
    all[4] = {"webp", nca::test::encode_webp(image, true)};
    all[5] = {.name = "lossy webp", .bytes = nca::test::encode_webp(image, false), .exact = false};
    return all;
}

std::string refused(const Bytes& bytes) {
    return message_of<FormatError>([&] { nca::decode_image(bytes, "x.png"); });
}

std::uint32_t crc32(const std::uint8_t* data, std::size_t size) {
    std::uint32_t crc = ~0U;
    for (std::size_t i = 0; i < size; ++i) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0xedb88320U : 0);
    }
    return ~crc;
}

// The PNG with another size, and the checksum that goes with it, in its header.
Bytes png_claiming(Bytes png, std::uint32_t width, std::uint32_t height) {
    const auto put = [&](std::size_t at, std::uint32_t value) {
        for (std::size_t i = 0; i < 4; ++i) png[at + i] = std::uint8_t(value >> (24 - 8 * i));
    };
    put(16, width);
    put(20, height);
    put(29, crc32(png.data() + 12, 17));
    return png;
}

}  // namespace

TEST_CASE("images of every format are read") {
    const Image image = noise(11, 7);
    const TemporaryDirectory folder;
    for (const auto& [name, bytes, exact, alpha] : all_formats(image)) {
        CAPTURE(name);
        write_bytes(folder / name, bytes);
        const Image back = nca::load_image(folder / name);
        REQUIRE(back.height == 11);
        REQUIRE(back.width == 7);
        REQUIRE(back.had_alpha == alpha);
        REQUIRE(back.pixels.size() == image.pixels.size());
        if (exact) REQUIRE(back.pixels == image.pixels);
    }
    const Image small = nca::decode_image(gif, "gif");
    REQUIRE(small.pixels == Bytes{255, 0, 0, 255, 0, 0, 255, 255});
}

TEST_CASE("a lossy WebP keeps its colours nearly, and its alpha") {
    Image image = filled(24, 17, {200, 100, 50, 255});
    for (int y = 0; y < 24; ++y) image.pixel(y, 3)[3] = std::uint8_t(10 * y);
    const Image back = nca::decode_image(nca::test::encode_webp(image, false), "x");
    REQUIRE(back.had_alpha);
    for (std::size_t i = 0; i < image.pixels.size(); ++i) {
        const int difference = std::abs(int{image.pixels[i]} - int{back.pixels[i]});
        REQUIRE(difference <= (i % 4 == nca::alpha_channel ? 0 : 12));
    }
    const Image opaque = filled(9, 8, {1, 2, 3, 255});
    for (const bool lossless : {true, false}) {
        REQUIRE_FALSE(nca::decode_image(nca::test::encode_webp(opaque, lossless), "x").had_alpha);
    }
}

TEST_CASE("of an animation the first frame is read, and the image says so") {
    const TemporaryDirectory folder;
    const std::vector<Image> frames = {filled(9, 8, {255, 0, 0, 255}),
                                       filled(9, 8, {0, 0, 255, 0})};
    const auto load = [&](const auto& save, std::size_t count) {
        save(folder / "x", std::span(frames).first(count), 10);
        return nca::load_image(folder / "x");
    };
    const std::function<void(const std::filesystem::path&, std::span<const Image>, int)> writers[] =
        {nca::save_gif, nca::save_webp};
    for (const auto& save : writers) {
        for (const std::size_t count : {1, 2}) {
            const Image image = load(save, count);
            REQUIRE(image.animated == (count == 2));
            REQUIRE(image.pixels == frames[0].pixels);
        }
    }
    // A GIF that is cut off behind its first frame, as a browser shows it while it loads.
    nca::save_gif(folder / "x", frames, 10);
    Bytes bytes = nca::test::read_bytes(folder / "x");
    int animated = 0;
    int read = 0;
    while (bytes.size() > 20) {
        bytes.pop_back();
        try {
            const Image image = nca::decode_image(bytes, "x");
            REQUIRE(image.pixels == frames[0].pixels);
            animated += image.animated ? 1 : 0;
            ++read;
        } catch (const FormatError&) {
        }
    }
    REQUIRE(animated > 0);
    REQUIRE(read > animated);
}

TEST_CASE("a frame that is smaller than its WebP is read in its place, transparent around it") {
    const std::unique_ptr<WebPMux, void (*)(WebPMux*)> mux(WebPMuxNew(), WebPMuxDelete);
    const auto push = [&](const Image& image, int x, int y) {
        const Bytes file = nca::test::encode_webp(image, true);
        WebPMuxFrameInfo frame = {};
        frame.bitstream = {file.data(), file.size()};
        frame.id = WEBP_CHUNK_ANMF;
        frame.x_offset = x;
        frame.y_offset = y;
        frame.duration = 100;
        REQUIRE(WebPMuxPushFrame(mux.get(), &frame, 1) == WEBP_MUX_OK);
    };
    push(filled(2, 3, {255, 0, 0, 255}), 4, 2);
    push(filled(6, 9, {0, 0, 255, 255}), 0, 0);
    const WebPMuxAnimParams animation = {};
    REQUIRE(WebPMuxSetAnimationParams(mux.get(), &animation) == WEBP_MUX_OK);
    WebPData data;
    REQUIRE(WebPMuxAssemble(mux.get(), &data) == WEBP_MUX_OK);
    const Image image = nca::decode_image({data.bytes, data.size}, "x");
    WebPDataClear(&data);
    REQUIRE(image.animated);
    REQUIRE(image.had_alpha);
    REQUIRE(image.height == 6);
    REQUIRE(image.width == 9);
    for (int y = 0; y < 6; ++y) {
        for (int x = 0; x < 9; ++x) {
            const bool inside = y >= 2 && y < 4 && x >= 4 && x < 7;
            const Bytes pixel(image.pixel(y, x), image.pixel(y, x) + 4);
            REQUIRE(pixel == (inside ? Bytes{255, 0, 0, 255} : Bytes{0, 0, 0, 0}));
        }
    }
}

TEST_CASE("an image without alpha is opaque and says so") {
    const Bytes rgb = {10, 20, 30, 40, 50, 60};
    Bytes png;
    int size = 0;
    unsigned char* data = stbi_write_png_to_mem(rgb.data(), 6, 2, 1, 3, &size);
    png.assign(data, data + size);
    std::free(data);
    const Image image = nca::decode_image(png, "x");
    REQUIRE_FALSE(image.had_alpha);
    REQUIRE(image.pixels == Bytes{10, 20, 30, 255, 40, 50, 60, 255});
}

TEST_CASE("a 16-bit PNG is read as its high bytes") {
    // 1 x 1, RGBA 0x1234 0x5678 0x9abc 0xffff, in one stored block.
    Bytes png = nca::encode_png(noise(1, 1));
    Bytes row = {0, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xff, 0xff};
    std::uint32_t a = 1;
    std::uint32_t b = 0;
    for (const std::uint8_t byte : row) b += a += byte;
    Bytes idat = {'I', 'D', 'A', 'T', 0x78, 0x01, 1, 9, 0, 0xf6, 0xff};
    idat.insert(idat.end(), row.begin(), row.end());
    const auto put = [](Bytes& bytes, std::uint32_t value) {
        for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(std::uint8_t(value >> shift));
    };
    put(idat, b << 16 | a);
    png.resize(33);
    png[24] = 16;
    png = png_claiming(png, 1, 1);
    put(png, std::uint32_t(idat.size() - 4));
    png.insert(png.end(), idat.begin(), idat.end());
    put(png, crc32(idat.data(), idat.size()));
    const Bytes end = {0, 0, 0, 0, 'I', 'E', 'N', 'D', 0xae, 0x42, 0x60, 0x82};
    png.insert(png.end(), end.begin(), end.end());
    REQUIRE(nca::decode_image(png, "x").pixels == Bytes{0x12, 0x56, 0x9a, 0xff});
}

TEST_CASE("every truncation of an image is refused") {
    auto all = all_formats(noise(11, 7));
    all.push_back({"jpg grey", {}});
    const Image grey = noise(20, 33);
    stbi_write_jpg_to_func(append, &all.back().bytes, 33, 20, 1, grey.pixels.data(), 50);
    for (const auto& encoded : all) {
        const Bytes& bytes = encoded.bytes;
        REQUIRE(refused(bytes).empty());
        for (std::size_t size = 0; size < bytes.size(); ++size) {
            CAPTURE(encoded.name, size, bytes.size());
            const Bytes cut(bytes.begin(), bytes.begin() + std::ptrdiff_t(size));
            REQUIRE_THAT(refused(cut), ContainsSubstring("x.png"));
        }
    }
    // Nothing that is shown comes after the one byte that ends the blocks of a GIF's frame.
    for (std::size_t size = 0; size + 1 < gif.size(); ++size) {
        CAPTURE(size);
        REQUIRE_THAT(refused(Bytes(gif.begin(), gif.begin() + std::ptrdiff_t(size))),
                     ContainsSubstring("x.png"));
    }
}

TEST_CASE("no damaged byte of an image crashes the reader") {
    for (const auto& encoded : all_formats(noise(5, 6))) {
        int read = 0;
        for (std::size_t i = 0; i < encoded.bytes.size(); ++i) {
            Bytes damaged = encoded.bytes;
            damaged[i] = std::uint8_t(damaged[i] ^ 0x41);
            try {
                const Image image = nca::decode_image(damaged, "x");
                REQUIRE(image.pixels.size() == std::size_t(image.height) * image.width * 4);
                ++read;
            } catch (const FormatError&) {
            }
        }
        CAPTURE(encoded.name);
        REQUIRE(read < int(encoded.bytes.size()));
    }
}

TEST_CASE("files that are no images are refused with the formats that are") {
    const TemporaryDirectory folder;
    const auto path = folder / "x.png";
    REQUIRE_THROWS_AS(nca::load_image(path), nca::IoError);
    REQUIRE_THROWS_AS(nca::load_image(folder.path()), nca::IoError);
    write_text(path, "");
    REQUIRE_THAT(message_of<FormatError>([&] { nca::load_image(path); }),
                 ContainsSubstring(path.string() + " is empty"));
    write_text(path, "This is a text and not an image, whatever its name says.\n");
    REQUIRE_THAT(message_of<FormatError>([&] { nca::load_image(path); }),
                 ContainsSubstring("is not an image") && ContainsSubstring("export it as PNG"));
}

TEST_CASE("an image larger than the limit is refused before its pixels get memory") {
    const Bytes png = nca::encode_png(noise(2, 2));
    const std::string expected = "is larger than 8192 x 8192 pixels; scale it down first";
    REQUIRE_THAT(refused(png_claiming(png, 20000, 20000)), ContainsSubstring(expected));
    REQUIRE_THAT(refused(png_claiming(png, 8193, 1)), ContainsSubstring(expected));
    REQUIRE_THAT(refused(png_claiming(png, 1, 8193)), ContainsSubstring(expected));
    REQUIRE_THAT(refused(png_claiming(png, 0x7fffffff, 0x7fffffff)), ContainsSubstring(expected));
    // At the limit the size is fine, and only the pixels are missing.
    const std::string missing = refused(png_claiming(png, 8192, 8192));
    REQUIRE_FALSE(missing.empty());
    REQUIRE_THAT(missing, !ContainsSubstring(expected));

    Bytes large_gif = gif;
    large_gif[7] = large_gif[9] = 0x4e;  // 19970 x 19969
    REQUIRE_THAT(refused(large_gif), ContainsSubstring(expected));
}

TEST_CASE("an image of one pixel is an image but no target") {
    const TemporaryDirectory folder;
    write_bytes(folder / "x.png", nca::encode_png(noise(1, 1)));
    REQUIRE(nca::load_image(folder / "x.png").pixels == noise(1, 1).pixels);
    REQUIRE_THAT(
        message_of<FormatError>([&] { nca::load_target(folder / "x.png"); }),
        ContainsSubstring("has 1 x 1 pixels, expected at least 8 x 8 to train on: put it on"));
    write_bytes(folder / "x.png", nca::encode_png(noise(7, 8)));
    REQUIRE_THROWS_AS(nca::load_target(folder / "x.png"), FormatError);
    write_bytes(folder / "x.png", nca::encode_png(noise(8, 8)));
    REQUIRE(nca::load_target(folder / "x.png").pixels == noise(8, 8).pixels);
}

TEST_CASE("a target that is transparent everywhere is refused") {
    const TemporaryDirectory folder;
    Image image = filled(9, 9, {200, 100, 50, 0});
    write_bytes(folder / "x.png", nca::encode_png(image));
    REQUIRE(nca::load_image(folder / "x.png").pixels == image.pixels);
    REQUIRE_THAT(message_of<FormatError>([&] { nca::load_target(folder / "x.png"); }),
                 ContainsSubstring("is transparent everywhere"));
    image.pixel(8, 8)[3] = 1;
    write_bytes(folder / "x.png", nca::encode_png(image));
    REQUIRE_NOTHROW(nca::load_target(folder / "x.png"));
}

TEST_CASE("resizing keeps a plain colour and its alpha") {
    for (const int size : {1, 5, 40, 200}) {
        const Image result = nca::resize(filled(40, 30, {200, 100, 50, 128}), size, size + 1);
        REQUIRE(result.pixels == filled(size, size + 1, {200, 100, 50, 128}).pixels);
    }
}

TEST_CASE("resizing to the same size changes nothing") {
    const Image image = noise(13, 9, true);
    const Image result = nca::resize(image, 13, 9);
    REQUIRE(result.pixels == image.pixels);
}

TEST_CASE("transparent pixels do not bleed their colour when resizing") {
    // Opaque red on the left, transparent green on the right.
    Image image = filled(16, 16, {255, 0, 0, 255});
    for (int y = 0; y < 16; ++y) {
        for (int x = 8; x < 16; ++x) {
            image.pixel(y, x)[0] = 0;
            image.pixel(y, x)[1] = 255;
            image.pixel(y, x)[3] = 0;
        }
    }
    const Image result = nca::resize(image, 5, 5);
    int mixed = 0;
    for (int y = 0; y < 5; ++y) {
        for (int x = 0; x < 5; ++x) {
            const std::uint8_t* pixel = result.pixel(y, x);
            if (pixel[3] > 8) REQUIRE(pixel[1] <= 2);
            if (pixel[3] > 8) REQUIRE(pixel[0] >= 253);
            if (pixel[3] > 8 && pixel[3] < 247) ++mixed;
        }
    }
    REQUIRE(mixed > 0);
}

TEST_CASE("enlarging repeats each pixel as a square") {
    const Image image = noise(3, 5);
    const Image result = nca::enlarge(image, 4);
    REQUIRE(result.height == 12);
    REQUIRE(result.width == 20);
    for (int y = 0; y < 12; ++y) {
        for (int x = 0; x < 20; ++x) {
            for (int c = 0; c < 4; ++c) {
                REQUIRE(result.pixel(y, x)[c] == image.pixel(y / 4, x / 4)[c]);
            }
        }
    }
    REQUIRE(nca::enlarge(image, 1).pixels == image.pixels);
}

TEST_CASE("sizes that make no picture are refused") {
    const Image image = noise(3, 5);
    REQUIRE_THROWS_AS(nca::enlarge(image, 0), nca::InvalidArgument);
    REQUIRE_THROWS_AS(nca::enlarge(image, -1), nca::InvalidArgument);
    REQUIRE_THROWS_AS(nca::enlarge(image, std::numeric_limits<int>::max()), nca::InvalidArgument);
    REQUIRE_THROWS_AS(nca::resize(image, 0, 5), nca::InvalidArgument);
    REQUIRE_THROWS_AS(nca::resize(image, 5, -5), nca::InvalidArgument);
    REQUIRE_THROWS_AS(nca::resize(image, 5, 1 << 30), nca::InvalidArgument);
    REQUIRE_THROWS_AS(nca::on_white(Image{}), nca::InvalidArgument);
    Image lying = image;
    lying.height = 4;
    REQUIRE_THROWS_AS(nca::enlarge(lying, 2), nca::InvalidArgument);
}

TEST_CASE("on white, transparent is white and half transparent is half way") {
    Image image = filled(1, 3, {0, 100, 255, 0});
    image.pixel(0, 1)[3] = 128;
    image.pixel(0, 2)[3] = 255;
    REQUIRE(nca::on_white(image).pixels ==
            Bytes{255, 255, 255, 255, 127, 177, 255, 255, 0, 100, 255, 255});
}

TEST_CASE("on a colour, transparent is the colour and half transparent is half way") {
    Image image = filled(1, 3, {0, 100, 255, 0});
    image.pixel(0, 1)[3] = 128;
    image.pixel(0, 2)[3] = 255;
    REQUIRE(nca::on_colour(image, {51, 102, 0}).pixels ==
            Bytes{51, 102, 0, 255, 25, 101, 128, 255, 0, 100, 255, 255});
    REQUIRE_THROWS_AS(nca::on_colour(Image{}, {0, 0, 0}), nca::InvalidArgument);
}

TEST_CASE("a picture shows straight colours clamped to what can be shown") {
    std::vector<float> state(3 * nca::channels);
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const float cells[3][4] = {{0.5F, -1, 2, 0.5F}, {nan, infinity, 0, nan}, {1, 1, 1, -infinity}};
    for (std::size_t x = 0; x < 3; ++x) std::copy_n(cells[x], 4, state.data() + x * nca::channels);
    const nca::ConstStateView grid{.data = state.data(), .batch = 1, .height = 1, .width = 3};
    const Image image = nca::picture(nca::notebook_rule(), grid);
    REQUIRE(image.height == 1);
    REQUIRE(image.width == 3);
    REQUIRE(image.pixels == Bytes{128, 0, 255, 128, 0, 255, 0, 0, 255, 255, 255, 0});
}

TEST_CASE("a picture of premultiplied colours divides them by alpha") {
    std::vector<float> state(4 * nca::channels);
    const float cells[4][4] = {
        {0.25F, 0.5F, 0.75F, 0.5F}, {0.5F, 0, 0, 0}, {0.5F, 0.2F, 0, -1}, {1, 0.6F, 0, 2}};
    for (std::size_t x = 0; x < 4; ++x) std::copy_n(cells[x], 4, state.data() + x * nca::channels);
    const nca::ConstStateView grid{.data = state.data(), .batch = 1, .height = 2, .width = 2};
    const Image image = nca::picture(nca::Rule{}, grid);
    REQUIRE(image.pixels ==
            Bytes{128, 255, 255, 128, 128, 0, 0, 0, 128, 51, 0, 0, 255, 153, 0, 255});
}

TEST_CASE("only one grid in host memory can be a picture") {
    std::vector<float> state(2 * nca::channels);
    nca::ConstStateView grid{.data = state.data(), .batch = 2, .height = 1, .width = 1};
    REQUIRE_THROWS_AS(nca::picture(nca::Rule{}, grid), nca::InvalidArgument);
    REQUIRE_NOTHROW(nca::picture(nca::Rule{}, grid.sample(1)));
    grid = grid.sample(0);
    grid.space = nca::MemorySpace::device;
    REQUIRE_THROWS_AS(nca::picture(nca::Rule{}, grid), nca::InvalidArgument);
    REQUIRE_THROWS_AS(nca::picture(nca::Rule{}, {}), nca::InvalidArgument);
}
