// SPDX-License-Identifier: MIT
#include "tests/support/executor/matrix.hpp"

#include "tests/support/executor/executor.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace nca::executor {
namespace {

constexpr int rows = 8;  // of the fragments' eights: A has two of them, B's columns are one

// What a lane brings.
struct Operands {
    std::uint32_t a[4];
    std::uint32_t b[2];
};

float towards_zero(double exact) {
    const auto nearest = static_cast<float>(exact);
    return std::abs(double(nearest)) > std::abs(exact) ? std::nextafterf(nearest, 0.0F) : nearest;
}

std::uint32_t fp16_of(float x) {
    const std::uint32_t sign = std::bit_cast<std::uint32_t>(x) >> 16 & 0x8000U;
    if (std::isnan(x)) return sign | 0x7e00U;
    const double magnitude = std::abs(double(x));
    if (magnitude >= 65520) return sign | 0x7c00U;
    // In the range of the denormals the unit stays that of the smallest normal numbers.
    int exponent = magnitude > 0 ? std::ilogb(magnitude) : -14;
    if (exponent < -14) exponent = -14;
    const auto units =
        static_cast<std::uint32_t>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
    // The leading bit of a normal number adds one to the exponent's field.
    return sign | ((static_cast<std::uint32_t>(exponent + 14) << 10) + units);
}

float float_of_fp16(std::uint32_t bits) {
    const double sign = bits & 0x8000U ? -1 : 1;
    const int exponent = static_cast<int>(bits >> 10 & 31);
    const double fraction = bits & 1023;
    if (exponent == 31) {
        return static_cast<float>(fraction != 0 ? std::numeric_limits<double>::quiet_NaN()
                                                : sign * std::numeric_limits<double>::infinity());
    }
    const double magnitude =
        exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    return static_cast<float>(sign * magnitude);
}

// What the instruction reads of a TF32 register.
float float_of_tf32(std::uint32_t bits) { return std::bit_cast<float>(bits & 0xffffe000U); }

// C += A B, where value_of_a(lane, row, k) and value_of_b(lane, k) are what a lane holds.
template <int depth, class ValueOfA, class ValueOfB>
void multiply(float (&sums)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
              const Place& place, ValueOfA value_of_a, ValueOfB value_of_b) {
    Operands own;
    std::memcpy(own.a, a, sizeof(a));
    std::memcpy(own.b, b, sizeof(b));
    const ByteExchange all = exchange_bytes(&own, sizeof(own), place);
    const auto of = [&](int lane) {
        Operands operands;
        std::memcpy(&operands, all.values[lane], sizeof(operands));
        return operands;
    };
    const int group = all.lane / 4, column = all.lane % 4 * 2;
    double exact[4] = {sums[0], sums[1], sums[2], sums[3]};
    for (int quarter = 0; quarter < 4; ++quarter) {
        const Operands from_a = of(group * 4 + quarter);
        const Operands from_b[2] = {of(column * 4 + quarter), of((column + 1) * 4 + quarter)};
        for (int i = 0; i < depth / 4; ++i) {
            for (int c = 0; c < 4; ++c) {
                exact[c] += double(value_of_a(from_a, c / 2, i)) * value_of_b(from_b[c % 2], i);
            }
        }
    }
    for (int c = 0; c < 4; ++c) sums[c] = towards_zero(exact[c]);
}

}  // namespace

std::uint32_t rounded_to_tf32(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    return std::isfinite(x) ? (bits + 0x1000U) & 0xffffe000U : bits;
}

std::uint32_t rounded_to_fp16(float low, float high) { return fp16_of(high) << 16 | fp16_of(low); }

void mma_tf32(float (&sums)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    trap_before(80, "mma_tf32");
    // Of its quarter of k a lane holds k and k + 4.
    multiply<rows>(
        sums, a, b, {"mma_tf32", __FILE__, __LINE__},
        [](const Operands& lane, int lower, int i) { return float_of_tf32(lane.a[2 * i + lower]); },
        [](const Operands& lane, int i) { return float_of_tf32(lane.b[i]); });
}

void mma_fp16(float (&sums)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    trap_before(80, "mma_fp16");
    // Two neighbouring k, and the same two 8 further on.
    multiply<2 * rows>(
        sums, a, b, {"mma_fp16", __FILE__, __LINE__},
        [](const Operands& lane, int lower, int i) {
            return float_of_fp16(lane.a[i / 2 * 2 + lower] >> (i % 2 * 16) & 0xffffU);
        },
        [](const Operands& lane, int i) {
            return float_of_fp16(lane.b[i / 2] >> (i % 2 * 16) & 0xffffU);
        });
}

}  // namespace nca::executor
