// SPDX-License-Identifier: MIT
#include "host/pictures/webp.hpp"

#include "host/core/throw_error.hpp"
#include "host/pictures/image_reader.hpp"

#include <nca/error.hpp>

#include <webp/decode.h>
#include <webp/demux.h>

#include <new>

namespace nca {

WebpFile open_webp(std::span<const std::uint8_t> bytes) {
    const WebPData data = {bytes.data(), bytes.size()};
    return {WebPDemux(&data), WebPDemuxDelete};
}

Image decode_webp(std::span<const std::uint8_t> bytes, const std::string& name,
                  const ImageHeader& header) {
    const ImageReader file(bytes, name, "WebP");
    const WebpFile webp = open_webp(bytes);
    WebPIterator frame;
    if (WebPDemuxGetFrame(webp.get(), 1, &frame) == 0) file.refuse("it has no picture");
    const std::unique_ptr<WebPIterator, void (*)(WebPIterator*)> owner(&frame,
                                                                       WebPDemuxReleaseIterator);
    // The first frame of an animation may be smaller than the picture. The rest is transparent.
    const bool whole = frame.width == header.width && frame.height == header.height;
    Image image{.height = header.height,
                .width = header.width,
                .pixels = {},
                .had_alpha = frame.has_alpha != 0 || !whole};
    image.pixels.resize(std::size_t(image.height) * image.width * 4);

    WebPDecoderConfig config;
    if (WebPInitDecoderConfig(&config) == 0) {
        throw_error<Error>(
            "cannot read {}: libwebp has another version than the one it was compiled with", name);
    }
    config.output.colorspace = MODE_RGBA;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = image.pixel(frame.y_offset, frame.x_offset);
    config.output.u.RGBA.stride = image.width * 4;
    config.output.u.RGBA.size =
        image.pixels.size() -
        std::size_t(config.output.u.RGBA.rgba - image.pixels.data());  // to the end
    switch (WebPDecode(frame.fragment.bytes, frame.fragment.size, &config)) {
        case VP8_STATUS_OK:
            return image;
        case VP8_STATUS_OUT_OF_MEMORY:
            throw std::bad_alloc();
        case VP8_STATUS_NOT_ENOUGH_DATA:
        case VP8_STATUS_SUSPENDED:
            file.ends_too_early();
        default:
            file.refuse("its data are damaged");
    }
}

}  // namespace nca
