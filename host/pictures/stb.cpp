// SPDX-License-Identifier: MIT
#include "host/pictures/stb.hpp"

#include "host/core/throw_error.hpp"
#include "host/pictures/image_check.hpp"
#include "host/pictures/image_header.hpp"

#include <nca/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace nca {
namespace {

// The memory of stb_image. It is zeroed, because stb_image 2.27 uses some that it has not written
// where a file is damaged. A block is at most as large as a file of this format and size needs.
struct StbMemory {
    std::size_t largest_block = 0;  // bytes
    bool refused = false;           // whether a larger one was asked for
};
thread_local StbMemory stb_memory;

void* stb_allocate(std::size_t size) {
    if (size > stb_memory.largest_block) {
        stb_memory.refused = true;
        return nullptr;
    }
    return std::calloc(std::max<std::size_t>(size, 1), 1);
}

// Leaves the old block as it is where there is no memory for the new one.
void* stb_grow(void* block, std::size_t old_size, std::size_t size) {
    void* larger = stb_allocate(size);
    if (larger == nullptr) return nullptr;
    if (block != nullptr) std::memcpy(larger, block, std::min(old_size, size));
    std::free(block);
    return larger;
}

}  // namespace
}  // namespace nca

#define STBI_MALLOC(size) nca::stb_allocate(size)
#define STBI_REALLOC_SIZED(block, old_size, size) nca::stb_grow(block, old_size, size)
#define STBI_REALLOC(block, size) nullptr  // stb_image uses the one above
#define STBI_FREE(block) std::free(block)
// A file must not end the program. No assertion here stands between a file and memory that is not
// stb_image's.
#define STBI_ASSERT(condition)
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#define STBI_NO_STDIO
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_ONLY_BMP
#define STBI_ONLY_TGA
#define STBI_ONLY_GIF
#define STBI_MAX_DIMENSIONS nca::largest_image_side
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STBI_WRITE_NO_STDIO
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb_image.h>
#include <stb_image_write.h>
#pragma GCC diagnostic pop

namespace nca {
namespace {

// What stb_image reads from. stb_image decodes a file that was cut off without an error: it takes
// missing bytes as zeros. So this remembers whether it asked for bytes after the end.
struct Source {
    std::span<const std::uint8_t> rest;
    bool ran_out = false;

    static int read(void* user, char* data, int size) {
        auto& source = *static_cast<Source*>(user);
        const auto wanted = std::size_t(size);
        const std::size_t count = std::min(wanted, source.rest.size());
        if (count > 0) std::memcpy(data, source.rest.data(), count);
        source.rest = source.rest.subspan(count);
        // stb_image fills a buffer of this size before it needs all of it, so a read of this size
        // may get less. Bytes of every other read are needed.
        constexpr std::size_t read_ahead = sizeof(stbi__context::buffer_start);
        if (count == 0 || (count < wanted && wanted != read_ahead)) source.ran_out = true;
        return int(count);
    }
    static void skip(void* user, int size) {
        auto& source = *static_cast<Source*>(user);
        const auto count = std::size_t(std::max(size, 0));
        if (count > source.rest.size()) source.ran_out = true;
        source.rest = source.rest.subspan(std::min(count, source.rest.size()));
    }
    static int at_end(void* user) { return static_cast<Source*>(user)->rest.empty(); }
};

// Throws the error of an image that stb_image could not decode.
[[noreturn]] void fail(const std::string& name, const ImageHeader& header, bool ran_out,
                       const char* reason) {
    if (stb_memory.refused) {
        throw_error<FormatError>(
            "{} holds more data than its size of {} x {} pixels needs; export it again", name,
            header.width, header.height);
    }
    if (std::strcmp(reason, "outofmem") == 0) throw std::bad_alloc();
    if (ran_out) {
        throw_error<FormatError>(
            "{} is not a whole image: it ends too early; copy or export it again", name);
    }
    throw_error<FormatError>(
        "{} is not an image that can be read ({}), expected {}; export it as PNG", name, reason,
        image_formats);
}

}  // namespace

Image decode_by_stb(std::span<const std::uint8_t> bytes, const std::string& name,
                    const ImageHeader& header) {
    stb_memory = {.largest_block = header.largest_block()};
    Source source{.rest = bytes};
    const stbi_io_callbacks callbacks = {Source::read, Source::skip, Source::at_end};
    Image image;
    int components = 0;
    stbi__g_failure_reason = nullptr;  // a file may be refused without a new one
    const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
        stbi_load_from_callbacks(&callbacks, &source, &image.width, &image.height, &components, 4),
        stbi_image_free);
    if (pixels == nullptr || source.ran_out) {
        const char* reason = pixels == nullptr ? stbi_failure_reason() : nullptr;
        fail(name, header, source.ran_out, reason == nullptr ? "" : reason);
    }
    image.pixels.assign(pixels.get(), pixels.get() + std::size_t(image.height) * image.width * 4);
    image.had_alpha = components == 2 || components == 4;
    return image;
}

std::vector<std::uint8_t> encode_png(const Image& image) {
    check_image(image);
    std::vector<std::uint8_t> bytes;
    const auto append = [](void* user, void* data, int size) {
        const auto* begin = static_cast<const std::uint8_t*>(data);
        auto& all = *static_cast<std::vector<std::uint8_t>*>(user);
        all.insert(all.end(), begin, begin + size);
    };
    if (stbi_write_png_to_func(append, &bytes, image.width, image.height, 4, image.pixels.data(),
                               image.width * 4) == 0) {
        throw std::bad_alloc();
    }
    return bytes;
}

}  // namespace nca
