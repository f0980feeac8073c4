// SPDX-License-Identifier: MIT
// The products of a warp, executed by the documented register layouts.
#include "cuda/rule/mma.cuh"

#include "cuda/rule/operands.cuh"
#include "cuda/rule/pack_tensor.cuh"
#include "tests/support/cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/executor/executor.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/tensor_device.hpp"

#include <array>
#include <cmath>
#include <limits>

using namespace nca::cuda;
using nca::test::Uniform;

namespace {

constexpr int rows = 16, columns = 8, depth = 16;

struct Product {
    std::array<float, rows* depth> a = {};
    std::array<float, depth* columns> b = {};
    std::array<float, rows* columns> c = {};
};

constexpr int tile = 4 * 8 * 8;  // numbers of four matrices

enum class Way { load, load_transposed, store_transposed };

// What becomes of four matrices whose rows lie one after the other, each skewed by eight numbers,
// and what all lanes then hold. Numbers of 16 bits.
struct Moved {
    std::array<std::uint16_t, tile> matrices = {};
    std::array<std::array<std::uint32_t, 4>, 32> lanes = {};
};
template <Way way>
Moved moved(const Moved& from) {
    const nca::test::TensorDevice device;
    Moved result;
    constexpr int pitch = 16;
    nca::executor::run({.kernel = "matrices_test",
                        .blocks = 1,
                        .threads = 32,
                        .shared_bytes = 32 * pitch * 2,
                        .thread = [&] {
                            auto* const shared =
                                static_cast<std::uint16_t*>(nca::executor::shared_arena());
                            const auto lane = threadIdx.x;
                            std::uint16_t* const row = shared + lane * pitch;
                            for (unsigned i = 0; i < 8; ++i) row[i] = from.matrices[lane * 8 + i];
                            // Another lane reads, or writes, this one's row.
                            __syncwarp();
                            std::uint16_t* const of_lane = shared + (31 - lane) * pitch;
                            std::uint32_t bits[4];
                            for (int i = 0; i < 4; ++i) bits[i] = from.lanes[lane][i];
                            if (way == Way::load) load_matrices(bits, of_lane);
                            if (way == Way::load_transposed)
                                load_matrices_transposed(bits, of_lane);
                            if (way == Way::store_transposed)
                                store_matrices_transposed(of_lane, bits);
                            __syncwarp();
                            for (unsigned i = 0; i < 8; ++i) result.matrices[lane * 8 + i] = row[i];
                            for (int i = 0; i < 4; ++i) result.lanes[lane][i] = bits[i];
                        }});
    return result;
}

Moved numbered_matrices() {
    Moved result;
    for (int i = 0; i < tile; ++i) result.matrices[i] = static_cast<std::uint16_t>(i * 7 + 1);
    return result;
}

// Of matrix i, as the lanes above find it: they name the rows from the last to the first.
std::uint32_t number(const Moved& from, int i, int row, int column) {
    return from.matrices[(31 - (i * 8 + row)) * 8 + column];
}

// c + a b by one warp.
template <int parts>
std::array<float, rows * columns> multiplied(const Product& product) {
    const nca::test::TensorDevice device;
    std::array<float, rows* columns> result = {};
    nca::executor::run(
        {.kernel = "mma_test", .blocks = 1, .threads = 32, .shared_bytes = 0, .thread = [&] {
             const int lane = static_cast<int>(threadIdx.x);
             float a[8], b[4];
             for (int i = 0; i < 8; ++i) a[i] = product.a[a_row(lane, i) * depth + a_k(lane, i)];
             for (int i = 0; i < 4; ++i) b[i] = product.b[b_k(lane, i) * columns + b_column(lane)];
             Accumulator sums;
             for (int i = 0; i < 4; ++i) {
                 sums.sums[i] = product.c[c_row(lane, i) * columns + c_column(lane, i)];
             }
             std::uint32_t a_parts[parts][4], b_parts[parts][2], pair[parts];
             for (int i = 0; i < 6; ++i) {
                 const float* const two = i < 4 ? a + 2 * i : b + 2 * (i - 4);
                 make_parts<parts>(pair, two[0], two[1]);
                 for (int part = 0; part < parts; ++part) {
                     (i < 4 ? a_parts[part][i] : b_parts[part][i - 4]) = pair[part];
                 }
             }
             multiply<parts>(sums, a_parts, b_parts);
             for (int i = 0; i < 4; ++i) {
                 result[c_row(lane, i) * columns + c_column(lane, i)] = sums.sums[i];
             }
         }});
    return result;
}

// One element in double, and the sum of its terms' magnitudes.
struct Expected {
    double value;
    double magnitude;
};
Expected expected(const Product& product, int row, int column) {
    Expected sum = {product.c[row * columns + column], std::abs(product.c[row * columns + column])};
    for (int k = 0; k < depth; ++k) {
        const double term = double(product.a[row * depth + k]) * product.b[k * columns + column];
        sum.value += term;
        sum.magnitude += std::abs(term);
    }
    return sum;
}

template <int parts>
double worst_error(const Product& product) {
    const auto actual = multiplied<parts>(product);
    double worst = 0;
    for (int row = 0; row < rows; ++row) {
        for (int column = 0; column < columns; ++column) {
            const auto [value, magnitude] = expected(product, row, column);
            const double error = std::abs(actual[row * columns + column] - value);
            if (!(error <= std::numeric_limits<double>::max())) return error;
            if (error > 0) worst = std::max(worst, error / magnitude);
        }
    }
    return worst;
}

// Values that all precisions hold exactly, and whose sums float32 does.
Product small_integers() {
    Product product;
    Uniform uniform(1);
    for (float& x : product.a) x = std::round(uniform(-30, 30));
    for (float& x : product.b) x = std::round(uniform(-30, 30));
    for (float& x : product.c) x = std::round(uniform(-1000, 1000));
    return product;
}

Product random_product(float scale_a, float scale_b) {
    Product product;
    Uniform uniform(2);
    for (float& x : product.a) x = uniform(-scale_a, scale_a);
    for (float& x : product.b) x = uniform(-scale_b, scale_b);
    return product;
}

}  // namespace

