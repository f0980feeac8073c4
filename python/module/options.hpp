// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <nanobind/nanobind.h>

#include <string>
#include <type_traits>

namespace nca::python {

// Takes the value of an option, or throws Python's TypeError, which says what is expected.
template <class T>
void take_option(T& to, const char* name, const nanobind::handle& value) {
    if (nanobind::try_cast(value, to)) return;
    const char* expected = "a text";
    if constexpr (std::is_same_v<T, bool>) expected = "True or False";
    if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
        expected = std::is_signed_v<T> ? "a whole number" : "a whole number from 0 to 2^32 - 1";
    }
    if constexpr (std::is_floating_point_v<T>) expected = "a number";
    const std::string text =
        fmt::format("{} is {}: expected {}", name, nanobind::repr(value).c_str(), expected);
    throw nanobind::type_error(text.c_str());
}

}  // namespace nca::python
