// SPDX-License-Identifier: MIT
#pragma once

#include <charconv>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>
#include <system_error>

namespace nca::tool {

inline constexpr std::chrono::hours longest_duration{365 * 24};

// Whole numbers with the units h, m and s, in this order, each at most once: 90s, 10m, 1h30m.
// Nothing where the text is something else, no time at all or longer than the longest.
inline std::optional<std::chrono::seconds> parse_duration(std::string_view text) {
    std::chrono::seconds sum{0};
    std::string_view units = "hms";  // that may follow
    while (!text.empty()) {
        std::uint32_t number = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
        if (error != std::errc{} || end == text.data() + text.size()) return std::nullopt;
        const char unit = *end;
        const std::size_t place = units.find(unit);
        if (place == std::string_view::npos) return std::nullopt;
        sum += std::int64_t{number} * std::chrono::seconds(unit == 'h'   ? 3600
                                                           : unit == 'm' ? 60
                                                                         : 1);
        units.remove_prefix(place + 1);
        text = {end + 1, text.data() + text.size()};
    }
    if (sum < std::chrono::seconds(1) || sum > longest_duration) return std::nullopt;
    return sum;
}

}  // namespace nca::tool
