// SPDX-License-Identifier: MIT
#include <nca/error.hpp>
#include <nca/image.hpp>

#include "host/pictures/palette.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/temporary_directory.hpp"

#include <webp/demux.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_GIF
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb_image.h>
#pragma GCC diagnostic pop

namespace {

using nca::Image;
using nca::test::read_bytes;
using nca::test::TemporaryDirectory;
using nca::test::write_text;
using Bytes = std::vector<std::uint8_t>;

struct Animation {
    std::vector<Image> frames;
    std::vector<int> milliseconds;
    int loops = -1;
};

Animation read_gif(const std::filesystem::path& path) {
    const Bytes bytes = read_bytes(path);
    int* delays = nullptr;
    int width = 0;
    int height = 0;
    int count = 0;
    int components = 0;
    stbi_uc* pixels = stbi_load_gif_from_memory(bytes.data(), int(bytes.size()), &delays, &width,
                                                &height, &count, &components, 4);
    REQUIRE(pixels != nullptr);
    Animation animation;
    const std::size_t size = std::size_t(width) * height * 4;
    for (int i = 0; i < count; ++i) {
        const stbi_uc* frame = pixels + std::size_t(i) * size;
        animation.frames.push_back({height, width, {frame, frame + size}});
        animation.milliseconds.push_back(delays[i]);
    }
    std::free(pixels);
    std::free(delays);
    // The application extension that browsers take the number of loops from.
    const std::string text(bytes.begin(), bytes.end());
    const auto netscape = text.find("NETSCAPE2.0");
    if (netscape != std::string::npos) {
        animation.loops = bytes.at(netscape + 13) + 256 * bytes.at(netscape + 14);
    }
    return animation;
}

Animation read_webp(const std::filesystem::path& path) {
    const Bytes bytes = read_bytes(path);
    const WebPData data = {bytes.data(), bytes.size()};
    const std::unique_ptr<WebPAnimDecoder, void (*)(WebPAnimDecoder*)> decoder(
        WebPAnimDecoderNew(&data, nullptr), WebPAnimDecoderDelete);
    REQUIRE(decoder != nullptr);
    WebPAnimInfo info;
    REQUIRE(WebPAnimDecoderGetInfo(decoder.get(), &info) != 0);
    Animation animation;
    animation.loops = int(info.loop_count);
    int before = 0;
    while (WebPAnimDecoderHasMoreFrames(decoder.get()) != 0) {
        std::uint8_t* pixels = nullptr;
        int end = 0;
        REQUIRE(WebPAnimDecoderGetNext(decoder.get(), &pixels, &end) != 0);
        const int height = int(info.canvas_height);
        const int width = int(info.canvas_width);
        animation.frames.push_back(
            {height, width, {pixels, pixels + std::size_t(height) * width * 4}});
        animation.milliseconds.push_back(end - before);
        before = end;
    }
    return animation;
}

// An opaque disc with a colour gradient that grows from frame to frame; around it background.
Image disc(int size, double radius, std::array<std::uint8_t, 4> background) {
    Image image{.height = size, .width = size, .pixels = {}};
    for (int y = 0; y < size; ++y) {
        for (int x = 0; x < size; ++x) {
            const bool inside = std::hypot(y - size / 2.0, x - size / 2.0) < radius;
            const std::array<std::uint8_t, 4> colour = {std::uint8_t(255 * x / size),
                                                        std::uint8_t(255 * y / size),
                                                        std::uint8_t(127 + (x * y) % 128), 255};
            const auto& chosen = inside ? colour : background;
            image.pixels.insert(image.pixels.end(), chosen.begin(), chosen.end());
        }
    }
    return image;
}

constexpr std::array<std::uint8_t, 4> white = {255, 255, 255, 255};
constexpr std::array<std::uint8_t, 4> clear = {0, 0, 0, 0};

int count_transparent(const Image& image) {
    int count = 0;
    for (std::size_t i = 3; i < image.pixels.size(); i += 4) count += image.pixels[i] == 0;
    return count;
}

// Over what can be seen: a transparent pixel may have any colour.
int largest_difference(const Image& a, const Image& b) {
    REQUIRE(a.pixels.size() == b.pixels.size());
    int largest = 0;
    for (std::size_t i = 0; i < a.pixels.size(); ++i) {
        const std::size_t alpha = i / 4 * 4 + nca::alpha_channel;
        if (a.pixels[alpha] == 0 && b.pixels[alpha] == 0) continue;
        largest = std::max(largest, std::abs(int(a.pixels[i]) - int(b.pixels[i])));
    }
    return largest;
}

// Root mean square over the colours of all pixels that are opaque in both; where only one is
// opaque, the images differ.
double colour_error(const Image& a, const Image& b) {
    REQUIRE(a.pixels.size() == b.pixels.size());
    double sum = 0;
    double count = 0;
    for (std::size_t i = 0; i < a.pixels.size(); i += 4) {
        REQUIRE((a.pixels[i + 3] < 128) == (b.pixels[i + 3] < 128));
        if (a.pixels[i + 3] < 128) continue;
        for (std::size_t c = 0; c < 3; ++c) {
            sum += std::pow(double(a.pixels[i + c]) - b.pixels[i + c], 2);
        }
        count += 3;
    }
    REQUIRE(count > 0);
    return std::sqrt(sum / count);
}

}  // namespace

