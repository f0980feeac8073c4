// SPDX-License-Identifier: MIT
#include "host/core/throw_error.hpp"
#include "host/files/atomic_file.hpp"
#include "host/pictures/decode_image.hpp"
#include "host/pictures/image_check.hpp"

#include <nca/image.hpp>

namespace nca {
namespace {

// An uncompressed image of the largest size with 4 bytes for each pixel, and a megabyte for all
// else in its file.
constexpr std::size_t max_image_file_bytes =
    std::size_t{4} * largest_image_side * largest_image_side + (std::size_t{1} << 20);
constexpr int smallest_target_side = 8;

}  // namespace

Image load_image(const std::filesystem::path& path) {
    return decode_image(read_file(path, max_image_file_bytes), path.string());
}

Image load_target(const std::filesystem::path& path) {
    Image image = load_image(path);
    if (image.height < smallest_target_side || image.width < smallest_target_side) {
        throw_error<FormatError>(
            "{} has {} x {} pixels, expected at least {} x {} to train on: "
            "put it on a larger transparent canvas, or enlarge it",
            path.string(), image.width, image.height, smallest_target_side, smallest_target_side);
    }
    if (!any_alpha(image.pixels, [](int alpha) { return alpha > 0; })) {
        throw_error<FormatError>(
            "{} is transparent everywhere, so there is nothing to grow; use an image with a "
            "visible part",
            path.string());
    }
    return image;
}

}  // namespace nca
