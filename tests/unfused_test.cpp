// SPDX-License-Identifier: MIT
// The unfused baseline against the double reference, on the executor. cuBLAS and cuRAND are those
// of tests/support/executor.
#include "benchmarks/unfused/unfused.hpp"
#include "cuda/device/check.hpp"
#include "tests/support/cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/compare.hpp"
#include "tests/support/executor/executor.hpp"
#include "tests/support/tensor_device.hpp"

#include <nca/error.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <set>
#include <span>
#include <string>
#include <vector>

using namespace nca;
using bench::UnfusedRollout;
using cuda::check;
using cuda::DeviceArray;
using test::Case;
using test::CaseOptions;
using test::Start;

namespace {

// A stream that does not wait for the default one: work that is not queued on it is missed.
class OwnStream {
public:
    OwnStream() {
        check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
    }
    ~OwnStream() { cudaStreamDestroy(stream_); }
    OwnStream(const OwnStream&) = delete;
    OwnStream& operator=(const OwnStream&) = delete;

    operator cudaStream_t() const { return stream_; }
    void wait() const { check(cudaStreamSynchronize(stream_), "waiting"); }

private:
    cudaStream_t stream_ = nullptr;
};

DeviceArray<float> upload(std::span<const float> values) {
    DeviceArray<float> array(values.size(), "a test");
    check(cudaMemcpy(array.data(), values.data(), values.size_bytes(), cudaMemcpyHostToDevice),
          "copying to the device");
    return array;
}

std::vector<float> download(const float* values, std::size_t size) {
    std::vector<float> host(size);
    check(cudaMemcpy(host.data(), values, size * sizeof(float), cudaMemcpyDeviceToHost),
          "copying from the device");
    return host;
}

struct Result {
    std::vector<std::vector<float>> states;  // [steps + 1]
    std::vector<float> last;
    std::vector<float> stepped;  // by step instead of forward
    std::vector<float> grad_first;
    std::vector<float> grad_weights;  // laid out as Weights::all()

