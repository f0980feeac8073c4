// SPDX-License-Identifier: MIT
#pragma once

#include "host/core/throw_error.hpp"
#include "host/pictures/image_header.hpp"

#include <nca/error.hpp>
#include <nca/image.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>

namespace nca {

// Reads the bytes of an image file in order. Its functions throw FormatError where the file ends
// before what they read.
class ImageReader {
public:
    // kind is the format's name, for messages. The name has to outlive the reader.
    ImageReader(std::span<const std::uint8_t> bytes, const std::string& name, const char* kind)
        : rest_(bytes), name_(&name), kind_(kind) {}

    std::size_t left() const { return rest_.size(); }
    std::span<const std::uint8_t> bytes() const { return rest_; }  // that are left

    // Other bytes of the same file.
    ImageReader part(std::span<const std::uint8_t> bytes) const { return {bytes, *name_, kind_}; }

    // The next count bytes, which this reader goes past.
    ImageReader take(std::size_t count) {
        if (count > rest_.size()) ends_too_early();
        ImageReader taken = *this;
        taken.rest_ = rest_.first(count);
        rest_ = rest_.subspan(count);
        return taken;
    }
    void skip(std::size_t count) { take(count); }

    unsigned byte() {
        if (rest_.empty()) ends_too_early();
        const std::uint8_t value = rest_[0];
        rest_ = rest_.subspan(1);
        return value;
    }
    unsigned big16() {
        const unsigned high = byte();
        return high << 8 | byte();
    }
    std::uint32_t big32() {
        const std::uint32_t high = big16();
        return high << 16 | big16();
    }
    unsigned little16() {
        const unsigned low = byte();
        return low | byte() << 8;
    }
    std::uint32_t little32() {
        const std::uint32_t low = little16();
        return low | std::uint32_t{little16()} << 16;
    }

    // Goes to the next byte of this value, or to the end.
    void seek(std::uint8_t value) {
        const void* found =
            rest_.empty() ? nullptr : std::memchr(rest_.data(), value, rest_.size());
        const auto* at = static_cast<const std::uint8_t*>(found);
        rest_ = rest_.last(found == nullptr ? 0 : rest_.size() - std::size_t(at - rest_.data()));
    }

    // The header of an image of this size. Throws FormatError where a side is not in
    // 1 .. largest_image_side.
    ImageHeader header(std::int64_t width, std::int64_t height) const {
        if (std::max(width, height) > largest_image_side) {
            throw_error<FormatError>("{} is larger than {} x {} pixels; scale it down first",
                                     *name_, largest_image_side, largest_image_side);
        }
        if (width < 1 || height < 1) {
            refuse("it has {} x {} pixels, expected at least 1 x 1", width, height);
        }
        return {.height = int(height), .width = int(width)};
    }

    [[noreturn]] void ends_too_early() const {
        throw_error<FormatError>(
            "{} is not a whole image: it ends too early; copy or export it again", *name_);
    }
    [[noreturn]] void holds_too_much(const ImageHeader& header) const {
        throw_error<FormatError>(
            "{} holds more data than its size of {} x {} pixels needs; export it again", *name_,
            header.width, header.height);
    }
    template <class... Values>
    [[noreturn]] void refuse(fmt::format_string<Values...> what, Values&&... values) const {
        throw_error<FormatError>("{} is not a {} that can be read: {}; export it as PNG", *name_,
                                 kind_, fmt::format(what, std::forward<Values>(values)...));
    }

private:
    std::span<const std::uint8_t> rest_;
    const std::string* name_;
    const char* kind_;
};

// The parts of read_image_header, one for each format. The reader is at the file's first byte.
ImageHeader read_png_header(ImageReader file);
ImageHeader read_bmp_header(ImageReader file);
ImageHeader read_gif_header(ImageReader file);
ImageHeader read_jpeg_header(ImageReader file);
ImageHeader read_tga_header(ImageReader file);
ImageHeader read_webp_header(ImageReader file);

}  // namespace nca
