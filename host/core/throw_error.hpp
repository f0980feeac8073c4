// SPDX-License-Identifier: MIT
#pragma once

#include <nca/error.hpp>

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace nca {

// The text, or its begin and its end where it has 400 bytes or more: a message may name a path or
// an option of any length.
inline std::string shortened(std::string_view text) {
    constexpr std::size_t longest = 399;
    constexpr std::string_view gap = " ... ";
    constexpr std::size_t end_length = 140;
    if (text.size() <= longest) return std::string(text);
    // Does not cut a character of UTF-8 in two.
    const auto inside = [&](std::size_t i) { return (std::uint8_t(text[i]) & 0xC0) == 0x80; };
    std::size_t begin = longest - end_length - gap.size();
    std::size_t end = text.size() - end_length;
    for (int i = 0; i < 3 && inside(begin); ++i) --begin;
    for (int i = 0; i < 3 && inside(end); ++i) ++end;
    return std::string(text.substr(0, begin)).append(gap).append(text.substr(end));
}

// Throws an error of this kind. The message is made as fmt::format makes it, and shortened.
template <class Kind, class... Values>
[[noreturn]] void throw_error(fmt::format_string<Values...> message, Values&&... values) {
    throw Kind(shortened(fmt::format(message, std::forward<Values>(values)...)));
}

}  // namespace nca
