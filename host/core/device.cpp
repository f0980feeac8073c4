// SPDX-License-Identifier: MIT
#include <nca/device.hpp>
#include <nca/error.hpp>

#include <charconv>

#include "host/core/throw_error.hpp"

namespace nca {

std::string_view name(Precision precision) {
    constexpr std::string_view names[] = {"exact", "precise", "fast"};
    const auto index = std::size_t(precision);
    return index < std::size(names) ? names[index] : "unknown";
}

Precision parse_precision(std::string_view text) {
    for (const Precision precision : all_precisions) {
        if (text == name(precision)) return precision;
    }
    if (text == "half") throw InvalidArgument("precision half is gone: use fast");
    throw_error<InvalidArgument>("unknown precision '{}', expected exact, precise or fast", text);
}

Device Device::parse(std::string_view text) {
    if (text == "auto") return automatic();
    if (text == "cpu") return cpu();
    if (text == "cuda") return cuda();

    constexpr std::string_view prefix = "cuda:";
    constexpr int largest_index = 63;
    if (text.starts_with(prefix)) {
        const std::string_view digits = text.substr(prefix.size());
        int index = -1;
        const auto [end, error] = std::from_chars(digits.begin(), digits.end(), index);
        if (error == std::errc() && end == digits.end() && index >= 0 && index <= largest_index &&
            digits.front() != '-') {
            return cuda(index);
        }
    }
    throw_error<InvalidArgument>(
        "unknown device '{}', expected auto, cpu, cuda, or cuda:N with N in 0..{}", text,
        largest_index);
}

}  // namespace nca