    bool operator==(const Result&) const = default;
};

UnfusedRollout rollout_of(const Case& drawn, bool tf32 = false) {
    return {drawn.rule,  drawn.weights,       drawn.batch, drawn.height,
            drawn.width, drawn.options.steps, tf32};
}

Result run(const Case& drawn, bool tf32 = false) {
    const OwnStream stream;
    const std::size_t size = drawn.state.size();
    const int steps = drawn.options.steps;
    UnfusedRollout rollout = rollout_of(drawn, tf32);
    const auto first = upload(drawn.state), grad_last = upload(drawn.grad_last);
    const DeviceArray<float> last(size, "a test"), grad_first(size, "a test");
    const DeviceArray<float> grad_weights(drawn.weights.all().size(), "a test");
    rollout.forward(last.data(), first.data(), steps, stream);
    rollout.backward(grad_first.data(), grad_weights.data(), grad_last.data(), stream);
    stream.wait();
    Result result;
    for (int step = 0; step <= steps; ++step) {
        result.states.push_back(download(rollout.state(step), size));
    }
    result.last = download(last.data(), size);
    result.grad_first = download(grad_first.data(), size);
    result.grad_weights = download(grad_weights.data(), grad_weights.size());

    const DeviceArray<float> one = upload(drawn.state), other(size, "a test");
    for (int step = 0; step < steps; ++step) {
        rollout.step(step % 2 == 0 ? other.data() : one.data(),
                     step % 2 == 0 ? one.data() : other.data(), stream);
    }
    stream.wait();
    result.stepped = download(steps % 2 == 0 ? one.data() : other.data(), size);
    return result;
}

// Tolerances as tests/engine_test.cpp derives them: a sum of n terms errs by sqrt(n) units, and a
// rollout is one long chain of sums.
constexpr double unit = 0x1p-24;
double rounding(double terms) { return std::sqrt(terms) * unit; }
const double step_terms = 9 + perception + hidden + 1;

test::Tolerance of_largest(double relative, double largest) {
    return {relative * largest, relative};
}

struct Drawn {
    Case example;
    test::Expected expected;
};

// Away from the kinks, where the reference may turn the other way.
Drawn draw(const CaseOptions& options) {
    for (std::uint32_t seed = 1; seed < 100; ++seed) {
        Case example = test::random_case(options, seed);
        if (auto expected = test::expected_of(example, {3e-6, 1e-6})) {
            return {std::move(example), std::move(*expected)};
        }
    }
    FAIL("no seed keeps this case away from the kinks");
    std::abort();
}

// factor: how much coarser the numbers are than float32's.
void require_states_agree(const Result& result, const Drawn& drawn, double factor = 1) {
    const int steps = drawn.example.options.steps;
    REQUIRE(result.states.size() == std::size_t(steps) + 1);
    REQUIRE(result.states[0] == drawn.example.state);
    REQUIRE(result.last == result.states.back());
    double largest = 0;
    for (int step = 0; step <= steps; ++step) {
        INFO("after step " << step);
        const auto expected = test::state_after(drawn.expected, step);
        largest = std::max(largest, test::largest_magnitude(expected));
        const auto tolerance = of_largest(factor * rounding(step * step_terms), largest);
        REQUIRE(test::worst_error(result.states[step], expected, tolerance) <= 1);
    }
}

// How far the gradients are from the reference's; at most 1 where they agree.
double gradient_error(const Result& result, const Drawn& drawn, double factor = 1) {
    const int steps = drawn.example.options.steps;
    const double rows = double(drawn.example.view().cells()) * steps;
    double worst = 0;
    const bool output_bias = drawn.example.weights.has_output_bias();
    for (const ParameterTensor& tensor : parameter_tensors(output_bias)) {
        const auto actual = std::span(result.grad_weights).subspan(tensor.offset, tensor.size);
        const auto expected =
            std::span(drawn.expected.grad_weights.all).subspan(tensor.offset, tensor.size);
        const auto tolerance = of_largest(factor * rounding(2 * steps * step_terms + rows),
                                          test::largest_magnitude(expected));
        worst = std::max(worst, test::worst_error(actual, expected, tolerance));
    }
    std::vector<double> expected;
    for (const auto& grid : drawn.expected.grad_first) {
        expected.insert(expected.end(), grid.values.begin(), grid.values.end());
    }
    const auto tolerance =
        of_largest(factor * rounding(2 * steps * step_terms), test::largest_magnitude(expected));
    return std::max(worst, test::worst_error(result.grad_first, expected, tolerance));
}

CaseOptions with_rule(CaseOptions options, int variant) {
    options.edges = variant & 1 ? Edges::zero : Edges::circular;
    options.life = variant & 2 ? Life::pre_and_post : Life::post;
    options.output_bias = variant & 4;
    return options;
}

// All cells alive; where one fires, channel 9 counts up.
Case counting_case(CaseOptions options) {
    Case example = test::random_case(options, 1);
    for (float& weight : example.weights.all()) weight = 0;
    example.weights.view().b2[9] = 0.25F;
    for (std::size_t i = 0; i < example.state.size(); ++i) {
        example.state[i] = i % channels == alpha_channel ? 1.0F : 0.0F;
    }
    return example;
}

// The cells that fired in each step of a counting case.
std::vector<std::vector<bool>> fired(const Result& result) {
    std::vector<std::vector<bool>> masks;
    for (std::size_t step = 0; step + 1 < result.states.size(); ++step) {
        std::vector<bool> mask;
        for (std::size_t i = 9; i < result.last.size(); i += channels) {
            mask.push_back(result.states[step + 1][i] != result.states[step][i]);
        }
        masks.push_back(mask);
    }
    return masks;
}

}  // namespace