TEST_CASE("small integers are multiplied exactly") {
    REQUIRE(worst_error<1>(small_integers()) == 0);
    REQUIRE(worst_error<2>(small_integers()) == 0);
}

TEST_CASE("a product errs as much as the rounding of its operands") {
    for (const float scale : {1e-3F, 1.0F, 100.0F}) {
        const Product product = random_product(scale, 3);
        // Two operands, each off by half a unit of 11 bits.
        REQUIRE(worst_error<1>(product) <= 2 * 0x1p-12);
        REQUIRE(worst_error<1>(product) > 0x1p-16);
        // The two small parts' product is left out, 2^-12 of 2^-12; sums are cut at 24 bits, three
        // of them. Below 2^-14 the small parts have fewer bits.
        const double small = scale < 1 ? 0x1p-25 / 1e-4 : 0;
        REQUIRE(worst_error<2>(product) <= 0x1p-22 + 3 * 0x1p-23 + small);
    }
}

TEST_CASE("precise holds what fast cannot") {
    Product product;
    product.a[0] = 1 + 0x1p-20F;
    product.b[0] = 1;
    REQUIRE(multiplied<2>(product)[0] == 1 + 0x1p-20F);
    REQUIRE(multiplied<1>(product)[0] == 1);
}

TEST_CASE("what is not finite stays so") {
    for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
        Product product = small_integers();
        product.a[5 * depth + 3] = bad;
        for (const auto& result : {multiplied<1>(product), multiplied<2>(product)}) {
            for (int row = 0; row < rows; ++row) {
                const bool finite = std::isfinite(result[row * columns]);
                REQUIRE(finite == (row != 5));
            }
        }
    }
}

