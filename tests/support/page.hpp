// SPDX-License-Identifier: MIT
#pragma once

// Reads the pages that nca train --report writes.

#include "host/pictures/decode_image.hpp"
#include "tests/support/catch.hpp"

#include <cstdint>
#include <cstdlib>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace nca::test {

// The text between `begin` and the next `end`, for each `begin`.
inline std::vector<std::string> all_between(const std::string& text, const std::string& begin,
                                            const std::string& end) {
    std::vector<std::string> result;
    for (std::size_t at = text.find(begin); at != std::string::npos; at = text.find(begin, at)) {
        at += begin.size();
        const std::size_t stop = text.find(end, at);
        REQUIRE(stop != std::string::npos);
        result.push_back(text.substr(at, stop - at));
    }
    return result;
}

// (iteration, log10 of the loss) of each point of the curve, or of its median.
inline std::vector<std::pair<double, double>> curve_of(const std::string& page,
                                                       const std::string& name = "each") {
    const auto lists = all_between(page, "<polyline class=\"" + name + "\" points=\"", "\"");
    REQUIRE(lists.size() == 1);
    std::istringstream list(lists[0]);
    std::vector<std::pair<double, double>> points;
    double x = 0;
    double y = 0;
    char comma = 0;
    while (list >> x >> comma >> y) {
        REQUIRE(comma == ',');
        points.emplace_back(x, y);
    }
    REQUIRE(list.eof());
    return points;
}

inline std::vector<std::uint8_t> decode_digits(const std::string& text) {
    const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    REQUIRE(text.size() % 4 == 0);
    std::vector<std::uint8_t> bytes;
    std::uint32_t bits = 0;
    int count = 0;
    for (const char c : text.substr(0, text.find('='))) {
        const std::size_t digit = digits.find(c);
        REQUIRE(digit != std::string::npos);
        bits = bits << 6 | static_cast<std::uint32_t>(digit);
        count += 6;
        if (count >= 8) {
            count -= 8;
            bytes.push_back(static_cast<std::uint8_t>(bits >> count));
        }
    }
    return bytes;
}

// All pictures of the page. Fails where one is not a whole PNG inside the page's own text.
inline std::vector<Image> images_of(const std::string& page) {
    std::vector<Image> images;
    for (const std::string& source : all_between(page, "src=\"", "\"")) {
        const std::string start = "data:image/png;base64,";
        REQUIRE(source.starts_with(start));
        images.push_back(decode_image(decode_digits(source.substr(start.size())), "a picture"));
    }
    return images;
}

}  // namespace nca::test
