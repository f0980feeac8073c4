// SPDX-License-Identifier: MIT
#include "host/cpu/kernels.hpp"

#include "host/cpu/fire.hpp"
#include "host/reference/step.hpp"
#include "support/catch.hpp"
#include "support/compare.hpp"

#include <hwy/targets.h>

#include <cmath>
#include <memory>
#include <vector>

using namespace nca;

namespace {

// Plain, repeatable numbers in -1 .. 1.
class Numbers {
public:
    float next() { return std::sin(12.9898F * float(++count_)) * 0.97F; }
    void fill(float* values, std::size_t size, float scale = 1) {
        for (std::size_t i = 0; i < size; ++i) values[i] = scale * next();
    }

private:
    int count_ = 0;
};

struct alignas(64) Rows {
    float p[cpu::chunk_rows * perception];
    float grad_u[cpu::chunk_rows * channels];
    float h[cpu::chunk_rows * hidden];
    float grad_h[cpu::chunk_rows * hidden];
    float u[cpu::chunk_rows * channels];
    float grad_p[cpu::chunk_rows * perception];
};

struct Setup {
    explicit Setup(bool output_bias) : weights(output_bias) {
        Numbers numbers;
        numbers.fill(weights.all().data(), weights.all().size(), 0.3F);
        cpu::pack(*packed, weights.view());
        numbers.fill(rows->p, std::size(rows->p));
        numbers.fill(rows->grad_u, std::size(rows->grad_u));
        // Rows that skipping and padding make: nothing perceived, nothing flowing back; and values
        // far from one.
        std::fill_n(rows->p + 3 * perception, perception, 0.0F);
        std::fill_n(rows->grad_u + 4 * channels, channels, 0.0F);
        for (int i = 0; i < perception; ++i) rows->p[5 * perception + i] *= 1e-39F;
        for (int i = 0; i < perception; ++i) rows->p[6 * perception + i] *= 1e6F;
    }

    // p of a row in the public order, [c * filter_count + k].
    std::vector<double> public_p(int row) const {
        std::vector<double> p(perception);
        for (int k = 0; k < filter_count; ++k) {
            for (int c = 0; c < channels; ++c) {
                p[c * filter_count + k] = rows->p[row * perception + k * channels + c];
            }
        }
        return p;
    }

    Weights weights;
    std::unique_ptr<cpu::PackedWeights> packed = std::make_unique<cpu::PackedWeights>();
    std::unique_ptr<Rows> rows = std::make_unique<Rows>();
};

// Each sum has at most 128 terms and is followed by a second one; a term's size is bounded by the
// row's largest.
test::Tolerance tolerance(double largest) { return {128 * 0x1p-23 * largest, 128 * 0x1p-23}; }

}  // namespace

TEST_CASE("the MLP forward agrees with the reference, row by row") {
    for (const bool output_bias : {false, true}) {
        Setup setup(output_bias);
        const reference::WeightValues<double> parameters(setup.weights);
        for (const int rows : {cpu::row_tile, 5 * cpu::row_tile, cpu::chunk_rows}) {
            cpu::mlp_forward(setup.rows->u, setup.rows->h, *setup.packed, setup.rows->p, rows);
            for (int row = 0; row < rows; ++row) {
                const auto expected = reference::network(parameters, setup.public_p(row).data());
                const std::vector<float> u(setup.rows->u + row * channels,
                                           setup.rows->u + (row + 1) * channels);
                const double largest = test::largest_magnitude(expected.h) + 1;
                CAPTURE(rows, row);
                REQUIRE(test::worst_error(u, expected.u, tolerance(largest)) <= 1);
            }
        }
    }
}

