// SPDX-License-Identifier: MIT
#include "host/pictures/exif.hpp"

#include <cstdint>
#include <cstring>
#include <utility>

namespace nca {
namespace {

constexpr int upright = 1;

// Numbers of EXIF data, in the order of bytes that their header gives.
struct ExifNumbers {
    bool little_endian = false;

    unsigned take16(ImageReader& from) const {
        return little_endian ? from.little16() : from.big16();
    }
    std::uint32_t take32(ImageReader& from) const {
        return little_endian ? from.little32() : from.big32();
    }
};

}  // namespace

bool skip_exif_prefix(ImageReader& file) {
    ImageReader prefix = file;
    const bool found = file.left() >= 6 && prefix.big32() == 0x45786966 && prefix.big16() == 0;
    if (found) file = prefix;
    return found;
}

int read_orientation(ImageReader exif) {
    skip_exif_prefix(exif);
    // Offsets are counted from here.
    ImageReader directory = exif;
    constexpr std::size_t header_size = 8;
    if (exif.left() < header_size) return upright;
    const unsigned order = exif.big16();
    if (order != 0x4949 && order != 0x4d4d) return upright;  // II or MM
    const ExifNumbers numbers{.little_endian = order == 0x4949};
    if (numbers.take16(exif) != 42) return upright;
    const std::size_t offset = numbers.take32(exif);

    constexpr std::size_t entry_size = 12;
    if (offset > directory.left() - 2) return upright;
    directory.skip(offset);
    const unsigned entries = numbers.take16(directory);
    if (directory.left() < entries * entry_size) return upright;
    for (unsigned i = 0; i < entries; ++i) {
        ImageReader entry = directory.take(entry_size);
        if (numbers.take16(entry) != 0x0112) continue;
        const unsigned type = numbers.take16(entry);
        const std::uint32_t count = numbers.take32(entry);
        const unsigned value = numbers.take16(entry);
        const bool valid = type == 3 && count == 1 && value >= 1 && value <= 8;  // 3: 16 bits
        return valid ? int(value) : upright;
    }
    return upright;
}

Image turned_upright(Image image, int orientation) {
    if (orientation == upright) return image;
    // The first row belongs: 1, 2 at the top; 3, 4 at the bottom; 5, 8 left; 6, 7 right.
    // The first column belongs: 1, 4 left; 2, 3 right; 5, 6 at the top; 7, 8 at the bottom.
    const auto one_of = [&](int a, int b, int c, int d) {
        return orientation == a || orientation == b || orientation == c || orientation == d;
    };
    const bool rows_are_columns = orientation >= 5;
    const bool rows_reversed = one_of(3, 4, 6, 7);
    const bool columns_reversed = one_of(2, 3, 7, 8);
    Image result = image;
    if (rows_are_columns) std::swap(result.height, result.width);
    for (int y = 0; y < image.height; ++y) {
        for (int x = 0; x < image.width; ++x) {
            int row = rows_reversed ? image.height - 1 - y : y;
            int column = columns_reversed ? image.width - 1 - x : x;
            if (rows_are_columns) std::swap(row, column);
            std::memcpy(result.pixel(row, column), image.pixel(y, x), 4);
        }
    }
    return result;
}

}  // namespace nca
