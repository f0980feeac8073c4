// SPDX-License-Identifier: MIT
#include "host/files/number_type.hpp"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstring>

namespace nca {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the values are little-endian and copied unchanged");

// IEEE 754 binary16: a sign, 5 bits of exponent, 10 of the fraction.
float from_float16(std::uint16_t bits) {
    constexpr int exponent_bits = 5;
    constexpr int fraction_bits = 10;
    const int exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
    const int fraction = bits & ((1 << fraction_bits) - 1);
    float magnitude = 0;
    if (exponent == (1 << exponent_bits) - 1) {
        magnitude = fraction == 0 ? INFINITY : NAN;
    } else if (exponent == 0) {  // subnormal
        magnitude = std::ldexp(float(fraction), -24);
    } else {
        magnitude = std::ldexp(float(fraction + (1 << fraction_bits)), exponent - 25);
    }
    return bits >> 15 != 0 ? -magnitude : magnitude;
}

// The upper half of a float.
float from_bfloat16(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

template <class Stored, class Convert>
void convert(std::span<float> values, std::span<const std::uint8_t> bytes, Convert to_float) {
    for (std::size_t i = 0; i < values.size(); ++i) {
        Stored stored;
        std::memcpy(&stored, &bytes[i * sizeof(Stored)], sizeof(Stored));
        values[i] = to_float(stored);
    }
}

}  // namespace

std::string_view name(NumberType type) {
    switch (type) {
        case NumberType::float16:
            return "float16";
        case NumberType::bfloat16:
            return "bfloat16";
        case NumberType::float32:
            return "float32";
        case NumberType::float64:
            return "float64";
        case NumberType::other:
            break;
    }
    return "no floating-point type";
}

std::string conversion_note(NumberType type) {
    return fmt::format("the weights are {} and become float32", name(type));
}

std::size_t size_of(NumberType type) {
    switch (type) {
        case NumberType::float16:
        case NumberType::bfloat16:
            return 2;
        case NumberType::float32:
            return 4;
        case NumberType::float64:
            return 8;
        case NumberType::other:
            break;
    }
    return 0;
}

void convert_to_floats(std::span<float> values, std::span<const std::uint8_t> bytes,
                       NumberType type) {
    switch (type) {
        case NumberType::float16:
            return convert<std::uint16_t>(values, bytes, from_float16);
        case NumberType::bfloat16:
            return convert<std::uint16_t>(values, bytes, from_bfloat16);
        case NumberType::float32:
            return convert<float>(values, bytes, [](float value) { return value; });
        case NumberType::float64:
            return convert<double>(values, bytes, [](double value) { return float(value); });
        case NumberType::other:
            break;
    }
}

}  // namespace nca