TEST_CASE("the executor's cuBLAS multiplies column by column and transposes") {
    // op(A) = [1 2 3; 4 5 6], op(B) = [7 10; 8 11; 9 12], in arrays with a gap below each column.
    const std::vector<float> as_is_a = {1, 4, -1, 2, 5, -1, 3, 6, -1};
    const std::vector<float> turned_a = {1, 2, 3, -1, 4, 5, 6, -1};
    const std::vector<float> as_is_b = {7, 8, 9, -1, 10, 11, 12, -1};
    const std::vector<float> turned_b = {7, 10, -1, 8, 11, -1, 9, 12, -1};
    cublasHandle_t cublas = nullptr;
    REQUIRE(cublasCreate(&cublas) == CUBLAS_STATUS_SUCCESS);
    const float two = 2, half = 0.5F, zero = 0;
    for (const bool turn_a : {false, true}) {
        const auto a = upload(turn_a ? turned_a : as_is_a);
        for (const bool turn_b : {false, true}) {
            const auto b = upload(turn_b ? turned_b : as_is_b);
            const auto c = upload(std::vector<float>{100, 200, -1, 300, 400, -1});
            REQUIRE(cublasSgemm(cublas, turn_a ? CUBLAS_OP_T : CUBLAS_OP_N,
                                turn_b ? CUBLAS_OP_T : CUBLAS_OP_N, 2, 2, 3, &two, a.data(),
                                turn_a ? 4 : 3, b.data(), turn_b ? 3 : 4, &half, c.data(),
                                3) == CUBLAS_STATUS_SUCCESS);
            REQUIRE(download(c.data(), 6) == std::vector<float>{150, 344, -1, 286, 534, -1});
        }
    }
    const auto a = upload(as_is_a);
    const auto x = upload(std::vector<float>{1, -1, 10, -1, 100});
    const DeviceArray<float> y(3, "a test");  // not numbers, which beta = 0 must not read
    REQUIRE(cublasSgemv(cublas, CUBLAS_OP_N, 2, 3, &two, a.data(), 3, x.data(), 2, &zero, y.data(),
                        1) == CUBLAS_STATUS_SUCCESS);
    REQUIRE(download(y.data(), 2) == std::vector<float>{642, 1308});
    REQUIRE(cublasSgemv(cublas, CUBLAS_OP_T, 2, 3, &half, a.data(), 3, x.data(), 2, &zero, y.data(),
                        1) == CUBLAS_STATUS_SUCCESS);
    REQUIRE(download(y.data(), 3) == std::vector<float>{20.5F, 26, 31.5F});
    REQUIRE(cublasSgemv(cublas, CUBLAS_OP_N, 2, 3, &two, a.data(), 1, x.data(), 2, &zero, y.data(),
                        1) == CUBLAS_STATUS_INVALID_VALUE);
    REQUIRE(cublasDestroy(cublas) == CUBLAS_STATUS_SUCCESS);
}

TEST_CASE("the unfused rollout agrees with the reference for every rule", "[long]") {
    for (int variant = 0; variant < 8; ++variant) {
        for (const auto& [height, width] : {std::array{1, 1}, {3, 5}, {18, 9}}) {
            for (int steps = 0; steps <= 4; ++steps) {
                INFO("rule " << variant << ", " << height << " x " << width << ", " << steps
                             << " steps");
                CaseOptions options = with_rule({.height = height,
                                                 .width = width,
                                                 .batch = 2,
                                                 .steps = steps,
                                                 .fire_rate = 1,
                                                 .step_size = variant % 3 == 0 ? 0.7F : 1},
                                                variant);
                options.own_filters = steps >= 3;
                options.start = steps % 2 == 1 ? Start::random : Start::patch;
                options.empty_alpha = variant % 5 == 0 ? 0.3F : 0.02F;
                const Drawn drawn = draw(options);
                const Result result = run(drawn.example);
                require_states_agree(result, drawn);
                REQUIRE(result.stepped == result.last);
                REQUIRE(gradient_error(result, drawn) <= 1);
                const double largest = test::largest_magnitude(result.grad_weights);
                REQUIRE((steps == 0 ? largest == 0 : largest > 0));
            }
        }
    }
}

