// SPDX-License-Identifier: MIT
// The MLP of a block's rows going back on tensor cores, against double.
#include "cuda/step/mlp_backward_tensor.cuh"

#include "cuda/rule/pack_tensor.cuh"
#include "tests/support/cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/compare.hpp"
#include "tests/support/tensor_device.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

using namespace nca;
using namespace nca::cuda;
using test::Uniform;

namespace {

constexpr int most_rows = BackwardRows<2>::most;

// Rows with their weights, in the kernels' order of perception.
struct Network {
    std::vector<float> w1 = std::vector<float>(w1_size);  // [hidden, perception]
    std::vector<float> b1 = std::vector<float>(b1_size);
    std::vector<float> w2 = std::vector<float>(w2_size);  // [channels, hidden]
    std::vector<float> p = std::vector<float>(most_rows * perception);
    std::vector<float> grad_u = std::vector<float>(most_rows * channels);
};

// Perception and the first layer are such that every precision computes the same hidden units, and
// switches the same ones off.
Network random_network(std::uint32_t seed, float grad_scale, float p_scale = 1) {
    Network network;
    Uniform uniform(seed);
    const auto fill = [&](std::vector<float>& values, float scale, float unit) {
        for (float& value : values) {
            value = uniform(-scale, scale);
            if (unit > 0) value = std::round(value / unit) * unit;
        }
    };
    fill(network.w1, 0.14F, 0x1p-9F);
    fill(network.b1, 0.14F * p_scale, 0x1p-12F * p_scale);
    fill(network.w2, 0.05F, 0);
    fill(network.p, p_scale, 0x1p-5F * p_scale);
    fill(network.grad_u, grad_scale, 0);
    return network;
}

// All products of these and all their sums are exact in every precision.
Network integer_network() {
    Network network = random_network(7, 1);
    Uniform uniform(8);
    for (auto* values : {&network.w1, &network.b1, &network.w2, &network.p, &network.grad_u}) {
        for (float& value : *values) value = std::round(value > 0 ? uniform(0, 1.7F) : 0);
    }
    // Signs, so that some hidden units are off.
    for (std::size_t i = 0; i < w1_size; ++i) network.w1[i] *= i % 3 == 0 ? -1.0F : 1.0F;
    return network;
}

std::unique_ptr<PackedModel> packed(const Network& network) {
    auto model = std::make_unique<PackedModel>();
    int i = 0;
    for (int j = 0; j < hidden; ++j) {
        for (int m = 0; m < perception; ++m, ++i) {
            store_packed(model->tensor, i,
                         network.w1[std::size_t(j) * perception + kernel_index_of_perception(m)]);
        }
    }
    for (const auto* values : {&network.b1, &network.w2}) {
        for (const float value : *values) store_packed(model->tensor, i++, value);
    }
    return model;
}

struct Results {
    std::vector<double> grad_p;  // [count, perception]
    // As Network, grad_w2 [channels, hidden].
    std::vector<double> grad_w1, grad_b1, grad_w2, grad_b2;
};

Results expected_results(const Network& network, int count) {
    Results result;
    result.grad_w1.resize(w1_size);
    result.grad_b1.resize(b1_size);
    result.grad_w2.resize(w2_size);
    result.grad_b2.resize(b2_size);
    for (int row = 0; row < count; ++row) {
        const float* p = &network.p[std::size_t(row) * perception];
        const float* grad_u = &network.grad_u[std::size_t(row) * channels];
        std::vector<double> grad_p(perception);
        for (int j = 0; j < hidden; ++j) {
            const float* w1 = &network.w1[std::size_t(j) * perception];
            double a = network.b1[j], grad_a = 0;
            for (int k = 0; k < perception; ++k) a += double(w1[k]) * p[k];
            const double h = std::max(a, 0.0);
            for (int c = 0; c < channels; ++c) {
                grad_a += double(network.w2[std::size_t(c) * hidden + j]) * grad_u[c];
                result.grad_w2[std::size_t(c) * hidden + j] += grad_u[c] * h;
            }
            if (a <= 0) grad_a = 0;
            result.grad_b1[j] += grad_a;
            for (int k = 0; k < perception; ++k) {
                result.grad_w1[std::size_t(j) * perception + k] += grad_a * p[k];
                grad_p[k] += grad_a * w1[k];
            }
        }
        for (int c = 0; c < channels; ++c) result.grad_b2[c] += grad_u[c];
        result.grad_p.insert(result.grad_p.end(), grad_p.begin(), grad_p.end());
    }
    return result;
}

template <int parts>
struct SharedStorage {
    BackwardRows<parts> rows;
    std::uint32_t largest_weights[4];
};

float largest_of(const std::vector<float>& values, int count) {
    float largest = 0;
    for (int i = 0; i < count; ++i) largest = std::max(largest, std::abs(values[i]));
    return largest;
}

// The block's results for the first count rows, by way of the kernels' own functions. What is there
// before is added to.
template <int parts>
Results block_results(const Network& network, int count, const PartialGradients* before = nullptr) {
    const test::TensorDevice device;
    const auto model = packed(network);
    std::vector<float> grad_p(std::size_t(count) * perception);
    auto partial = std::make_unique<PartialGradients>();
    if (before != nullptr) *partial = *before;
    using Rows = BackwardRows<parts>;
    executor::run(
        {.kernel = "tensor_backward_test",
         .blocks = 1,
         .threads = Traits::threads,
         .shared_bytes = sizeof(SharedStorage<parts>),
         .thread = [&] {
             auto& shared = shared_storage<SharedStorage<parts>, 227 * 1024>();
             Rows& rows = shared.rows;
             const int thread = static_cast<int>(threadIdx.x);
             const int warp = thread / 32, lane = thread % 32, quad = thread % 4;
             if (thread < 4) shared.largest_weights[thread] = 0;
             if (thread < Traits::warps * channels) (&rows.b2[0][0])[thread] = 0;
             const WeightScales weights =
                 weight_scales(model->tensor, shared.largest_weights, thread);
             load_w1<parts>(rows, model->tensor, weights, thread);
             const ChunkScale scale = {
                 scale_of_rows(weights, largest_of(network.p, count * perception)),
                 scale_of_gradients(largest_of(network.grad_u, count * channels))};
             const auto piece_of = [&](const std::vector<float>& from, int row, int width, int at) {
                 if (row >= count) return zero4();
                 const float* four = &from[std::size_t(row) * width + at];
                 return make_float4(four[0], four[1], four[2], four[3]);
             };
             float4 b2 = zero4();
             for (int row = thread / 4; row < Rows::most; row += Traits::threads / 4) {
                 CellPerception p;
                 for (int k = 0; k < 3; ++k) {
                     p.filters[k] = piece_of(network.p, row, perception, k * 16 + quad * 4);
                 }
                 store_p<parts>(rows, row, quad, p, scale.f * inverse_of_power(weights.w1));
                 const float4 grad_u = piece_of(network.grad_u, row, channels, quad * 4);
                 store_grad_u<parts>(rows, row, quad, grad_u, scale.g);
                 add_scaled(b2, 1, grad_u);
             }
             add_b2(rows, b2, thread);
             __syncthreads();
             TensorSums sums = {};
             multiply_rows<parts>(sums, rows, model->tensor, weights, scale, count, warp, lane);
             __syncthreads();
             add_w1<parts>(sums, rows, weights, scale, count, warp, lane);
             compute_grad_p<parts>(rows, weights, scale, count, warp, lane, [&](int row) {
                 return row < count ? &grad_p[std::size_t(row) * perception] : nullptr;
             });
             write_sums<parts>(*partial, rows, sums, before == nullptr, thread);
         }});
    Results result;
    result.grad_p.assign(grad_p.begin(), grad_p.end());
    for (int j = 0; j < hidden; ++j) {
        for (int k = 0; k < perception; ++k) {
            result.grad_w1.push_back(partial->w1[k * hidden + j]);
        }
    }
    result.grad_b1.assign(partial->b1, partial->b1 + hidden);
    result.grad_w2.assign(partial->w2, partial->w2 + w2_size);
    result.grad_b2.assign(partial->b2, partial->b2 + channels);
    return result;
}

// The largest error of each tensor, relative to the tensor's largest value.
double worst_error(const Results& actual, const Results& expected) {
    double worst = 0;
    const auto compare = [&](const std::vector<double>& a, const std::vector<double>& b) {
        const double largest = test::largest_magnitude(b);
        worst = std::max(worst, test::worst_error(a, b, {largest, 0}));
    };
    compare(actual.grad_p, expected.grad_p);
    compare(actual.grad_w1, expected.grad_w1);
    compare(actual.grad_b1, expected.grad_b1);
    compare(actual.grad_w2, expected.grad_w2);
    compare(actual.grad_b2, expected.grad_b2);
    return worst;
}

// What the roundings of operands and sums come to: independent ones in the longest chain, 48
// perceptions, 128 hidden units and the rows.
double tolerance(double unit, int count) {
    return std::sqrt(double(perception + hidden + count)) * unit;
}

}  // namespace

