// SPDX-License-Identifier: MIT
#include "host/pictures/image_reader.hpp"

#include <vector>

namespace nca {
namespace {

// The first byte of what a GIF is made of.
constexpr unsigned gif_extension = 0x21;
constexpr unsigned gif_frame = 0x2c;

constexpr std::size_t table_size(unsigned flags) {
    return flags & 0x80 ? std::size_t{3} * (2U << (flags & 7)) : 0;
}

// Goes past blocks up to the empty one that ends them.
void skip_blocks(ImageReader& file) {
    for (;;) {
        const unsigned size = file.byte();
        if (size == 0) return;
        file.skip(size);
    }
}

// The number of pixels that the codes of a frame stand for. Each new code stands for the pixels of
// an older one and one more, so codes of a megabyte can stand for 2^32 pixels. stb_image decodes
// all of them, also those that have no place in the frame. This only adds up their numbers. It
// takes and refuses the same codes as stb_image.
std::uint64_t count_pixels(ImageReader& file) {
    constexpr unsigned most_codes = 8192;
    constexpr unsigned no_code = most_codes;
    const unsigned first_width = file.byte() + 1;  // of a code, in bits
    if (first_width > 13) file.refuse("its codes begin with {} bits", first_width);
    const unsigned clear = 1U << (first_width - 1);
    const unsigned end = clear + 1;
    std::vector<std::uint32_t> lengths(most_codes, 1);  // of each code, in pixels

    std::uint64_t pixels = 0;
    unsigned width = first_width;
    unsigned codes = clear + 2;
    unsigned last = no_code;
    bool cleared = false;
    unsigned left = 0;  // bytes of the block
    std::uint32_t bits = 0;
    unsigned valid = 0;  // bits in `bits`
    for (;;) {
        while (valid < width) {
            if (left == 0) left = file.byte();
            if (left == 0) return pixels;
            --left;
            bits |= std::uint32_t{file.byte()} << valid;
            valid += 8;
        }
        const unsigned code = bits & ((1U << width) - 1);
        bits >>= width;
        valid -= width;
        if (code == clear) {
            width = first_width;
            codes = clear + 2;
            last = no_code;
            cleared = true;
            continue;
        }
        if (code == end) {
            file.skip(left);
            skip_blocks(file);
            return pixels;
        }
        const bool known = code < codes || (code == codes && last != no_code);
        if (!cleared || !known) file.refuse("its data have a code that was not defined");
        if (last != no_code) {
            if (codes == most_codes) file.refuse("its data define too many codes");
            lengths[codes] = lengths[last] + 1;
            ++codes;
        }
        pixels += lengths[code];
        if ((codes & ((1U << width) - 1)) == 0 && codes < 4096) ++width;
        last = code;
    }
}

// Whether another frame begins in what comes after the first. A file may be cut off there.
bool has_another_frame(ImageReader file) {
    try {
        unsigned kind = file.byte();
        while (kind == gif_extension) {
            file.skip(1);
            skip_blocks(file);
            kind = file.byte();
        }
        return kind == gif_frame;
    } catch (const FormatError&) {
        return false;
    }
}

}  // namespace

ImageHeader read_gif_header(ImageReader file) {
    const std::size_t length = file.left();
    file.skip(6);
    const unsigned screen_width = file.little16();
    ImageHeader header = file.header(screen_width, file.little16());
    const auto pixels = std::size_t(header.width) * std::size_t(header.height);
    // A code of at most 12 bits stands for at most 4096 pixels. A frame may be smaller than the
    // screen, so a screen of up to 16 megapixels, for which there is memory, needs no such file.
    constexpr std::size_t free_pixels = std::size_t{1} << 24;
    if (pixels > free_pixels && length < pixels / 4096 * 12 / 8) file.ends_too_early();

    const unsigned flags = file.byte();
    file.skip(2 + table_size(flags));
    for (;;) {
        const unsigned kind = file.byte();
        if (kind == gif_frame) break;
        if (kind != gif_extension) file.refuse("it has no picture where one is expected");
        // stb_image does not look for blocks after an extension of this kind and a wrong size.
        if (file.byte() == 0xf9) {
            const unsigned size = file.byte();
            file.skip(size);
            if (size != 4) continue;
        }
        skip_blocks(file);
    }
    file.skip(4);
    const std::uint64_t width = file.little16();
    const std::uint64_t frame_pixels = width * file.little16();
    file.skip(table_size(file.byte()));
    constexpr std::uint64_t spare = std::uint64_t{1} << 20;
    if (count_pixels(file) > 2 * frame_pixels + spare) file.holds_too_much(header);
    header.animated = has_another_frame(file);
    return header;
}

}  // namespace nca
