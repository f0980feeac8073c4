// SPDX-License-Identifier: MIT
// A picture: PNG, JPEG, WebP, BMP, TGA or GIF.
#include "host/pictures/decode_image.hpp"
#include "host/pictures/image_check.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace nca;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto image = fuzz::unless_refused([&] { return decode_image({data, size}, "input"); });
    if (!image) return 0;
    check_image(*image);
    fuzz::require(image->height <= largest_image_side && image->width <= largest_image_side,
                  "expected a picture within the largest size");
    const bool opaque = !any_alpha(image->pixels, [](int alpha) { return alpha != 255; });
    fuzz::require(image->had_alpha || opaque, "expected opaque pixels where there is no alpha");
    return 0;
}