TEST_CASE("integers go back through the network exactly") {
    const Network network = integer_network();
    for (const int count : {1, 16, most_rows}) {
        const Results expected = expected_results(network, count);
        REQUIRE(test::largest_magnitude(expected.grad_p) > 0);
        REQUIRE(test::largest_magnitude(expected.grad_w1) > 0);
        REQUIRE(worst_error(block_results<1>(network, count), expected) == 0);
        REQUIRE(worst_error(block_results<2>(network, count), expected) == 0);
    }
}

TEST_CASE("rows of every number agree with double as far as the precision goes, going back") {
    const Network network = random_network(1, 1);
    for (const int count : {1, 2, 8, 9, 15, 17, 33, 48, 63, most_rows}) {
        INFO(count << " rows");
        const Results expected = expected_results(network, count);
        REQUIRE(worst_error(block_results<2>(network, count), expected) <=
                tolerance(0x1p-22, count));
        REQUIRE(worst_error(block_results<1>(network, count), expected) <=
                tolerance(0x1p-11, count));
    }
}

TEST_CASE("gradients and perceptions of every size survive") {
    for (const float p_scale : {0x1p-20F, 1.0F, 0x1p20F}) {
        for (const float scale : {1e-30F, 1e-12F, 1e-6F, 1e4F, 1e20F}) {
            INFO("gradients of " << scale << ", perceptions of " << p_scale);
            const Network network = random_network(2, scale, p_scale);
            const Results expected = expected_results(network, most_rows);
            REQUIRE(worst_error(block_results<2>(network, most_rows), expected) <=
                    tolerance(0x1p-22, most_rows));
            REQUIRE(worst_error(block_results<1>(network, most_rows), expected) <=
                    tolerance(0x1p-11, most_rows));
        }
    }
}

