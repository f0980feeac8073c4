// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace nca {

// What the values of a tensor in a file are. Those that are not floating-point numbers are `other`,
// and are never read.
enum class NumberType { float16, bfloat16, float32, float64, other };

// "float16", ...
std::string_view name(NumberType type);

// For people, where weights of this type were read.
std::string conversion_note(NumberType type);

// The bytes of a value; not for `other`.
std::size_t size_of(NumberType type);

// Converts little-endian values to float: exactly, and those of float64 to the nearest. There have
// to be size_of(type) bytes for each value, and the type must not be `other`.
void convert_to_floats(std::span<float> values, std::span<const std::uint8_t> bytes,
                       NumberType type);

}  // namespace nca
