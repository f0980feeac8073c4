// SPDX-License-Identifier: MIT
// The products of a warp, executed by the documented register layouts.
#include "cuda/mma.cuh"

#include "cuda/pack_tensor.cuh"
#include "tests/support/cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/executor/executor.hpp"
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

// c + a b by one warp.
template <class Arithmetic>
std::array<float, rows * columns> multiplied(const Product& product) {
    const nca::test::TensorDevice device;
    std::array<float, rows* columns> result = {};
    nca::executor::run(
        {.kernel = "mma_test", .grid = 1, .block = 32, .shared_bytes = 0, .thread = [&] {
             const int lane = static_cast<int>(threadIdx.x);
             float a[8], b[4];
             for (int i = 0; i < 8; ++i) a[i] = product.a[a_row(lane, i) * depth + a_k(lane, i)];
             for (int i = 0; i < 4; ++i) b[i] = product.b[b_k(lane, i) * columns + b_column(lane)];
             Accumulator sums;
             for (int i = 0; i < 4; ++i) {
                 sums.sums[i] = product.c[c_row(lane, i) * columns + c_column(lane, i)];
             }
             Arithmetic::multiply(sums, Arithmetic::make_a(a), Arithmetic::make_b(b));
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

template <class Arithmetic>
double worst_error(const Product& product) {
    const auto actual = multiplied<Arithmetic>(product);
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

// Operands rounded to fp16, by a kernel's instructions.
struct Fp16Arithmetic {
    struct A {
        std::uint32_t pairs[4];
    };
    struct B {
        std::uint32_t pairs[2];
    };
    static A make_a(const float (&values)[8]) {
        A a;
        for (int i = 0; i < 4; ++i) {
            a.pairs[i] = rounded_to_fp16(values[2 * i], values[2 * i + 1]);
        }
        return a;
    }
    static B make_b(const float (&values)[4]) {
        return {{rounded_to_fp16(values[0], values[1]), rounded_to_fp16(values[2], values[3])}};
    }
    static void multiply(Accumulator& c, const A& a, const B& b) { mma_fp16(c, a.pairs, b.pairs); }
};

Product random_product(float scale_a, float scale_b) {
    Product product;
    Uniform uniform(2);
    for (float& x : product.a) x = uniform(-scale_a, scale_a);
    for (float& x : product.b) x = uniform(-scale_b, scale_b);
    return product;
}

}  // namespace

TEMPLATE_TEST_CASE("small integers are multiplied exactly", "", FastArithmetic, PreciseArithmetic,
                   Fp16Arithmetic) {
    REQUIRE(worst_error<TestType>(small_integers()) == 0);
}

TEST_CASE("a product errs as much as the rounding of its operands") {
    for (const float scale : {1e-3F, 1.0F, 100.0F}) {
        const Product product = random_product(scale, 3);
        // Two operands, each off by half a unit of 11 bits.
        REQUIRE(worst_error<FastArithmetic>(product) <= 2 * 0x1p-12);
        REQUIRE(worst_error<FastArithmetic>(product) > 0x1p-16);
        REQUIRE(worst_error<Fp16Arithmetic>(product) <= 2 * 0x1p-12);
        // The two small parts' product is left out, 2^-11 of 2^-11; sums are cut at 24 bits, six of
        // them.
        REQUIRE(worst_error<PreciseArithmetic>(product) <= 0x1p-22 + 6 * 0x1p-23);
    }
}

TEST_CASE("precise holds what fast cannot") {
    Product product;
    product.a[0] = 1 + 0x1p-20F;
    product.b[0] = 1;
    REQUIRE(multiplied<PreciseArithmetic>(product)[0] == 1 + 0x1p-20F);
    REQUIRE(multiplied<FastArithmetic>(product)[0] == 1);
    REQUIRE(multiplied<Fp16Arithmetic>(product)[0] == 1);
}

TEMPLATE_TEST_CASE("what is not finite stays so", "", FastArithmetic, PreciseArithmetic,
                   Fp16Arithmetic) {
    for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
        Product product = small_integers();
        product.a[5 * depth + 3] = bad;
        const auto result = multiplied<TestType>(product);
        for (int row = 0; row < rows; ++row) {
            const bool finite = std::isfinite(result[row * columns]);
            REQUIRE(finite == (row != 5));
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

TEST_CASE("TF32 rounds to nearest, halves away from zero") {
    using nca::executor::rounded_to_tf32;
    REQUIRE(__uint_as_float(rounded_to_tf32(1 + 0x1p-11F)) == 1 + 0x1p-10F);
    REQUIRE(__uint_as_float(rounded_to_tf32(-1 - 0x1p-11F)) == -1 - 0x1p-10F);
    REQUIRE(__uint_as_float(rounded_to_tf32(1 + 0x1p-12F)) == 1);
    REQUIRE(std::isnan(__uint_as_float(rounded_to_tf32(std::nanf("")))));
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