TEST_CASE("rows of zeros, and gradients of zeros, leave nothing behind") {
    Network network = random_network(3, 1);
    std::fill_n(network.p.begin() + 5 * perception, perception, 0.0F);
    std::fill_n(network.grad_u.begin(), 20 * channels, 0.0F);
    const Results expected = expected_results(network, most_rows);
    const Results actual = block_results<1>(network, most_rows);
    REQUIRE(worst_error(actual, expected) <= tolerance(0x1p-11, most_rows));
    for (int i = 0; i < 20 * perception; ++i) REQUIRE(actual.grad_p[i] == 0);
    std::fill(network.grad_u.begin(), network.grad_u.end(), 0.0F);
    const Results none = block_results<2>(network, 7);
    for (const auto* values :
         {&none.grad_p, &none.grad_w1, &none.grad_b1, &none.grad_w2, &none.grad_b2}) {
        for (const double value : *values) REQUIRE(value == 0);
    }
}

TEST_CASE("a gradient that is not finite spreads, and becomes no number that looks like one") {
    for (const float value : {HUGE_VALF, NAN}) {
        Network network = random_network(5, 1);
        network.grad_u[3 * channels + 4] = value;
        for (const auto& actual : {block_results<1>(network, 9), block_results<2>(network, 9)}) {
            REQUIRE(!std::isfinite(actual.grad_b2[4]));
            for (int j = 0; j < hidden; ++j) {
                REQUIRE(!std::isfinite(actual.grad_w2[4 * hidden + j]));
            }
            int spoilt = 0;
            for (const double grad : actual.grad_b1) spoilt += !std::isfinite(grad);
            REQUIRE(spoilt > hidden / 4);
            for (int k = 0; k < perception; ++k) {
                REQUIRE(!std::isfinite(actual.grad_p[3 * perception + k]));
            }
        }
        network = random_network(5, 1);
        network.p[3 * perception + 4] = value;
        for (const auto& actual : {block_results<1>(network, 9), block_results<2>(network, 9)}) {
            for (int j = 0; j < hidden; ++j) {
                REQUIRE(!std::isfinite(actual.grad_w1[j * perception + 4]));
            }
        }
    }
}

TEST_CASE("one wrong weight is noticed, going back") {
    Network network = integer_network();
    const Results expected = expected_results(network, 16);
    network.w1[1234] += 1;
    REQUIRE(worst_error(block_results<1>(network, 16), expected) > 0);
}

TEST_CASE("sums are added to those of the steps behind") {
    const Network network = integer_network();
    const auto before = std::make_unique<PartialGradients>();
    for (float& value : before->w1) value = 1;
    for (float& value : before->w2) value = 2;
    for (float& value : before->b1) value = 3;
    for (float& value : before->b2) value = 4;
    Results expected = expected_results(network, 16);
    for (double& value : expected.grad_w1) value += 1;
    for (double& value : expected.grad_w2) value += 2;
    for (double& value : expected.grad_b1) value += 3;
    for (double& value : expected.grad_b2) value += 4;
    REQUIRE(worst_error(block_results<1>(network, 16, before.get()), expected) == 0);
}

TEST_CASE("threads in reverse order give the same bits, going back") {
    const Network network = random_network(4, 1e-3F);
    const Results expected = block_results<2>(network, 50);
    const test::BlockSchedule reverse(executor::Order::reverse);
    const Results again = block_results<2>(network, 50);
    REQUIRE(again.grad_p == expected.grad_p);
    REQUIRE(again.grad_w1 == expected.grad_w1);
    REQUIRE(again.grad_w2 == expected.grad_w2);
    REQUIRE(again.grad_b1 == expected.grad_b1);
    REQUIRE(again.grad_b2 == expected.grad_b2);
}
