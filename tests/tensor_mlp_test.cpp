// SPDX-License-Identifier: MIT
// The MLP of a block's rows going forward on tensor cores, against double.
#include "cuda/tensor_mlp.cuh"

#include "cuda/pack_tensor.cuh"
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

constexpr int most_rows = TensorShape::rows;

// Rows with their weights, in the kernels' order of perception.
struct Network {
    std::vector<float> w1 = std::vector<float>(w1_size);  // [hidden, perception]
    std::vector<float> b1 = std::vector<float>(b1_size);
    std::vector<float> w2 = std::vector<float>(w2_size);  // [channels, hidden]
    std::vector<float> b2 = std::vector<float>(b2_size);
    std::vector<float> p = std::vector<float>(most_rows * perception);
};

// Perception and the first layer are such that every precision computes the same hidden units, and
// switches the same ones off.
Network random_network(std::uint32_t seed) {
    Network network;
    Uniform uniform(seed);
    const auto fill = [&](std::vector<float>& values, float scale, float unit) {
        for (float& value : values) {
            value = uniform(-scale, scale);
            if (unit > 0) value = std::round(value / unit) * unit;
        }
    };
    fill(network.w1, 0.14F, 0x1p-9F);
    fill(network.b1, 0.14F, 0x1p-12F);
    fill(network.w2, 0.05F, 0);
    fill(network.b2, 0.05F, 0);
    fill(network.p, 1, 0x1p-5F);
    return network;
}

// All products of these and all their sums are exact in every precision.
Network integer_network() {
    Network network = random_network(7);
    Uniform uniform(8);
    for (auto* values : {&network.w1, &network.b1, &network.w2, &network.b2, &network.p}) {
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
    for (const auto* values : {&network.b1, &network.w2, &network.b2}) {
        for (const float value : *values) store_packed(model->tensor, i++, value);
    }
    return model;
}

// u of the first count rows, [count, channels].
std::vector<double> expected_u(const Network& network, int count) {
    std::vector<double> result;
    for (int row = 0; row < count; ++row) {
        const float* p = &network.p[std::size_t(row) * perception];
        std::vector<double> u(network.b2.begin(), network.b2.end());
        for (int j = 0; j < hidden; ++j) {
            const float* w1 = &network.w1[std::size_t(j) * perception];
            double a = network.b1[j];
            for (int k = 0; k < perception; ++k) a += double(w1[k]) * p[k];
            for (int c = 0; c < channels; ++c) {
                u[c] += network.w2[std::size_t(c) * hidden + j] * std::max(a, 0.0);
            }
        }
        result.insert(result.end(), u.begin(), u.end());
    }
    return result;
}

// The same by way of the kernels' own functions.
template <class Arithmetic>
std::vector<double> block_u(const Network& network, int count) {
    const test::TensorDevice device;
    const auto model = packed(network);
    std::vector<double> result(std::size_t(count) * channels);
    executor::run({.kernel = "tensor_mlp_test",
                   .grid = 1,
                   .block = Traits::threads,
                   .shared_bytes = sizeof(ForwardRows),
                   .thread = [&] {
                       auto& rows = shared_storage<ForwardRows, 227 * 1024>();
                       const int thread = static_cast<int>(threadIdx.x);
                       const int warp = thread / 32, lane = thread % 32;
                       for (int i = thread; i < most_rows * perception; i += Traits::threads) {
                           rows.p[i / perception * TensorShape::p_pitch + i % perception] =
                               i / perception < count ? network.p[i] : 0;
                       }
                       __syncthreads();
                       const auto forward =
                           load_forward_operands<Arithmetic>(model->tensor, warp, lane);
                       tensor_forward<Arithmetic>(rows, forward, count, warp, lane);
                       __syncthreads();
                       if (thread / 4 >= count) return;
                       const float4 u = finished_u(rows, model->tensor, thread / 4, thread % 4);
                       for (int i = 0; i < 4; ++i) result[thread * 4 + i] = element(u, i);
                   }});
    return result;
}

// The largest error relative to the largest value.
double worst_error(const std::vector<double>& actual, const std::vector<double>& expected) {
    return test::worst_error(actual, expected, {test::largest_magnitude(expected), 0});
}

// What the roundings of operands and sums come to: independent ones in the longest chain, 48
// perceptions, 128 hidden units and the rows.
double tolerance(double unit, int count) {
    return std::sqrt(double(perception + hidden + count)) * unit;
}

}  // namespace

TEMPLATE_TEST_CASE("integers go through the network exactly", "", FastArithmetic,
                   PreciseArithmetic) {
    const Network network = integer_network();
    for (const int count : {1, 16, most_rows}) {
        const std::vector<double> expected = expected_u(network, count);
        REQUIRE(test::largest_magnitude(expected) > 0);
        REQUIRE(worst_error(block_u<TestType>(network, count), expected) == 0);
    }
}

TEST_CASE("rows of every number agree with double as far as the precision goes") {
    const Network network = random_network(1);
    for (const int count : {1, 2, 8, 9, 15, 17, 33, 48, 63, most_rows}) {
        INFO(count << " rows");
        const std::vector<double> expected = expected_u(network, count);
        REQUIRE(worst_error(block_u<PreciseArithmetic>(network, count), expected) <=
                tolerance(0x1p-22, count));
        REQUIRE(worst_error(block_u<FastArithmetic>(network, count), expected) <=
                tolerance(0x1p-11, count));
    }
}

TEST_CASE("one wrong weight is noticed") {
    Network network = integer_network();
    const std::vector<double> expected = expected_u(network, 16);
    network.w1[1234] += 1;
    REQUIRE(worst_error(block_u<FastArithmetic>(network, 16), expected) > 0);
}

TEST_CASE("threads in reverse order give the same bits") {
    const Network network = random_network(4);
    const std::vector<double> expected = block_u<FastArithmetic>(network, 50);
    const test::BlockSchedule reverse(executor::Order::reverse);
    REQUIRE(block_u<FastArithmetic>(network, 50) == expected);
}
