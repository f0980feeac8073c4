// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

// Text from a file or a command line, made safe to print or to give to a shell.
namespace nca::tool {

// The number of bytes of the UTF-8 character at the begin of the text, and its code point; 0 bytes
// where there is none.
struct Utf8Character {
    std::size_t bytes = 0;
    std::uint32_t code = 0;
};
inline Utf8Character first_character(std::string_view text) {
    const auto byte = [&](std::size_t i) { return std::uint32_t(std::uint8_t(text[i])); };
    if (text.empty()) return {};
    const std::uint32_t first = byte(0);
    if (first < 0x80) return {1, first};
    const std::size_t bytes = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    if (first < 0xC2 || first > 0xF4 || text.size() < bytes) return {};
    std::uint32_t code = first & (0x7FU >> bytes);
    for (std::size_t i = 1; i < bytes; ++i) {
        if ((byte(i) & 0xC0U) != 0x80) return {};
        code = code << 6 | (byte(i) & 0x3FU);
    }
    constexpr std::uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
    return code < least[bytes] || code > 0x10FFFF || surrogate ? Utf8Character{}
                                                               : Utf8Character{bytes, code};
}

// Whether a terminal could take the character for a command (C0, DEL, C1, line and paragraph
// separators), or show what follows in another order (Unicode's bidirectional marks).
inline bool is_control(std::uint32_t code) {
    return code < 0x20 || (code >= 0x7F && code <= 0x9F) || code == 0x061C || code == 0x200E ||
           code == 0x200F || (code >= 0x2028 && code <= 0x202E) ||
           (code >= 0x2066 && code <= 0x2069);
}

// Replaces control characters, and bytes that are not UTF-8, by question marks.
inline std::string without_controls(std::string_view text) {
    std::string result;
    while (!text.empty()) {
        const Utf8Character character = first_character(text);
        if (character.bytes == 0 || is_control(character.code)) {
            result += '?';
        } else {
            result += text.substr(0, character.bytes);
        }
        text.remove_prefix(std::max<std::size_t>(character.bytes, 1));
    }
    return result;
}

// The word as a shell reads it, without characters that a terminal must not get.
inline std::string shell_quoted(const std::string& word) {
    const bool printable = without_controls(word) == word;
    const bool plain =
        printable && !word.empty() && std::ranges::all_of(word, [](unsigned char c) {
            return c >= 0x80 || std::isalnum(c) || std::strchr("_-./:=,+@%", c) != nullptr;
        });
    if (plain) return word;
    std::string result = printable ? "'" : "$'";  // the second form is bash's, zsh's and ksh's
    for (const char c : word) {
        const auto byte = static_cast<unsigned char>(c);
        if (printable) {
            result += c == '\'' ? std::string("'\\''") : std::string(1, c);
        } else if (byte < 0x20 || byte >= 0x7F) {
            result += fmt::format("\\x{:02x}", byte);
        } else {
            result += c == '\'' || c == '\\' ? std::string{'\\', c} : std::string(1, c);
        }
    }
    return result + "'";
}

}  // namespace nca::tool
