// SPDX-License-Identifier: MIT
#include <nca/device.hpp>
#include <nca/error.hpp>

#include <fmt/format.h>

#include <charconv>

namespace nca {

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
    throw InvalidArgument(
        fmt::format("unknown device '{}', expected auto, cpu, cuda, or cuda:N with N in 0..{}",
                    text, largest_index));
}

}  // namespace nca
