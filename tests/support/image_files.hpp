// SPDX-License-Identifier: MIT
#pragma once

// Image files with what cameras and programs put into them.

#include <nca/image.hpp>

#include <webp/encode.h>
#include <webp/mux.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

namespace nca::test {

using Bytes = std::vector<std::uint8_t>;

// Without loss the colours of pixels with an alpha of 0 get lost all the same.
inline Bytes encode_webp(const Image& image, bool lossless) {
    std::uint8_t* data = nullptr;
    const std::size_t size = lossless ? WebPEncodeLosslessRGBA(image.pixels.data(), image.width,
                                                               image.height, image.width * 4, &data)
                                      : WebPEncodeRGBA(image.pixels.data(), image.width,
                                                       image.height, image.width * 4, 90, &data);
    if (size == 0) throw std::runtime_error("no WebP");
    Bytes bytes(data, data + size);
    WebPFree(data);
    return bytes;
}

// EXIF data with the directory of a camera: the orientation is its second entry.
inline Bytes exif_data(int orientation, bool little_endian, int type = 3, int count = 1) {
    Bytes bytes;
    const auto put = [&](std::uint32_t value, int size) {
        for (int i = 0; i < size; ++i) {
            const int shift = 8 * (little_endian ? i : size - 1 - i);
            bytes.push_back(std::uint8_t(value >> shift));
        }
    };
    const std::uint8_t order = little_endian ? 'I' : 'M';
    bytes = {order, order};
    put(42, 2);
    put(8, 4);  // where the directory is
    put(3, 2);  // entries
    const auto put_entry = [&](int tag, int entry_type, int entry_count, int value) {
        put(std::uint32_t(tag), 2);
        put(std::uint32_t(entry_type), 2);
        put(std::uint32_t(entry_count), 4);
        put(std::uint32_t(value), 2);
        put(0, 2);
    };
    put_entry(0x0100, 3, 1, 2);
    put_entry(0x0112, type, count, orientation);
    put_entry(0x0128, 3, 1, 2);
    put(0, 4);  // no other directory
    return bytes;
}

// A JPEG, PNG or WebP with these EXIF data.
inline Bytes with_exif(const Bytes& file, const Bytes& exif) {
    const auto insert = [&](std::size_t at, Bytes head, std::size_t behind) {
        Bytes result(file.begin(), file.begin() + std::ptrdiff_t(at));
        result.insert(result.end(), head.begin(), head.end());
        result.insert(result.end(), exif.begin(), exif.end());
        result.insert(result.end(), behind, 0);
        result.insert(result.end(), file.begin() + std::ptrdiff_t(at), file.end());
        return result;
    };
    const auto low = [](std::size_t value) { return std::uint8_t(value % 256); };
    const auto high = [](std::size_t value) { return std::uint8_t(value / 256); };
    if (file[0] == 0xff) {
        const std::size_t length = exif.size() + 8;
        return insert(2, {0xff, 0xe1, high(length), low(length), 'E', 'x', 'i', 'f', 0, 0}, 0);
    }
    if (file[0] == 0x89) {  // behind the header; without a checksum, which nobody reads
        return insert(33, {0, 0, high(exif.size()), low(exif.size()), 'e', 'X', 'I', 'f'}, 4);
    }
    const WebPData image = {file.data(), file.size()};
    const WebPData chunk = {exif.data(), exif.size()};
    WebPData whole;
    WebPDataInit(&whole);
    WebPMux* mux = WebPMuxCreate(&image, 1);
    const bool done = WebPMuxSetChunk(mux, "EXIF", &chunk, 1) == WEBP_MUX_OK &&
                      WebPMuxAssemble(mux, &whole) == WEBP_MUX_OK;
    WebPMuxDelete(mux);
    if (!done) throw std::runtime_error("no WebP with EXIF data");
    Bytes result(whole.bytes, whole.bytes + whole.size);
    WebPDataClear(&whole);
    return result;
}

}  // namespace nca::test
