// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>
#include <nca/rule.hpp>
#include <nca/state.hpp>

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace nca {

/// A picture in host memory. Functions that take one throw InvalidArgument where it has no pixels,
/// more or fewer than height * width, or 2^31 bytes or more.
struct Image {
    int height = 0;                    ///< in pixels
    int width = 0;                     ///< in pixels
    std::vector<std::uint8_t> pixels;  ///< [height, width, 4], RGBA, straight alpha
    bool had_alpha = true;             ///< false: the file had no alpha, so every pixel is opaque
    bool animated = false;             ///< the file has more frames; this is the first

    /// The four values of the pixel in row y, column x, which has to be in the image.
    std::uint8_t* pixel(int y, int x) { return pixels.data() + (std::size_t(y) * width + x) * 4; }
    /// The same, to read.
    const std::uint8_t* pixel(int y, int x) const {
        return pixels.data() + (std::size_t(y) * width + x) * 4;
    }
};

/// The largest side of an image that load_image() reads, in pixels.
inline constexpr int largest_image_side = 8192;

/// Reads PNG, JPEG, WebP, BMP, TGA or GIF, of an animation (GIF, WebP, APNG) the first frame. The
/// orientation in the EXIF data of PNG, JPEG and WebP is applied. Throws IoError where the file
/// cannot be read or is longer than 4 bytes for each pixel of the largest image and a megabyte;
/// FormatError where it is not a whole image, a side is longer than largest_image_side, or it holds
/// far more data than its size in pixels needs: pixels after inflating, scans of a JPEG. It is
/// refused before there is memory for its pixels where its length cannot be right for its size.
NCA_API Image load_image(const std::filesystem::path& path);

/// Reads an image to train on, as load_image() does. Throws FormatError also where a side is
/// shorter than 8 pixels or every pixel is transparent.
NCA_API Image load_target(const std::filesystem::path& path);

/// Resamples to another size with a Catmull-Rom filter; colours are weighted by alpha. Throws
/// InvalidArgument where a new side is not in 1 .. 2 * largest_image_side.
NCA_API Image resize(const Image& image, int height, int width);

/// Makes each pixel a square of scale x scale pixels. Throws InvalidArgument where scale is below 1
/// or a new side is above 2 * largest_image_side.
NCA_API Image enlarge(const Image& image, int scale);

/// The image on a background of one colour {red, green, blue}, opaque.
NCA_API Image on_colour(const Image& image, const std::array<std::uint8_t, 3>& colour);

/// on_colour() on white.
NCA_API Image on_white(const Image& image);

/// The picture of one grid in host memory, one pixel for each cell. Colours are divided by alpha
/// where the rule has them premultiplied; values outside 0..1 are cut off. Throws InvalidArgument
/// where the view has more than one grid or is in device memory.
NCA_API Image picture(const Rule& rule, ConstStateView grid);

/// The bytes of a PNG file.
NCA_API std::vector<std::uint8_t> encode_png(const Image& image);

/// Writes a PNG file. Throws IoError where that fails; the old file stays until the new one is
/// complete.
NCA_API void save_png(const std::filesystem::path& path, const Image& image);

/// Writes a GIF animation that loops for ever. Each frame is shown for that many hundredths of a
/// second, the last for at least a whole second. A GIF has no half-transparent pixels: pixels with
/// alpha below 128 become transparent, the others opaque. Use frames of on_white() to avoid that.
/// Throws InvalidArgument where there is no frame, frames have different sizes, a side is above
/// 65535 pixels, or centiseconds is not in 1..65535; IoError where writing fails. The old file
/// stays until the new one is complete.
NCA_API void save_gif(const std::filesystem::path& path, std::span<const Image> frames,
                      int centiseconds);

/// Writes a WebP animation, without loss of quality; otherwise as save_gif(), but pixels may be
/// half-transparent, and a side has at most 16383 pixels.
NCA_API void save_webp(const std::filesystem::path& path, std::span<const Image> frames,
                       int centiseconds);

/// Writes a NumPy file of one grid in host memory, float32, [height, width, channels]. Throws
/// InvalidArgument where the view has more than one grid or is in device memory, IoError where
/// writing fails. The old file stays until the new one is complete.
NCA_API void save_npy(const std::filesystem::path& path, ConstStateView grid);

}  // namespace nca
