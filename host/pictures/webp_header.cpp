// SPDX-License-Identifier: MIT
#include "host/pictures/exif.hpp"
#include "host/pictures/image_reader.hpp"
#include "host/pictures/webp.hpp"

#include <webp/demux.h>

namespace nca {

ImageHeader read_webp_header(ImageReader file) {
    ImageReader parts = file;
    parts.skip(4);
    parts.skip(parts.little32());  // throws where the file is cut off
    const WebpFile webp = open_webp(file.bytes());
    if (webp == nullptr) file.refuse("its parts make no picture");
    ImageHeader header = file.header(WebPDemuxGetI(webp.get(), WEBP_FF_CANVAS_WIDTH),
                                     WebPDemuxGetI(webp.get(), WEBP_FF_CANVAS_HEIGHT));
    // An area of one colour takes no data, so thirty bytes may be a picture of the largest size.
    // There is memory for up to 16 megapixels. Of more, any real picture has this much data.
    constexpr std::size_t free_pixels = std::size_t{1} << 24;
    constexpr std::size_t largest_ratio = 8192;  // pixels of a byte
    const std::size_t pixels = std::size_t(header.width) * std::size_t(header.height);
    if (pixels > free_pixels && file.left() < pixels / largest_ratio) {
        file.refuse("it has {} bytes for {} x {} pixels", file.left(), header.width, header.height);
    }
    header.webp = true;
    header.animated = WebPDemuxGetI(webp.get(), WEBP_FF_FRAME_COUNT) > 1;
    WebPChunkIterator exif;
    if (WebPDemuxGetChunk(webp.get(), "EXIF", 1, &exif) != 0) {
        header.orientation = read_orientation(file.part({exif.chunk.bytes, exif.chunk.size}));
        WebPDemuxReleaseChunkIterator(&exif);
    }
    return header;
}

}  // namespace nca