TEST_CASE("a PNG comes back as it was written") {
    const TemporaryDirectory folder;
    for (const int size : {1, 2, 31}) {
        Image image = disc(size, size / 3.0, {9, 8, 7, 100});
        nca::save_png(folder / "image.png", image);
        const Image back = nca::load_image(folder / "image.png");
        REQUIRE(back.pixels == image.pixels);
        REQUIRE(back.height == size);
        REQUIRE(back.had_alpha);
    }
}

TEST_CASE("up to 255 colours are kept exactly and more become 255 close ones") {
    Image image{.height = 17, .width = 15, .pixels = {}};
    for (int i = 0; i < 255; ++i) {
        image.pixels.insert(image.pixels.end(),
                            {std::uint8_t(i), std::uint8_t(i * 7), std::uint8_t(i * 31), 255});
    }
    const auto paletted = nca::reduce_colours(image);
    REQUIRE(paletted.palette.size() == 256 * 3);
    for (std::size_t i = 0; i < 255; ++i) {
        REQUIRE(paletted.indices[i] != nca::transparent_index);
        REQUIRE(std::memcmp(&paletted.palette[paletted.indices[i] * 3U], &image.pixels[i * 4], 3) ==
                0);
    }
    const auto reduced = nca::reduce_colours(disc(200, 90, white));
    REQUIRE(reduced.palette.size() == 256 * 3);
}

TEST_CASE("a palette of one colour or of none is a palette") {
    Image image{.height = 1, .width = 2, .pixels = {1, 2, 3, 255, 1, 2, 3, 128}};
    REQUIRE(nca::reduce_colours(image).indices == Bytes{1, 1});
    REQUIRE(nca::reduce_colours(image).palette == Bytes{0, 0, 0, 1, 2, 3});
    image.pixels[3] = image.pixels[7] = 127;
    REQUIRE(nca::reduce_colours(image).indices == Bytes{0, 0});
    REQUIRE(nca::reduce_colours(image).palette == Bytes{0, 0, 0});
}

TEST_CASE("a GIF of few colours is exact and has its times") {
    const TemporaryDirectory folder;
    // Few enough pixels for each frame to have at most 255 colours.
    std::vector<Image> frames;
    for (int i = 0; i < 9; ++i) frames.push_back(nca::enlarge(disc(15, i, white), 3));
    frames.push_back(frames.back());  // nothing changes
    frames.push_back(frames.front());
    nca::save_gif(folder / "a.gif", frames, 4);
    const Animation back = read_gif(folder / "a.gif");
    REQUIRE(back.frames.size() == frames.size());
    REQUIRE(back.loops == 0);
    for (std::size_t i = 0; i < frames.size(); ++i) {
        CAPTURE(i);
        REQUIRE(largest_difference(back.frames[i], frames[i]) == 0);
        REQUIRE(back.milliseconds[i] == (i + 1 == frames.size() ? 1000 : 40));
    }
}

TEST_CASE("a GIF of gradients is close") {
    const TemporaryDirectory folder;
    std::vector<Image> frames;
    for (int i = 0; i < 6; ++i) frames.push_back(disc(120, 10 * i, white));
    nca::save_gif(folder / "a.gif", frames, 4);
    const Animation back = read_gif(folder / "a.gif");
    REQUIRE(back.frames.size() == frames.size());
    for (std::size_t i = 0; i < frames.size(); ++i) {
        CAPTURE(i);
        // 255 colours for up to 7,853 cells of a cube of which all is used: steps of about 20.
        REQUIRE(colour_error(back.frames[i], frames[i]) <= 8);
    }
}

TEST_CASE("a GIF on a transparent ground shows nothing of the frames before") {
    const TemporaryDirectory folder;
    std::vector<Image> frames;
    for (const double radius : {2.0, 12.0, 5.0, 0.0, 9.0}) {
        frames.push_back(disc(31, radius, clear));
    }
    nca::save_gif(folder / "a.gif", frames, 4);
    const Animation back = read_gif(folder / "a.gif");
    REQUIRE(back.frames.size() == frames.size());
    for (std::size_t i = 0; i < frames.size(); ++i) {
        CAPTURE(i);
        REQUIRE(count_transparent(frames[i]) > 0);
        REQUIRE(count_transparent(back.frames[i]) == count_transparent(frames[i]));
    }
    REQUIRE(colour_error(back.frames[1], frames[1]) <= 8);
}