TEST_CASE("a gradient with one wrong entry does not agree with the reference") {
    const Drawn drawn = draw({.batch = 2, .steps = 2, .fire_rate = 1, .start = Start::random});
    Result result = run(drawn.example);
    REQUIRE(gradient_error(result, drawn) <= 1);
    for (const ParameterTensor& tensor : parameter_tensors(true)) {
        Result corrupted = result;
        const auto gradient = std::span(corrupted.grad_weights).subspan(tensor.offset, tensor.size);
        gradient[tensor.size / 2] += 1e-3F * float(test::largest_magnitude(gradient));
        REQUIRE(gradient_error(corrupted, drawn) > 1);
    }
    result.grad_first[7] += 1e-3F * float(test::largest_magnitude(result.grad_first));
    REQUIRE(gradient_error(result, drawn) > 1);
}

TEST_CASE("a second rollout on the same memory leaves nothing of the first") {
    const Case example = test::random_case({.batch = 2, .steps = 3, .fire_rate = 1}, 1);
    const OwnStream stream;
    UnfusedRollout rollout = rollout_of(example);
    const auto first = upload(example.state), grad_last = upload(example.grad_last);
    const DeviceArray<float> last(first.size(), "a test");
    const DeviceArray<float> grad_weights(example.weights.all().size(), "a test");
    std::vector<std::vector<float>> found;
    for (int i = 0; i < 2; ++i) {
        rollout.forward(last.data(), first.data(), 3, stream);
        const auto grad = upload(example.grad_last);  // the gradients in the same memory
        rollout.backward(grad.data(), grad_weights.data(), grad.data(), stream);
        stream.wait();
        found.push_back(download(grad.data(), grad.size()));
        found.push_back(download(grad_weights.data(), grad_weights.size()));
    }
    const Result expected = run(example);
    REQUIRE(found[0] == expected.grad_first);
    REQUIRE(found[1] == expected.grad_weights);
    REQUIRE(found[2] == found[0]);
    REQUIRE(found[3] == found[1]);
}

TEST_CASE("at fire rate 0.5 half of the cells fire, others in each step") {
    const auto masks = fired(
        run(counting_case({.height = 40, .width = 31, .batch = 2, .steps = 3, .fire_rate = 0.5F})));
    REQUIRE(masks.size() == 3);
    const int cells = 2 * 40 * 31;
    const double deviations = 5 * std::sqrt(cells) / 2;  // of a binomial count
    for (std::size_t step = 0; step < masks.size(); ++step) {
        int firing = 0, different = 0;
        const auto& mask = masks[step];
        const auto& other = masks[(step + 1) % masks.size()];
        for (int cell = 0; cell < cells; ++cell) {
            firing += mask[cell];
            different += mask[cell] != other[cell];
        }
        REQUIRE(std::abs(firing - cells / 2.0) <= deviations);
        REQUIRE(std::abs(different - cells / 2.0) <= deviations);
    }
}

TEST_CASE("no cell fires at fire rate 0 and each does at 1") {
    for (const float fire_rate : {0.0F, 1.0F}) {
        const auto masks = fired(
            run(counting_case({.height = 9, .width = 31, .steps = 2, .fire_rate = fire_rate})));
        REQUIRE(masks.size() == 2);
        for (const auto& mask : masks) {
            REQUIRE(std::ranges::count(mask, true) == (fire_rate == 1 ? std::ssize(mask) : 0));
        }
    }
}

TEST_CASE("gradients go through the cells that fired and no others") {
    // The loss is the last state's channel 9, and b2[9] is worth step_size for each fired cell.
    Case example = counting_case(
        {.height = 9, .width = 31, .batch = 2, .steps = 3, .fire_rate = 0.5F, .step_size = 0.5F});
    for (std::size_t i = 0; i < example.grad_last.size(); ++i) {
        example.grad_last[i] = i % channels == 9 ? 1.0F : 0.0F;
    }
    const Result result = run(example);
    std::ptrdiff_t firing = 0;
    for (const auto& mask : fired(result)) firing += std::ranges::count(mask, true);
    REQUIRE(firing > 0);
    const ConstWeightsView grad = view_parameters(result.grad_weights.data(), true);
    for (int c = 0; c < channels; ++c) {
        REQUIRE(grad.b2[c] == (c == 9 ? 0.5F * static_cast<float>(firing) : 0));
    }
    REQUIRE(result.grad_first == example.grad_last);
}

