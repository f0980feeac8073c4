// SPDX-License-Identifier: MIT
#include "tests/support/executor/matrix.hpp"

#include "tests/support/executor/executor.hpp"
#include "tests/support/executor/memory.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace nca::executor {
namespace {

constexpr int rows = 16, columns = 8;  // of C
constexpr int lanes = warpSize;

// A lane's operands of a product. The product replaces its sums.
struct Operands {
    float sums[4];
    std::uint32_t a[4];
    std::uint32_t b[2];
};

// A lane's part of four matrices of 8 x 8: a row of one matrix, or a pair of numbers of each.
struct Pairs {
    std::uint32_t of[4];
};

float towards_zero(double exact) {
    const auto nearest = static_cast<float>(exact);
    if (!(std::abs(double(nearest)) > std::abs(exact))) return nearest;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(nearest) - 1);
}

std::uint32_t fp16_of(float x) {
    const std::uint32_t all = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t sign = all >> 16 & 0x8000U;
    const std::uint32_t magnitude = all & 0x7fffffffU;
    if (magnitude > 0x7f800000U) return sign | 0x7e00U;   // NaN
    if (magnitude >= 0x477ff000U) return sign | 0x7c00U;  // 65,520
    if (magnitude < 0x38800000U) {                        // 2^-14
        // The last bit of 1/2 is the unit of fp16's denormal numbers.
        const float sum = std::bit_cast<float>(magnitude) + 0.5F;
        return sign | (std::bit_cast<std::uint32_t>(sum) - std::bit_cast<std::uint32_t>(0.5F));
    }
    const std::uint32_t odd = magnitude >> 13 & 1;
    return sign | ((magnitude - 0x38000000U + 0xfffU + odd) >> 13);
}

// The operands as matrices, with the terms in the order of the sum.
template <int depth>
struct Matrices {
    double a[rows][depth];
    double b[depth][columns];
};

// C += A B for all lanes. A lane has a quarter of the terms: value_of_a(lane, row / 8, i) and
// value_of_b(lane, i) are its i-th.
template <int depth, class ValueOfA, class ValueOfB>
void multiply(Operands (&warp)[lanes], ValueOfA value_of_a, ValueOfB value_of_b) {
    Matrices<depth> all;
    for (int lane = 0; lane < lanes; ++lane) {
        const int group = lane / 4, quarter = lane % 4;
        for (int i = 0; i < depth / 4; ++i) {
            const int term = quarter * (depth / 4) + i;
            for (int lower = 0; lower < 2; ++lower) {
                all.a[group + 8 * lower][term] = value_of_a(warp[lane], lower, i);
            }
            all.b[term][group] = value_of_b(warp[lane], i);
        }
    }
    for (int row = 0; row < rows; ++row) {
        double exact[columns];
        const auto sum = [&](int column) -> float& {
            return warp[row % 8 * 4 + column / 2].sums[row / 8 * 2 + column % 2];
        };
        for (int column = 0; column < columns; ++column) exact[column] = sum(column);
        for (int term = 0; term < depth; ++term) {
            for (int column = 0; column < columns; ++column) {
                exact[column] += all.a[row][term] * all.b[term][column];
            }
        }
        for (int column = 0; column < columns; ++column) sum(column) = towards_zero(exact[column]);
    }
}

void multiply_fp16(Operands (&warp)[lanes]) {
    // A lane has two neighbouring k and the two that are 8 further.
    multiply<16>(
        warp,
        [](const Operands& lane, int lower, int i) {
            return float_of_fp16(lane.a[i / 2 * 2 + lower] >> (i % 2 * 16) & 0xffffU);
        },
        [](const Operands& lane, int i) {
            return float_of_fp16(lane.b[i / 2] >> (i % 2 * 16) & 0xffffU);
        });
}

template <auto work>
void product(float (&sums)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
             const CallSite& place) {
    trap_before(80, place.what);
    Operands own;
    std::memcpy(own.sums, sums, sizeof sums);
    std::memcpy(own.a, a, sizeof a);
    std::memcpy(own.b, b, sizeof b);
    together<work>(own, place);
    std::memcpy(sums, own.sums, sizeof sums);
}