TEST_CASE("fp16 rounds to nearest even, keeps denormals and overflows to infinity") {
    using nca::executor::rounded_to_fp16;
    REQUIRE(rounded_to_fp16(1, 2) == (0x4000U << 16 | 0x3c00U));
    REQUIRE(rounded_to_fp16(-0.0F, 1 + 0x1p-11F) == (0x3c00U << 16 | 0x8000U));
    REQUIRE(rounded_to_fp16(1 + 3 * 0x1p-11F, 0x1p-24F) == (0x0001U << 16 | 0x3c02U));
    REQUIRE(rounded_to_fp16(65504, 65520) == (0x7c00U << 16 | 0x7bffU));
    REQUIRE(rounded_to_fp16(0x1p-14F, 0x1p-14F - 0x1p-24F) == (0x03ffU << 16 | 0x0400U));
}

TEST_CASE("fp16 is cut towards zero, and what is negative becomes zero") {
    const nca::test::TensorDevice device;
    const auto cut = [](float x) { return halves(relu_cut_to_fp16(x, -x)); };
    REQUIRE(cut(1 + 0x1p-11F + 0x1p-12F).x == 1);
    REQUIRE(cut(1 + 0x1p-10F).x == 1 + 0x1p-10F);
    REQUIRE(cut(0x1p-24F * 1.9F).x == 0x1p-24F);
    REQUIRE(cut(1e6F).x == 65504);
    REQUIRE(cut(3).y == 0);
    REQUIRE(std::isnan(cut(std::nanf("")).x));
    const float2 rounded = halves(relu_rounded_to_fp16(-2, 1 + 0x1p-11F + 0x1p-12F));
    REQUIRE(rounded.x == 0);
    REQUIRE(rounded.y == 1 + 0x1p-10F);
}

TEST_CASE("pairs of fp16 are added and multiplied, rounded once") {
    const auto pair = [](float low, float high) {
        return nca::executor::rounded_to_fp16(low, high);
    };
    const float2 sum = halves(add_pairs(pair(1, -2), pair(0x1p-11F, 0.5F)));
    REQUIRE(sum.x == 1);  // a tie, to even
    REQUIRE(sum.y == -1.5F);
    // A little more than a tie, which float32 would not see.
    const float2 more = halves(multiply_add_pairs(pair(0x1p-12F, 3), pair(0x1p-12F, 5),
                                                  add_pairs(pair(1, 1), pair(0x1p-10F, 0))));
    REQUIRE(more.x == 1 + 0x1p-10F);
    REQUIRE(more.y == 16);
    const float2 tie =
        halves(multiply_add_pairs(pair(1 + 0x1p-10F, 0), pair(0x1p-11F, 0), pair(1, 0)));
    REQUIRE(tie.x == 1 + 0x1p-10F);
    REQUIRE(halves(subtract_pairs(pair(3, 5), pair(5, 3))).x == -2);
    REQUIRE(halves(multiply_pairs(pair(3, 300), pair(5, 300))).x == 15);
    REQUIRE(halves(multiply_pairs(pair(3, 300), pair(5, 300))).y ==
            std::numeric_limits<float>::infinity());
}

TEST_CASE("halves are the floats that were rounded, all of them") {
    for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
        const float2 both = halves(bits << 16 | 0x3c00U);
        REQUIRE(both.x == 1);
        if (std::isnan(both.y)) {
            REQUIRE((bits & 0x7fffU) > 0x7c00U);
        } else {
            REQUIRE(nca::executor::rounded_to_fp16(both.y, 0) == bits);
        }
    }
    const float2 both = halves(0x7bff0001U);
    REQUIRE(both.x == 0x1p-24F);
    REQUIRE(both.y == 65504);
}

TEST_CASE("lanes get pairs of four matrices' rows, or of their columns") {
    const nca::test::BlockSchedule schedule(
        GENERATE(nca::executor::Order::forward, nca::executor::Order::reverse));
    const Moved from = numbered_matrices();
    const Moved plain = moved<Way::load>(from), transposed = moved<Way::load_transposed>(from);
    for (int lane = 0; lane < 32; ++lane) {
        const int group = lane / 4, pair = lane % 4 * 2;
        for (int i = 0; i < 4; ++i) {
            REQUIRE(plain.lanes[lane][i] ==
                    (number(from, i, group, pair + 1) << 16 | number(from, i, group, pair)));
            REQUIRE(transposed.lanes[lane][i] ==
                    (number(from, i, pair + 1, group) << 16 | number(from, i, pair, group)));
        }
    }
}