TEST_CASE("threads and blocks of the unfused rollout in reverse order give the same bits") {
    for (const int variant : {4, 3}) {
        const Case example = test::random_case(
            with_rule({.height = 18, .width = 9, .batch = 2, .steps = 3}, variant), 1);
        const Result expected = run(example);
        REQUIRE(test::largest_magnitude(expected.grad_weights) > 0);
        const test::BlockSchedule reverse(executor::Order::reverse);
        REQUIRE((run(example) == expected));
    }
}

TEST_CASE("TF32 is float32 with coarser factors") {
    const Drawn drawn = draw({.height = 7, .width = 6, .steps = 2, .fire_rate = 1});
    const Result coarse = run(drawn.example, true);
    REQUIRE(coarse.last != run(drawn.example).last);
    // Factors have ten bits behind the point where float32 has 23.
    require_states_agree(coarse, drawn, 0x1p13);
    REQUIRE(gradient_error(coarse, drawn, 0x1p13) <= 1);
    REQUIRE(gradient_error(coarse, drawn) > 1);
}

TEST_CASE("an unfused rollout that is one graph gives the same bits") {
    const Case example = test::random_case({.batch = 2, .steps = 3, .fire_rate = 1}, 1);
    const Result expected = run(example);
    const OwnStream stream;
    UnfusedRollout rollout = rollout_of(example);
    const auto first = upload(example.state), grad_last = upload(example.grad_last);
    const DeviceArray<float> last(first.size(), "a test"), grad_first(first.size(), "a test");
    const DeviceArray<float> grad_weights(example.weights.all().size(), "a test");
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing");
    rollout.forward(last.data(), first.data(), 3, stream);
    rollout.backward(grad_first.data(), grad_weights.data(), grad_last.data(), stream);
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream, &graph), "capturing");
    cudaGraphExec_t executable = nullptr;
    check(cudaGraphInstantiate(&executable, graph), "instantiating");
    check(cudaGraphLaunch(executable, stream), "launching");
    stream.wait();
    REQUIRE(download(last.data(), last.size()) == expected.last);
    REQUIRE(download(grad_first.data(), grad_first.size()) == expected.grad_first);
    REQUIRE(download(grad_weights.data(), grad_weights.size()) == expected.grad_weights);
    check(cudaGraphExecDestroy(executable), "destroying");
    check(cudaGraphDestroy(graph), "destroying");
}

TEST_CASE("the unfused rollout refuses sizes that it has no room for") {
    const Rule rule;
    const Weights weights;
    REQUIRE_THROWS_AS(UnfusedRollout(rule, weights, 0, 1, 1, 1, false), InvalidArgument);
    REQUIRE_THROWS_AS(UnfusedRollout(rule, weights, 1, 1, 1, -1, false), InvalidArgument);
    REQUIRE_THROWS_AS(UnfusedRollout(rule, weights, 1, 4096, 4096, 1, false), InvalidArgument);
    REQUIRE_THROWS_AS(UnfusedRollout({.fire_rate = 2}, weights, 1, 1, 1, 1, false),
                      InvalidArgument);
    UnfusedRollout rollout(rule, weights, 1, 1, 1, 2, false);
    const auto state = upload(std::vector<float>(channels, 1));
    REQUIRE_THROWS_AS(rollout.forward(state.data(), state.data(), 3, nullptr), InvalidArgument);
    REQUIRE_THROWS_AS(rollout.forward(state.data(), state.data(), -1, nullptr), InvalidArgument);
}

TEST_CASE("every kernel of the unfused rollout is run") {
    run(test::random_case({.steps = 1}, 1));
    const std::set<std::string> launched = executor::launched_kernels();
    std::ifstream stream(NCA_CUDA_SOURCE_DIR "/../benchmarks/unfused/unfused.cu");
    int kernels = 0;
    for (std::string word; stream >> word;) {
        const std::size_t end = word.find("_kernel(");  // where it is defined
        if (end == std::string::npos) continue;
        INFO(word);
        REQUIRE(launched.count(word.substr(0, word.find('('))) == 1);
        ++kernels;
    }
    REQUIRE(kernels == 7);
}