TEST_CASE("a GIF of one frame or one pixel is a GIF") {
    const TemporaryDirectory folder;
    const std::vector<Image> one = {disc(9, 3, white)};
    nca::save_gif(folder / "a.gif", one, 4);
    REQUIRE(nca::load_image(folder / "a.gif").pixels == one[0].pixels);
    const std::vector<Image> pixels = {{1, 1, {1, 2, 3, 255}}, {1, 1, {3, 2, 1, 255}}};
    nca::save_gif(folder / "b.gif", pixels, 4);
    const Animation back = read_gif(folder / "b.gif");
    REQUIRE(back.frames.size() == 2);
    REQUIRE(back.frames[1].pixels == pixels[1].pixels);
}

TEST_CASE("a WebP is exact, transparency included, and has its times") {
    const TemporaryDirectory folder;
    std::vector<Image> frames;
    for (const double radius : {2.0, 12.0, 5.0, 0.0, 9.0}) {
        frames.push_back(disc(31, radius, clear));
        // Half-transparent pixels exist in a WebP.
        if (radius > 0) frames.back().pixel(16, 16)[3] = 77;
    }
    nca::save_webp(folder / "a.webp", frames, 4);
    const Animation back = read_webp(folder / "a.webp");
    REQUIRE(back.frames.size() == frames.size());
    REQUIRE(back.loops == 0);
    for (std::size_t i = 0; i < frames.size(); ++i) {
        CAPTURE(i);
        REQUIRE(largest_difference(back.frames[i], frames[i]) == 0);
        REQUIRE(back.milliseconds[i] == (i + 1 == frames.size() ? 1000 : 40));
    }
}

TEST_CASE("frames that make no animation are refused and the old file stays") {
    const TemporaryDirectory folder;
    write_text(folder / "a", "old");
    const auto refuse = [&](const std::vector<Image>& frames, int centiseconds) {
        REQUIRE_THROWS_AS(nca::save_gif(folder / "a", frames, centiseconds), nca::InvalidArgument);
        REQUIRE_THROWS_AS(nca::save_webp(folder / "a", frames, centiseconds), nca::InvalidArgument);
    };
    const Image image = disc(9, 3, white);
    refuse({}, 4);
    refuse({image, disc(8, 3, white)}, 4);
    refuse({image}, 0);
    refuse({image}, -1);
    refuse({image}, 65536);
    refuse({Image{}}, 4);
    refuse({image, {9, 9, {1, 2, 3}}}, 4);
    refuse({{1, 65536, Bytes(65536 * 4)}}, 4);
    REQUIRE(read_bytes(folder / "a") == Bytes{'o', 'l', 'd'});
    REQUIRE(folder.names().size() == 1);
}

TEST_CASE("every writer says IoError where it cannot write") {
    const TemporaryDirectory folder;
    const Image image = disc(9, 3, white);
    const std::vector<float> state(nca::channels);
    const nca::ConstStateView grid{.data = state.data(), .batch = 1, .height = 1, .width = 1};
    const auto path = folder / "missing/file";
    REQUIRE_THROWS_AS(nca::save_png(path, image), nca::IoError);
    REQUIRE_THROWS_AS(nca::save_gif(path, {&image, 1}, 4), nca::IoError);
    REQUIRE_THROWS_AS(nca::save_webp(path, {&image, 1}, 4), nca::IoError);
    REQUIRE_THROWS_AS(nca::save_npy(path, grid), nca::IoError);
    REQUIRE(folder.names().empty());
}

TEST_CASE("an .npy file is a header of 128 bytes and the floats") {
    const TemporaryDirectory folder;
    std::vector<float> state(3 * 5 * nca::channels);
    for (std::size_t i = 0; i < state.size(); ++i) state[i] = float(i) / 7;
    const nca::ConstStateView grid{.data = state.data(), .batch = 1, .height = 3, .width = 5};
    nca::save_npy(folder / "a.npy", grid);
    const Bytes bytes = read_bytes(folder / "a.npy");
    REQUIRE(bytes.size() == 128 + state.size() * 4);
    const std::string expected = "\x93NUMPY" + std::string("\x01\x00\x76\x00", 4) +
                                 "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5, 16), }";
    const std::string header(bytes.begin(), bytes.begin() + 128);
    REQUIRE(header.starts_with(expected));
    REQUIRE(header.find_first_not_of(' ', expected.size()) == 127);
    REQUIRE(header.back() == '\n');
    REQUIRE(std::memcmp(bytes.data() + 128, state.data(), state.size() * 4) == 0);
    nca::ConstStateView two = grid;
    two.batch = 2;
    REQUIRE_THROWS_AS(nca::save_npy(folder / "b.npy", two), nca::InvalidArgument);
}
