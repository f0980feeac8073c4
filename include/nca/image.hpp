// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>
#include <nca/rule.hpp>
#include <nca/state.hpp>

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace nca {

// [height, width, 4] bytes, RGBA, straight alpha.
struct Image {
    int height = 0;
    int width = 0;
    std::vector<std::uint8_t> pixels;
    bool had_alpha = true;  // false: the file had none and was taken as opaque

    std::uint8_t* pixel(int y, int x) { return pixels.data() + (std::size_t(y) * width + x) * 4; }
    const std::uint8_t* pixel(int y, int x) const {
        return pixels.data() + (std::size_t(y) * width + x) * 4;
    }
};

// The largest side of an image that is read, in pixels.
inline constexpr int largest_image_side = 8192;

// Reads PNG, JPEG, BMP, TGA or static GIF. Throws IoError, or FormatError where the file is not a
// whole image or larger than largest_image_side.
NCA_API Image load_image(const std::filesystem::path& path);

// The same for an image to train on: also throws FormatError where a side is shorter than 8 pixels
// or every pixel is transparent.
NCA_API Image load_target(const std::filesystem::path& path);

// Resamples with stb_image_resize's filters on premultiplied pixels.
NCA_API Image resize(const Image& image, int height, int width);

// Every pixel as a square of scale x scale pixels. scale >= 1.
NCA_API Image enlarge(const Image& image, int scale);

// The image on opaque white.
NCA_API Image on_white(const Image& image);

// One grid of a state in host memory as a picture with straight alpha, as the rule reads colours.
NCA_API Image picture(const Rule& rule, ConstStateView grid);

// The bytes of a PNG file.
NCA_API std::vector<std::uint8_t> encode_png(const Image& image);

// Writers. The old file stays until the new one is whole. All throw IoError.
NCA_API void save_png(const std::filesystem::path& path, const Image& image);

// Animations that loop for ever. All frames have one size, centiseconds is the time of each, the
// last frame stays for a second. Throw InvalidArgument where there is no frame or sizes differ.
// GIF has no half-transparent pixels: hand it frames from on_white, or alpha is cut at one half.
NCA_API void save_gif(const std::filesystem::path& path, std::span<const Image> frames,
                      int centiseconds);
NCA_API void save_webp(const std::filesystem::path& path, std::span<const Image> frames,
                       int centiseconds);

// float32 .npy, [height, width, channels], one grid in host memory.
NCA_API void save_npy(const std::filesystem::path& path, ConstStateView grid);

}  // namespace nca
