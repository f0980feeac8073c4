// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace nca {

// For messages and help.
inline constexpr auto image_formats = "PNG, JPEG, WebP, BMP, TGA or GIF";

// What a file says about its image, before its pixels are decoded.
struct ImageHeader {
    int height = 0;  // pixels, as stored: an orientation of 5 or more swaps height and width
    int width = 0;
    int orientation = 1;    // of EXIF, 1..8: exif.hpp
    bool animated = false;  // there are frames after the first
    bool webp = false;      // whether libwebp decodes it, and not stb_image

    // No block of memory that stb_image takes for an image of this format and size is larger, in
    // bytes. Only the data of a PNG may want more: they are not as long as its size says.
    std::size_t largest_block() const {
        // 4 bytes for each pixel of the result. JPEG has up to 2 for each channel in blocks of up
        // to 32 x 32 pixels, so a picture that is 1 pixel wide takes half a megabyte.
        return std::size_t(height) * width * 4 + inflated + (std::size_t{1} << 20);
    }
    std::size_t inflated = 0;
};

// Reads the size of an image file and checks what its decoder does not: stb_image 2.27, or libwebp.
// stb_image writes out of bounds for some JPEG files, takes memory for a size without a look at the
// file's length, and needs minutes for a small file that is made for that. This reads the structure
// of the file, no pixels. Throws FormatError where
// * the bytes are not one of image_formats, or a side is not in 1 .. largest_image_side;
// * the file is too short for its size, or has more data than its size needs;
// * a JPEG's tables are malformed, or a scan uses one that is missing.
// Of what a file is made of beyond that, the decoder is the judge.
ImageHeader read_image_header(std::span<const std::uint8_t> bytes, const std::string& name);

}  // namespace nca
