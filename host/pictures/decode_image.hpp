// SPDX-License-Identifier: MIT
#pragma once

#include <nca/image.hpp>

#include <cstdint>
#include <span>
#include <string>

namespace nca {

// Decodes PNG, JPEG, WebP, BMP, TGA or GIF, of an animation the first frame, and turns the image
// upright where its EXIF data say how; messages call the file `name`. Throws FormatError where the
// bytes are no such image, end too early, or are what read_image_header refuses; in the last case
// no memory is allocated for the pixels.
Image decode_image(std::span<const std::uint8_t> bytes, const std::string& name);

}  // namespace nca
