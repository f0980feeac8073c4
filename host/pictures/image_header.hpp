// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace nca {

// What stb_image needs to be told, or kept from, before it decodes a file.
struct ImageHeader {
    int height = 0;  // pixels
    int width = 0;

    // No block of memory that stb_image takes for an image of this format and size is larger, in
    // bytes. Only the data of a PNG may want more: they are not as long as its size says.
    std::size_t largest_block() const {
        // 4 bytes for each pixel of the result. JPEG has up to 2 for each channel in blocks of up
        // to 32 x 32 pixels, so a picture that is 1 pixel wide takes half a megabyte.
        return std::size_t(height) * width * 4 + inflated + (std::size_t{1} << 20);
    }
    std::size_t inflated = 0;
};

// Reads the size of an image file and checks what stb_image 2.27 does not. stb_image writes out of
// bounds for some JPEG files, takes memory for a size without a look at the file's length, and
// needs minutes for a small file that is made for that. This reads the structure of the file, no
// pixels. Throws FormatError where
// * the bytes are not PNG, BMP, GIF, JPEG or TGA, or a side is not in 1 .. largest_image_side;
// * the file is too short for its size, or has more data than its size needs;
// * a JPEG's tables are malformed, or a scan uses one that is missing.
// Of what a file is made of beyond that, stb_image is the judge.
ImageHeader read_image_header(std::span<const std::uint8_t> bytes, const std::string& name);

}  // namespace nca
