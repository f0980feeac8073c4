// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>

namespace nca {

// The name of a format of pictures that people have and that is not read here, by the first bytes
// of a file: HEIC, AVIF, TIFF, SVG, PSD, JPEG XL. Null for any other file.
const char* name_other_format(std::span<const std::uint8_t> bytes);

}  // namespace nca
