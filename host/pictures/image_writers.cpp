// SPDX-License-Identifier: MIT
#include "host/core/throw_error.hpp"
#include "host/files/atomic_file.hpp"
#include "host/pictures/image_check.hpp"
#include "host/pictures/palette.hpp"
#include "host/pictures/stb.hpp"

#include <nca/error.hpp>
#include <nca/image.hpp>

#include <cgif.h>
#include <fmt/format.h>
#include <webp/encode.h>
#include <webp/mux.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <string>

namespace nca {
namespace {

constexpr int last_frame_centiseconds = 100;

// Throws InvalidArgument where frames or the time of each are not as image.hpp says; longest_side
// is the format's, in pixels.
void check_frames(std::span<const Image> frames, int centiseconds, int longest_side) {
    if (frames.empty()) throw InvalidArgument("an animation of no frames, expected at least one");
    constexpr int longest = 65535;
    if (centiseconds < 1 || centiseconds > longest) {
        throw_error<InvalidArgument>("{} centiseconds for each frame, expected 1..{}", centiseconds,
                                     longest);
    }
    for (const Image& frame : frames) {
        check_image(frame);
        if (frame.height != frames[0].height || frame.width != frames[0].width) {
            throw_error<InvalidArgument>(
                "frames of {} x {} and of {} x {} pixels, expected all of one size",
                frames[0].width, frames[0].height, frame.width, frame.height);
        }
    }
    if (frames[0].height > longest_side || frames[0].width > longest_side) {
        throw_error<InvalidArgument>(
            "frames of {} x {} pixels, expected at most {} on each side; use a smaller scale",
            frames[0].width, frames[0].height, longest_side);
    }
}

int frame_time(std::span<const Image> frames, std::size_t index, int centiseconds) {
    const bool last = index + 1 == frames.size();
    return last ? std::max(centiseconds, last_frame_centiseconds) : centiseconds;
}

}  // namespace

void save_png(const std::filesystem::path& path, const Image& image) {
    write_file(path, encode_png(image));
}

void save_gif(const std::filesystem::path& path, std::span<const Image> frames, int centiseconds) {
    check_frames(frames, centiseconds, 65535);
    const bool transparent = std::ranges::any_of(frames, [](const Image& frame) {
        return any_alpha(frame.pixels, [](int alpha) { return alpha < opaque_from; });
    });

    std::vector<std::uint8_t> bytes;
    CGIF_Config config = {};
    config.attrFlags = CGIF_ATTR_IS_ANIMATED | CGIF_ATTR_NO_GLOBAL_TABLE;
#ifdef CGIF_GEN_KEEP_IDENT_FRAMES  // versions of cgif without this flag always keep equal frames
    config.genFlags = CGIF_GEN_KEEP_IDENT_FRAMES;
#endif
    config.width = std::uint16_t(frames[0].width);
    config.height = std::uint16_t(frames[0].height);
    config.numLoops = CGIF_INFINITE_LOOP;
    config.pContext = &bytes;
    config.pWriteFn = [](void* context, const std::uint8_t* data, const std::size_t size) {
        auto& all = *static_cast<std::vector<std::uint8_t>*>(context);
        all.insert(all.end(), data, data + size);
        return 0;
    };
    CGIF* gif = cgif_newgif(&config);
    if (gif == nullptr) throw std::bad_alloc();
    int result = CGIF_OK;
    for (std::size_t i = 0; i < frames.size() && result == CGIF_OK; ++i) {
        PalettedImage paletted = reduce_colours(frames[i]);
        CGIF_FrameConfig frame = {};
        frame.pLocalPalette = paletted.palette.data();
        frame.numLocalPaletteEntries = std::uint16_t(paletted.palette.size() / 3);
        frame.pImageData = paletted.indices.data();
        frame.attrFlags = CGIF_FRAME_ATTR_USE_LOCAL_TABLE;
        // Without transparency only the rectangle that changed is stored. With it each frame
        // replaces the frame before it.
        if (transparent) {
            frame.attrFlags |= CGIF_FRAME_ATTR_HAS_ALPHA;
            frame.transIndex = transparent_index;
        } else {
            frame.genFlags = CGIF_FRAME_GEN_USE_DIFF_WINDOW;
        }
        frame.delay = std::uint16_t(frame_time(frames, i, centiseconds));
        result = cgif_addframe(gif, &frame);
    }
    // cgif_close reports the failure of a frame again.
    const int close_result = cgif_close(gif);
    if (result != CGIF_OK || close_result != CGIF_OK) {
        throw_error<IoError>(
            "cannot write {}: the GIF encoder failed with code {}; try PNG or WebP", path.string(),
            result != CGIF_OK ? result : close_result);
    }
    write_file(path, bytes);
}

void save_webp(const std::filesystem::path& path, std::span<const Image> frames, int centiseconds) {
    check_frames(frames, centiseconds, WEBP_MAX_DIMENSION);
    const auto fail = [&](const std::string& why) {
        throw_error<IoError>("cannot write {}: the WebP encoder failed ({}); try GIF",
                             path.string(), why);
    };
    WebPAnimEncoderOptions options;
    WebPConfig config;
    // Effort 1 of 0..9. For pictures made of squares, 0 makes the file almost three times as large;
    // the higher ones make it at most 3% smaller and take twice as long.
    if (WebPAnimEncoderOptionsInit(&options) == 0 || WebPConfigInit(&config) == 0 ||
        WebPConfigLosslessPreset(&config, 1) == 0) {
        fail("libwebp has another version than the one it was compiled with");
    }
    options.anim_params.loop_count = 0;  // for ever

    const std::unique_ptr<WebPAnimEncoder, void (*)(WebPAnimEncoder*)> encoder(
        WebPAnimEncoderNew(frames[0].width, frames[0].height, &options), WebPAnimEncoderDelete);
    if (encoder == nullptr) throw std::bad_alloc();
    int milliseconds = 0;
    for (std::size_t i = 0; i < frames.size(); ++i) {
        WebPPicture raw;
        if (WebPPictureInit(&raw) == 0) fail("libwebp has another version");
        const std::unique_ptr<WebPPicture, void (*)(WebPPicture*)> frame(&raw, WebPPictureFree);
        frame->use_argb = 1;
        frame->width = frames[i].width;
        frame->height = frames[i].height;
        if (WebPPictureImportRGBA(frame.get(), frames[i].pixels.data(), frames[i].width * 4) == 0) {
            throw std::bad_alloc();
        }
        if (WebPAnimEncoderAdd(encoder.get(), frame.get(), milliseconds, &config) == 0) {
            fail(WebPAnimEncoderGetError(encoder.get()));
        }
        milliseconds += 10 * frame_time(frames, i, centiseconds);
    }
    WebPData data;
    WebPDataInit(&data);
    const std::unique_ptr<WebPData, void (*)(WebPData*)> owner(&data, WebPDataClear);
    if (WebPAnimEncoderAdd(encoder.get(), nullptr, milliseconds, nullptr) == 0 ||
        WebPAnimEncoderAssemble(encoder.get(), &data) == 0) {
        fail(WebPAnimEncoderGetError(encoder.get()));
    }
    write_file(path, {data.bytes, data.size});
}

void save_npy(const std::filesystem::path& path, ConstStateView grid) {
    check_grid(grid);
    // NumPy's format 1.0: magic, version, length of the header (2 bytes), header, data. The header
    // ends with a line feed, at a multiple of 64 bytes from the begin of the file.
    const std::array<std::uint8_t, 8> magic = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0};
    std::string header =
        fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}, {}), }}",
                    grid.height, grid.width, channels);
    const std::size_t before = magic.size() + 2;
    header.resize((before + header.size() + 1 + 63) / 64 * 64 - before - 1, ' ');
    header += '\n';

    std::vector<std::uint8_t> bytes(magic.begin(), magic.end());
    bytes.push_back(std::uint8_t(header.size() % 256));
    bytes.push_back(std::uint8_t(header.size() / 256));
    bytes.insert(bytes.end(), header.begin(), header.end());
    const std::size_t data_start = bytes.size();
    bytes.resize(data_start + grid.size() * sizeof(float));
    std::memcpy(bytes.data() + data_start, grid.data, grid.size() * sizeof(float));
    write_file(path, bytes);
}

}  // namespace nca
