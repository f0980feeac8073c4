// SPDX-License-Identifier: MIT
#include "host/files/base64.hpp"
#include "host/core/throw_error.hpp"
#include "host/files/json_fields.hpp"

namespace nca {
namespace {

constexpr std::string_view digits =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr unsigned bits_of_digit = 6;
constexpr unsigned bits_of_byte = 8;

}  // namespace

std::string encode_base64(std::span<const std::uint8_t> bytes) {
    std::string text;
    text.reserve(base64_size(bytes.size()));
    std::uint32_t bits = 0;  // the last `count` bits, not written yet
    unsigned count = 0;
    for (const std::uint8_t byte : bytes) {
        bits = bits << bits_of_byte | byte;
        count += bits_of_byte;
        while (count >= bits_of_digit) {
            count -= bits_of_digit;
            text += digits[bits >> count];
            bits &= (1U << count) - 1;
        }
    }
    if (count > 0) text += digits[bits << (bits_of_digit - count)];
    text.resize(base64_size(bytes.size()), '=');
    return text;
}

std::vector<std::uint8_t> decode_base64(std::string_view text, const std::string& where) {
    if (text.size() % 4 != 0) {
        throw_error<FormatError>(
            "{} has {} characters, expected a multiple of 4 as base64 has; the file is damaged or "
            "cut off",
            where, text.size());
    }
    const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
    std::vector<std::uint8_t> bytes;
    bytes.reserve(text.size() / 4 * 3 - padding);
    std::uint32_t bits = 0;  // the last `count` bits, less than a byte
    unsigned count = 0;
    for (std::size_t i = 0; i < text.size() - padding; ++i) {
        const std::size_t digit = digits.find(text[i]);
        if (digit == std::string_view::npos) {
            throw_error<FormatError>(
                "{} has {} as character {}, expected base64: A to Z, a to z, 0 to 9, + and /, and "
                "= only at the end; the file is damaged",
                where, printable(text.substr(i, 1)), i);
        }
        bits = bits << bits_of_digit | std::uint32_t(digit);
        count += bits_of_digit;
        if (count >= bits_of_byte) {
            count -= bits_of_byte;
            bytes.push_back(std::uint8_t(bits >> count));
            bits &= (1U << count) - 1;
        }
    }
    if (bits != 0) {
        throw_error<FormatError>(
            "{} ends with bits that belong to no byte, expected them to be 0 in base64; the file "
            "is damaged",
            where);
    }
    return bytes;
}

}  // namespace nca
