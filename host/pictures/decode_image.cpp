// SPDX-License-Identifier: MIT
#include "host/pictures/decode_image.hpp"

#include "host/pictures/exif.hpp"
#include "host/pictures/image_header.hpp"
#include "host/pictures/stb.hpp"
#include "host/pictures/webp.hpp"

#include <utility>

namespace nca {

Image decode_image(std::span<const std::uint8_t> bytes, const std::string& name) {
    const ImageHeader header = read_image_header(bytes, name);
    Image image =
        header.webp ? decode_webp(bytes, name, header) : decode_by_stb(bytes, name, header);
    // Both decoders find an alpha in some files that have none: stb_image one of 0 for a colour
    // behind the end of a PNG's palette.
    for (std::size_t i = alpha_channel; !image.had_alpha && i < image.pixels.size(); i += 4) {
        image.pixels[i] = 255;
    }
    image.animated = header.animated;
    return turned_upright(std::move(image), header.orientation);
}

}  // namespace nca