TEST_CASE("matrices that are stored transposed are those that were loaded transposed") {
    const nca::test::BlockSchedule schedule(
        GENERATE(nca::executor::Order::forward, nca::executor::Order::reverse));
    Moved from = numbered_matrices();
    from.lanes = moved<Way::load_transposed>(from).lanes;
    const auto expected = from.matrices;
    from.matrices = {};
    REQUIRE(moved<Way::store_transposed>(from).matrices == expected);
}

TEST_CASE("a product's operands can be loaded from rows") {
    // A [16, 16] and B^T [8, 16] lie row by row; what load_matrices gives is what make_parts
    // gives.
    const Product product = small_integers();
    Moved a, b;
    const auto fp16 = [](float x) {
        return static_cast<std::uint16_t>(nca::executor::rounded_to_fp16(x, 0));
    };
    // Matrices by the order of the registers: of A (row, k) (0, 0) (8, 0) (0, 8) (8, 8).
    for (int i = 0; i < 4; ++i) {
        for (int r = 0; r < 8; ++r) {
            for (int c = 0; c < 8; ++c) {
                const int at = (31 - (i * 8 + r)) * 8 + c;
                a.matrices[at] = fp16(product.a[(r + i % 2 * 8) * depth + c + i / 2 * 8]);
                b.matrices[at] = fp16(product.b[(c + i % 2 * 8) * columns + r]);
            }
        }
    }
    const auto lanes_a = moved<Way::load>(a).lanes, lanes_b = moved<Way::load>(b).lanes;
    const nca::test::TensorDevice device;
    for (int lane = 0; lane < 32; ++lane) {
        float values_a[8], values_b[4];
        for (int i = 0; i < 8; ++i) {
            values_a[i] = product.a[a_row(lane, i) * depth + a_k(lane, i)];
        }
        for (int i = 0; i < 4; ++i) {
            values_b[i] = product.b[b_k(lane, i) * columns + b_column(lane)];
        }
        std::uint32_t pair[1];
        for (int i = 0; i < 4; ++i) {
            make_parts<1>(pair, values_a[2 * i], values_a[2 * i + 1]);
            REQUIRE(lanes_a[lane][i] == pair[0]);
        }
        for (int i = 0; i < 2; ++i) {
            make_parts<1>(pair, values_b[2 * i], values_b[2 * i + 1]);
            REQUIRE(lanes_b[lane][i] == pair[0]);
        }
    }
}

TEST_CASE("rows of matrices lie in shared memory, at multiples of 16 bytes") {
    const auto complaint = [](unsigned offset) {
        const nca::test::TensorDevice device;
        return nca::test::message_of<std::logic_error>([&] {
            nca::executor::run({.kernel = "matrices_test",
                                .blocks = 1,
                                .threads = 32,
                                .shared_bytes = 512,
                                .thread = [&] {
                                    auto* const shared =
                                        static_cast<char*>(nca::executor::shared_arena());
                                    std::uint32_t bits[4];
                                    load_matrices(bits, shared + threadIdx.x * 16 + offset);
                                }});
        });
    };
    REQUIRE(complaint(0).empty());
    REQUIRE_THAT(complaint(8), Catch::Matchers::ContainsSubstring("load_matrices"));
    REQUIRE_THAT(complaint(16), Catch::Matchers::ContainsSubstring("outside of shared memory"));
}

TEST_CASE("packed operands lie where the lanes look for them") {
    for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 8; ++i) {
            REQUIRE(a_lane(a_row(lane, i), a_k(lane, i)) == lane);
            REQUIRE(a_value(a_row(lane, i), a_k(lane, i)) == i);
        }
        for (int i = 0; i < 4; ++i) {
            REQUIRE(b_lane(b_k(lane, i), b_column(lane)) == lane);
            REQUIRE(b_value(b_k(lane, i)) == i);
        }
    }
}
