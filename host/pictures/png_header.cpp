// SPDX-License-Identifier: MIT
#include "host/pictures/exif.hpp"
#include "host/pictures/image_reader.hpp"

#include <algorithm>

namespace nca {
namespace {

constexpr std::uint32_t chunk_type(const char (&name)[5]) {
    return std::uint32_t(name[0]) << 24 | std::uint32_t(name[1]) << 16 |
           std::uint32_t(name[2]) << 8 | std::uint32_t(name[3]);
}

// Bytes of the rows of a picture, each with a byte for its filter.
std::size_t row_bytes(std::size_t width, std::size_t height, std::size_t bits) {
    return width == 0 ? 0 : height * (1 + (width * bits + 7) / 8);
}

// Bytes of the whole picture before compression; bits are those of a pixel. An interlaced picture
// is stored as seven: every 8th pixel, those in the middle between them, and so on.
std::size_t raw_bytes(const ImageHeader& header, std::size_t bits, bool interlaced) {
    const auto width = std::size_t(header.width);
    const auto height = std::size_t(header.height);
    if (!interlaced) return row_bytes(width, height, bits);
    const auto pass = [&](std::size_t x, std::size_t y, std::size_t dx, std::size_t dy) {
        return row_bytes((width + dx - 1 - x) / dx, (height + dy - 1 - y) / dy, bits);
    };
    return pass(0, 0, 8, 8) + pass(4, 0, 8, 8) + pass(0, 4, 4, 8) + pass(2, 0, 4, 4) +
           pass(0, 2, 2, 4) + pass(1, 0, 2, 2) + pass(0, 1, 1, 2);
}

}  // namespace

ImageHeader read_png_header(ImageReader file) {
    ImageHeader header;
    std::size_t raw = 0;   // bytes of the picture before compression
    std::size_t data = 0;  // and after it
    file.skip(8);
    for (;;) {
        const std::size_t length = file.big32();
        const std::uint32_t type = file.big32();
        if (type == chunk_type("IEND")) break;
        ImageReader chunk = file.take(length);
        if (type == chunk_type("IHDR")) {
            if (length != 13 || raw > 0)
                file.refuse("its header has a wrong length or comes twice");
            const std::uint32_t width = chunk.big32();
            header = file.header(width, chunk.big32());
            const unsigned depth = chunk.byte();
            const unsigned colour = chunk.byte();
            const unsigned samples = colour == 2 ? 3 : colour == 4 ? 2 : colour == 6 ? 4 : 1;
            if (depth > 16 || colour > 6) {
                file.refuse("{} bits per channel and colour type {} are not of a PNG", depth,
                            colour);
            }
            chunk.skip(2);
            raw = raw_bytes(header, std::size_t{depth} * samples, chunk.byte() != 0);
            // stb_image doubles the memory for the inflated data where they are longer than it
            // guesses. Its pixels have 8 bytes where a channel has 16 bits.
            header.inflated = 2 * raw;
            if (depth == 16) header.inflated += std::size_t{8} * header.width * header.height;
        } else if (type == chunk_type("IDAT")) {
            data += length;
        } else if (raw == 0 && type != chunk_type("CgBI")) {  // which Apple's tools put first
            file.refuse("it does not begin with a header");
        } else if (type == chunk_type("eXIf")) {
            header.orientation = read_orientation(chunk);
        } else if (type == chunk_type("acTL")) {  // an animation: how many frames, how many times
            header.animated = length == 8 && chunk.big32() > 1;
        } else if ((type >> 29 & 1) == 0 && type != chunk_type("PLTE") &&
                   type != chunk_type("CgBI")) {
            // The case of the first letter says whether a program may ignore the chunk.
            file.refuse("it has a chunk of an unknown kind");
        }
        file.skip(4);  // the checksum
    }
    file.skip(4);
    // Deflate makes 258 bytes of 2 bits at best. At worst it adds 5 bytes to each 65535, and to
    // each row where a program flushes it.
    constexpr std::size_t largest_ratio = 258 * 8 / 2;
    constexpr std::size_t spare = std::size_t{1} << 16;
    if (data < raw / largest_ratio) file.ends_too_early();
    if (data > 2 * raw + spare) file.holds_too_much(header);
    header.inflated = std::max(header.inflated, 2 * data);  // their memory is doubled, too
    return header;
}

}  // namespace nca