TEST_CASE("the MLP backward agrees with the reference and adds to the gradients") {
    Setup setup(true);
    setup.rows->p[6 * perception] = 1;  // no huge row: its share of the sums would hide the others
    for (int i = 0; i < perception; ++i) setup.rows->p[6 * perception + i] = 0.5F;
    const int rows = cpu::chunk_rows;
    auto gradients = std::make_unique<cpu::PackedGradients>();
    constexpr float before = 2.5F;
    auto* all = reinterpret_cast<float*>(gradients.get());
    std::fill_n(all, sizeof(cpu::PackedGradients) / sizeof(float), before);
    cpu::mlp_backward(setup.rows->grad_p, *gradients, setup.rows->h, setup.rows->grad_h,
                      *setup.packed, setup.rows->p, setup.rows->grad_u, rows);

    const auto [w1, b1, w2, b2] = setup.weights.view();
    reference::WeightValues<double> expected(true);
    std::fill(expected.all.begin(), expected.all.end(), before);
    const auto grad = expected.view();
    for (int row = 0; row < rows; ++row) {
        const auto p = setup.public_p(row);
        const reference::WeightValues<double> parameters(setup.weights);
        const auto network = reference::network(parameters, p.data());
        const float* grad_u = setup.rows->grad_u + row * channels;
        std::vector<double> grad_p(perception);
        for (int j = 0; j < hidden; ++j) {
            double grad_h = 0;
            for (int c = 0; c < channels; ++c) {
                grad_h += double(w2[c * hidden + j]) * grad_u[c];
                grad.w2[c * hidden + j] += grad_u[c] * network.h[j];
            }
            if (network.a[j] <= 0) continue;
            grad.b1[j] += grad_h;
            for (int i = 0; i < perception; ++i) {
                grad.w1[j * perception + i] += grad_h * p[i];
                grad_p[i] += double(w1[j * perception + i]) * grad_h;
            }
        }
        for (int c = 0; c < channels; ++c) grad.b2[c] += grad_u[c];
        std::vector<float> got(perception);
        for (int k = 0; k < filter_count; ++k) {
            for (int c = 0; c < channels; ++c) {
                got[c * filter_count + k] = setup.rows->grad_p[row * perception + k * channels + c];
            }
        }
        CAPTURE(row);
        REQUIRE(test::worst_error(got, grad_p, tolerance(4)) <= 1);
    }
    Weights got(true);
    cpu::unpack(got.view(), *gradients, false);
    REQUIRE(test::worst_error(got.all(), expected.all, tolerance(16)) <= 1);
    REQUIRE(test::largest_magnitude(got.all()) > 2 * before);

    cpu::unpack(got.view(), *gradients, true);
    for (double& value : expected.all) value *= 2;
    REQUIRE(test::worst_error(got.all(), expected.all, tolerance(32)) <= 1);
}

TEST_CASE("instruction sets with fused multiply-add give the same bits") {
    Setup setup(true);
    std::vector<std::vector<float>> results;
    const std::int64_t supported = hwy::SupportedTargets();
    for (const std::int64_t set : {HWY_AVX3, HWY_AVX2, HWY_NEON}) {
        if ((supported & set) == 0) continue;
        hwy::SetSupportedTargetsForTest(set);
        hwy::GetChosenTarget().Update(hwy::SupportedTargets());
        auto gradients = std::make_unique<cpu::PackedGradients>();
        cpu::mlp_forward(setup.rows->u, setup.rows->h, *setup.packed, setup.rows->p,
                         cpu::chunk_rows);
        cpu::mlp_backward(setup.rows->grad_p, *gradients, setup.rows->h, setup.rows->grad_h,
                          *setup.packed, setup.rows->p, setup.rows->grad_u, cpu::chunk_rows);
        std::vector<float> result(setup.rows->u, setup.rows->u + std::size(setup.rows->u));
        result.insert(result.end(), setup.rows->grad_p,
                      setup.rows->grad_p + std::size(setup.rows->grad_p));
        const auto* all = reinterpret_cast<const float*>(gradients.get());
        result.insert(result.end(), all, all + sizeof(cpu::PackedGradients) / sizeof(float));
        results.push_back(result);
    }
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    if (results.size() < 2) WARN("skipped: this processor has one such instruction set or none");
    for (const auto& result : results) REQUIRE(result == results.front());
}

TEST_CASE("a word of the fire mask has the bits of fires, wherever the row begins") {
    const FireKey key{7, 3, 11, 2};
    for (const float rate : {0.0F, 0.3F, 0.5F, 1.0F}) {
        const cpu::FireMask mask(key, rate);
        for (const std::uint32_t first : {0U, 1U, 2U, 3U, 64U, 1001U}) {
            for (const std::uint64_t wanted :
                 {std::uint64_t{1}, ~std::uint64_t{0}, std::uint64_t{0xf0f0000000000018}}) {
                std::uint64_t expected = 0;
                for (int i = 0; i < 64; ++i) {
                    const bool fired = fires(key, rate, 5, 1, first + std::uint32_t(i));
                    expected |= std::uint64_t(fired) << i;
                }
                REQUIRE(mask.word(5, 1, first, wanted) == (expected & wanted));
            }
        }
    }
}
