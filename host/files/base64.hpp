// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nca {

// Base64 with padding and without line breaks (RFC 4648, section 4). base64_size: the number of
// characters for this number of bytes.
constexpr std::size_t base64_size(std::size_t bytes) { return (bytes + 2) / 3 * 4; }

std::string encode_base64(std::span<const std::uint8_t> bytes);

// Accepts only what encode_base64 writes. Throws FormatError, whose message begins with `where`, at
// other characters, a wrong length or padding, or bits set behind the last byte.
std::vector<std::uint8_t> decode_base64(std::string_view text, const std::string& where);

}  // namespace nca
