// SPDX-License-Identifier: MIT
#pragma once

#include <nca/error.hpp>

#include <fmt/format.h>

#include <utility>

namespace nca {

// Throws an error of this kind. The message is made as fmt::format makes it.
template <class Kind, class... Values>
[[noreturn]] void throw_error(fmt::format_string<Values...> message, Values&&... values) {
    throw Kind(fmt::format(message, std::forward<Values>(values)...));
}

}  // namespace nca
