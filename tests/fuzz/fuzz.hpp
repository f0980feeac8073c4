// SPDX-License-Identifier: MIT
#pragma once

// What the fuzz targets share. A target reads bytes that may be anything. It fails by a crash, by
// any exception but nca::Error, by a bad message of one, or by require().

#include <nca/error.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace nca::fuzz {

inline void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "fuzz: %s\n", what);
    std::abort();
}

// Messages are shorter than 400 bytes.
inline void check_size(std::string_view message) {
    if (message.size() >= 400) std::fprintf(stderr, "fuzz: %zu bytes\n", message.size());
    require(message.size() < 400, "expected a message shorter than 400 bytes");
}

// A message about a file is also one line of printable ASCII: text from the file is escaped.
inline void check_message(std::string_view message) {
    check_size(message);
    require(std::ranges::all_of(message, [](char c) { return c >= ' ' && c <= '~'; }),
            "expected a message of one line, in ASCII");
}

// What `read` returns; nothing where it refuses the input. The message is then checked.
template <class Read>
auto unless_refused(Read read, void (*check)(std::string_view) = check_message)
    -> std::optional<decltype(read())> {
    try {
        return read();
    } catch (const Error& error) {
        check(error.what());
        return std::nullopt;
    }
}

// The bytes of a safetensors file. Changes of a model's 8,000 weights find nothing, so most seeds
// have zeros there, which are left out: the input's first three bytes are the number of zeros that
// follow the rest, modulo 2^18 (a checkpoint has 200,000).
inline std::vector<std::uint8_t> with_zeros(std::span<const std::uint8_t> input) {
    constexpr std::size_t count_bytes = 3;
    if (input.size() < count_bytes) return {input.begin(), input.end()};
    const std::size_t zeros = input[0] | input[1] << 8 | (input[2] & 3) << 16;
    std::vector<std::uint8_t> bytes(input.begin() + count_bytes, input.end());
    bytes.resize(bytes.size() + zeros);
    return bytes;
}

}  // namespace nca::fuzz