// Turns rows into pairs.
void distribute(Pairs (&warp)[lanes]) {
    Pairs pairs[lanes];
    for (int lane = 0; lane < lanes; ++lane) {
        for (int matrix = 0; matrix < 4; ++matrix) {
            pairs[lane].of[matrix] = warp[matrix * 8 + lane / 4].of[lane % 4];
        }
    }
    std::memcpy(warp, pairs, sizeof pairs);
}

std::uint32_t half(const Pairs& row, int i) { return row.of[i / 2] >> (i % 2 * 16) & 0xffffU; }

void distribute_transposed(Pairs (&warp)[lanes]) {
    Pairs pairs[lanes];
    for (int lane = 0; lane < lanes; ++lane) {
        for (int matrix = 0; matrix < 4; ++matrix) {
            const Pairs* const row = &warp[matrix * 8 + lane % 4 * 2];
            pairs[lane].of[matrix] = half(row[1], lane / 4) << 16 | half(row[0], lane / 4);
        }
    }
    std::memcpy(warp, pairs, sizeof pairs);
}

// Turns pairs into rows: number i of row r is half r % 2 of the pair in lane 4 i + r / 2.
void collect_transposed(Pairs (&warp)[lanes]) {
    Pairs of_rows[lanes];
    for (int lane = 0; lane < lanes; ++lane) {
        const int matrix = lane / 8, row = lane % 8;
        for (int i = 0; i < 4; ++i) {
            const auto number = [&](int column) {
                return warp[4 * column + row / 2].of[matrix] >> (row % 2 * 16) & 0xffffU;
            };
            of_rows[lane].of[i] = number(2 * i + 1) << 16 | number(2 * i);
        }
    }
    std::memcpy(warp, of_rows, sizeof of_rows);
}

template <auto work>
void load(std::uint32_t (&to)[4], const void* row, const CallSite& place) {
    require_shared(row, sizeof(Pairs), place);
    Pairs own;
    std::memcpy(&own, row, sizeof own);
    together<work>(own, place);
    std::memcpy(to, own.of, sizeof to);
}

}  // namespace

std::uint32_t rounded_to_fp16(float low, float high) { return fp16_of(high) << 16 | fp16_of(low); }

std::uint32_t nearest_fp16(double low, double high) {
    // Sets the last bit where float cannot hold x, so that the next rounding takes it into account.
    const auto nearly = [](double x) {
        const float cut = towards_zero(x);
        const bool is_whole = double(cut) == x || !std::isfinite(x);
        return is_whole ? cut : std::bit_cast<float>(std::bit_cast<std::uint32_t>(cut) | 1U);
    };
    return rounded_to_fp16(nearly(low), nearly(high));
}

std::uint32_t cut_to_fp16(float low, float high) {
    const auto cut = [](float x) {
        const std::uint32_t rounded = fp16_of(x);
        if (!std::isfinite(x)) return rounded;
        // Too large numbers become the largest finite one, one below infinity's bits.
        return std::abs(float_of_fp16(rounded)) > std::abs(x) ? rounded - 1 : rounded;
    };
    return cut(high) << 16 | cut(low);
}

float float_of_fp16(std::uint32_t bits) {
    const std::uint32_t sign = (bits & 0x8000U) << 16, magnitude = bits & 0x7fffU;
    if (magnitude > 0x7c00U) return std::numeric_limits<float>::quiet_NaN();
    if (magnitude == 0x7c00U) return std::bit_cast<float>(sign | 0x7f800000U);
    // Converts the exponent's bias from 15 to 127, in denormal numbers too.
    const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112F;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(scaled) | sign);
}

void mma_fp16(float (&sums)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
              const CallSite& place) {
    product<multiply_fp16>(sums, a, b, place);
}

void load_matrices(std::uint32_t (&to)[4], const void* row, const CallSite& place) {
    load<distribute>(to, row, place);
}

void load_matrices_transposed(std::uint32_t (&to)[4], const void* row, const CallSite& place) {
    load<distribute_transposed>(to, row, place);
}

void store_matrices_transposed(void* row, const std::uint32_t (&from)[4], const CallSite& place) {
    trap_before(80, place.what);
    require_shared(row, sizeof(Pairs), place);
    Pairs own;
    std::memcpy(own.of, from, sizeof from);
    together<collect_transposed>(own, place);
    std::memcpy(row, &own, sizeof own);
}

}  // namespace nca::executor
