// SPDX-License-Identifier: MIT
// The MLP of a block's rows on tensor cores, forward and back, against double.
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
    std::vector<float> grad_u = std::vector<float>(most_rows * channels);
};

// Perception and the first layer are such that every precision computes the same hidden units, and
// switches the same ones off.
Network random_network(std::uint32_t seed, float grad_scale) {
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
    fill(network.grad_u, grad_scale, 0);
    return network;
}

// All products of these and all their sums are exact in every precision.
Network integer_network() {
    Network network = random_network(7, 1);
    Uniform uniform(8);
    for (auto* values :
         {&network.w1, &network.b1, &network.w2, &network.b2, &network.p, &network.grad_u}) {
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

struct Results {
    std::vector<double> u, grad_p;  // [count, ..]
    std::vector<double> grad_w1, grad_b1, grad_w2,
        grad_b2;  // as Network, grad_w2 [channels, hidden]
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
        std::vector<double> u(network.b2.begin(), network.b2.end()), grad_p(perception);
        for (int j = 0; j < hidden; ++j) {
            const float* w1 = &network.w1[std::size_t(j) * perception];
            double a = network.b1[j], grad_a = 0;
            for (int k = 0; k < perception; ++k) a += double(w1[k]) * p[k];
            const double h = std::max(a, 0.0);
            for (int c = 0; c < channels; ++c) {
                u[c] += network.w2[std::size_t(c) * hidden + j] * h;
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
        result.u.insert(result.u.end(), u.begin(), u.end());
        result.grad_p.insert(result.grad_p.end(), grad_p.begin(), grad_p.end());
    }
    return result;
}

struct SharedStorage {
    union {
        ForwardRows forward;
        BackwardRows backward;
    };
};

// The block's results for the first count rows, by way of the kernels' own functions.
template <class Arithmetic>
Results block_results(const Network& network, int count) {
    const test::TensorDevice device;
    const auto model = packed(network);
    Results result;
    result.u.resize(std::size_t(count) * channels);
    result.grad_p.resize(std::size_t(count) * perception);
    auto partial = std::make_unique<PartialGradients>();
    executor::run(
        {.kernel = "tensor_mlp_test",
         .grid = 1,
         .block = Traits::threads,
         .shared_bytes = sizeof(SharedStorage),
         .thread = [&] {
             auto& shared = shared_storage<SharedStorage, 227 * 1024>();
             const int thread = static_cast<int>(threadIdx.x);
             const int warp = thread / 32, lane = thread % 32;
             const auto fill = [&](float* to, int pitch, const std::vector<float>& from,
                                   int width) {
                 for (int i = thread; i < most_rows * width; i += Traits::threads) {
                     to[i / width * pitch + i % width] = i / width < count ? from[i] : 0;
                 }
             };
             fill(shared.forward.p, TensorShape::p_pitch, network.p, perception);
             __syncthreads();
             const auto forward = load_forward_operands<Arithmetic>(model->tensor, warp, lane);
             tensor_forward<Arithmetic>(shared.forward, forward, count, warp, lane);
             __syncthreads();
             if (thread / 4 < count) {
                 const float4 u = finished_u(shared.forward, model->tensor, thread / 4, thread % 4);
                 for (int i = 0; i < 4; ++i) result.u[thread * 4 + i] = element(u, i);
             }
             __syncthreads();
             fill(shared.backward.p, TensorShape::p_pitch, network.p, perception);
             fill(shared.backward.grad_u, TensorShape::u_pitch, network.grad_u, channels);
             load_w1_back(shared.backward, model->tensor, thread);
             wait_for_copies();
             __syncthreads();
             const auto backward = load_backward_operands<Arithmetic>(model->tensor, warp, lane);
             TensorSums sums = {};
             tensor_weight_gradients<Arithmetic>(sums, shared.backward, backward, count, warp,
                                                 lane);
             __syncthreads();
             tensor_grad_p<Arithmetic>(shared.backward, count, warp, lane,
                                       [&](int row, int column, float2 two) {
                                           if (row >= count) return;
                                           result.grad_p[row * perception + column] = two.x;
                                           result.grad_p[row * perception + column + 1] = two.y;
                                       });
             write_tensor_sums(*partial, sums, true, warp, lane);
         }});
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
    compare(actual.u, expected.u);
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

TEMPLATE_TEST_CASE("integers go through the network exactly", "", FastArithmetic,
                   PreciseArithmetic) {
    const Network network = integer_network();
    for (const int count : {1, 16, most_rows}) {
        const Results expected = expected_results(network, count);
        REQUIRE(test::largest_magnitude(expected.u) > 0);
        REQUIRE(test::largest_magnitude(expected.grad_w1) > 0);
        REQUIRE(worst_error(block_results<TestType>(network, count), expected) == 0);
    }
}

TEST_CASE("rows of every number agree with double as far as the precision goes") {
    const Network network = random_network(1, 1);
    for (const int count : {1, 2, 8, 9, 15, 17, 33, 48, 63, most_rows}) {
        INFO(count << " rows");
        const Results expected = expected_results(network, count);
        REQUIRE(worst_error(block_results<PreciseArithmetic>(network, count), expected) <=
                tolerance(0x1p-22, count));
        REQUIRE(worst_error(block_results<FastArithmetic>(network, count), expected) <=
                tolerance(0x1p-11, count));
    }
}

TEST_CASE("gradients of every size survive") {
    for (const float scale : {1e-30F, 1e-12F, 1e-6F, 1e4F, 1e20F}) {
        INFO("gradients of " << scale);
        const Network network = random_network(2, scale);
        const Results expected = expected_results(network, most_rows);
        REQUIRE(worst_error(block_results<PreciseArithmetic>(network, most_rows), expected) <=
                tolerance(0x1p-22, most_rows));
        REQUIRE(worst_error(block_results<FastArithmetic>(network, most_rows), expected) <=
                tolerance(0x1p-11, most_rows));
    }
}

TEST_CASE("rows of zeros, and gradients of zeros, leave nothing behind") {
    Network network = random_network(3, 1);
    std::fill_n(network.p.begin() + 5 * perception, perception, 0.0F);
    std::fill_n(network.grad_u.begin(), 20 * channels, 0.0F);
    const Results expected = expected_results(network, most_rows);
    const Results actual = block_results<FastArithmetic>(network, most_rows);
    REQUIRE(worst_error(actual, expected) <= tolerance(0x1p-11, most_rows));
    for (int i = 0; i < 20 * perception; ++i) REQUIRE(actual.grad_p[i] == 0);
    std::fill(network.grad_u.begin(), network.grad_u.end(), 0.0F);
    REQUIRE(test::largest_magnitude(block_results<FastArithmetic>(network, 7).grad_w1) == 0);
}

TEST_CASE("one wrong weight is noticed") {
    Network network = integer_network();
    const Results expected = expected_results(network, 16);
    network.w1[1234] += 1;
    REQUIRE(worst_error(block_results<FastArithmetic>(network, 16), expected) > 0);
}

TEST_CASE("threads in reverse order give the same bits") {
    const Network network = random_network(4, 1e-3F);
    const Results expected = block_results<FastArithmetic>(network, 50);
    const test::BlockSchedule reverse(executor::Order::reverse);
    const Results again = block_results<FastArithmetic>(network, 50);
    REQUIRE(again.u == expected.u);
    REQUIRE(again.grad_p == expected.grad_p);
    REQUIRE(again.grad_w1 == expected.grad_w1);
    REQUIRE(again.grad_w2 == expected.grad_w2);
    REQUIRE(again.grad_b1 == expected.grad_b1);
}
