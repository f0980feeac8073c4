// SPDX-License-Identifier: MIT
#pragma once

#include "host/pictures/image_header.hpp"

#include <nca/image.hpp>

#include <webp/demux.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace nca {

using WebpFile = std::unique_ptr<WebPDemuxer, void (*)(WebPDemuxer*)>;

// Takes a WebP file apart, without a look at pixels; null where that fails. The bytes have to
// outlive the result.
WebpFile open_webp(std::span<const std::uint8_t> bytes);

// Decodes a WebP, of an animation the first frame. Throws FormatError where its data end too early
// or are damaged. header is what read_image_header returns for these bytes.
Image decode_webp(std::span<const std::uint8_t> bytes, const std::string& name,
                  const ImageHeader& header);

}  // namespace nca
