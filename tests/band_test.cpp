// SPDX-License-Identifier: MIT
// Rollouts in bands, executed on a CPU: every kind of row of cells, cut anywhere, against double,
// and in every order in which blocks and warps may run.
#include "cuda/band_rollout.hpp"
#include "cuda/device_memory.hpp"
#include "tests/support/cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/tensor_device.hpp"

#include <nca/engine.hpp>

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

using namespace nca;
using cuda::BandCut;
using cuda::DeviceArray;
using executor::Interleaving;
using executor::Order;
using test::BlockSchedule;
using test::Case;
using test::CaseOptions;
using test::Start;
using test::TensorDevice;

namespace {

// Full of NaN, as all memory of the executor's device is at first.
template <class T>
DeviceArray<T> empty(std::size_t size) {
    return DeviceArray<T>(size, "a test");
}
template <class T, class Values>
DeviceArray<T> uploaded(const Values& values) {
    DeviceArray<T> array(std::size(values), "a test");
    REQUIRE(cudaMemcpy(array.data(), std::data(values), std::size(values) * sizeof(T),
                       cudaMemcpyHostToDevice) == cudaSuccess);
    return array;
}
template <class T>
std::vector<T> downloaded(const T* from, std::size_t size) {
    std::vector<T> values(size);
    REQUIRE(cudaMemcpy(values.data(), from, size * sizeof(T), cudaMemcpyDeviceToHost) ==
            cudaSuccess);
    return values;
}

BandCut cut_at(std::vector<int> heights) {
    BandCut cut;
    for (const int height : heights) {
        cut.first_row[cut.bands + 1] = cut.first_row[cut.bands] + height;
        ++cut.bands;
    }
    return cut;
}

struct BandResult {
    std::vector<float> states;      // [steps + 1, cells, 16]
    std::vector<float> last;        // of a rollout without a tape
    std::vector<float> gradients;   // as Weights::all()
    std::vector<float> grad_first;  // [cells, 16]
    std::vector<cuda::LossPartial> loss;

    bool operator==(const BandResult& other) const {
        return states == other.states && last == other.last && gradients == other.gradients &&
               grad_first == other.grad_first;
    }
};

// A rollout, back from the case's gradient, or from the loss with its target.
BandResult run_bands(const Case& drawn, const BandCut& cut, Precision precision,
                     bool from_loss = false) {
    const cuda::Grid grid = {drawn.batch, drawn.height, drawn.width};
    const auto steps = static_cast<std::size_t>(drawn.options.steps);
    const std::size_t rows = std::size_t(grid.batch) * grid.height *
                             static_cast<std::size_t>(cuda::band_words(grid.width));
    const std::size_t bands = std::size_t(grid.batch) * static_cast<std::size_t>(cut.bands);
    REQUIRE(cuda::band_forward_fits(grid, cut, precision));
    REQUIRE(cuda::band_backward_fits(grid, cut, precision));

    const auto weights = uploaded<float>(drawn.weights.all());
    const auto model = empty<cuda::PackedModel>(1);
    const bool output_bias = drawn.weights.has_output_bias();
    cuda::launch_pack_model(model.data(), view_parameters<const float>(weights.data(), output_bias),
                            drawn.options.key, nullptr, precision, nullptr);
    const auto first = uploaded<float>(drawn.state), target = uploaded<float>(drawn.target);
    const auto grad = uploaded<float>(drawn.grad_last);
    const auto fire = empty<std::uint32_t>(steps * rows);
    const auto spill = empty<float>(bands * static_cast<std::size_t>(cut.most_rows() + 2) *
                                    static_cast<std::size_t>(grid.width) * channels);
    const auto states = empty<float>((steps + 1) * grid.floats());
    const auto life = empty<std::uint32_t>((steps + 1) * rows);
    const auto magnitude = empty<std::uint32_t>(steps * bands);
    const auto lists =
        empty<unsigned char>(steps * bands * cuda::band_list_bytes(grid, cut, precision));
    const auto loss = empty<cuda::LossPartial>(bands);
    const auto grad_first = empty<float>(grid.floats());
    const auto partial = empty<cuda::PartialGradients>(bands);
    const auto last = empty<float>(grid.floats());

    cuda::BandRollout rollout;
    rollout.grid = grid;
    rollout.rule = cuda::step_rule(drawn.rule);
    rollout.cut = cut;
    rollout.steps = drawn.options.steps;
    rollout.model = model.data();
    rollout.fire = fire.data();
    rollout.spill = spill.data();
    rollout.first_state = first.data();
    rollout.last_state = last.data();
    cuda::launch_band_fire(rollout, nullptr);
    cuda::launch_band_forward(rollout, precision, nullptr);
    rollout.last_state = nullptr;
    rollout.states = states.data();
    rollout.life = life.data();
    rollout.magnitude = magnitude.data();
    rollout.lists = lists.data();
    if (from_loss) {
        rollout.target = target.data();
        rollout.loss = loss.data();
        rollout.loss_scale = cuda::loss_scale(grid);
    } else {
        rollout.grad_last = grad.data();
    }
    rollout.grad_first = grad_first.data();
    rollout.partial = partial.data();
    cuda::launch_band_forward(rollout, precision, nullptr);
    cuda::launch_band_lists(rollout, precision, nullptr);
    cuda::launch_band_backward(rollout, precision, nullptr);
    const auto gradients = empty<float>(parameter_count(output_bias));
    const auto has_partial = uploaded<std::uint32_t>(std::vector<std::uint32_t>(bands, 1));
    cuda::launch_reduce_gradients(view_parameters(gradients.data(), output_bias), partial.data(),
                                  has_partial.data(), static_cast<int>(bands), false, nullptr);

    BandResult result;
    result.states = downloaded(states.data(), (steps + 1) * grid.floats());
    result.last = downloaded(last.data(), grid.floats());
    result.gradients = downloaded(gradients.data(), parameter_count(output_bias));
    result.grad_first = downloaded(grad_first.data(), grid.floats());
    result.loss = downloaded(loss.data(), from_loss ? bands : 0);
    return result;
}

// Relative to the norm of what is expected; infinite where anything is not finite.
template <class A, class B>
double relative_error(const A& actual, const B& expected) {
    REQUIRE(std::size(actual) == std::size(expected));
    double error = 0, norm = 0;
    for (std::size_t i = 0; i < std::size(actual); ++i) {
        error += std::pow(double(actual[i]) - expected[i], 2);
        norm += std::pow(double(expected[i]), 2);
    }
    if (error == 0) return 0;
    return std::isfinite(error) && norm > 0 ? std::sqrt(error / norm)
                                            : std::numeric_limits<double>::infinity();
}

struct Errors {
    double step;        // the largest of a step's change from the state before
    double life;        // cells whose life differs, of those whose alphas are not close to 0.1
    double gradients;   // of the weights
    double grad_first;  // of the first state
};

// Each step against double's from the same state, and the way back in double through these states,
// so that life and hidden units are on or off as they were in the rollout.
Errors errors_of(const BandResult& result, const Case& drawn, bool from_loss = false) {
    const reference::Parameters<double> parameters(drawn.weights);
    reference::Parameters<double> grad_weights(drawn.weights.has_output_bias());
    std::vector<double> grad_first;
    Errors errors = {};
    const std::size_t floats = drawn.state.size();
    std::vector<double> step_error(std::size_t(drawn.options.steps)), step_norm = step_error;
    for (int sample = 0; sample < drawn.batch; ++sample) {
        reference::Rollout<double> rollout;
        for (int step = 0; step <= drawn.options.steps; ++step) {
            const ConstStateView view = {result.states.data() + std::size_t(step) * floats,
                                         drawn.batch, drawn.height, drawn.width, MemorySpace::host};
            rollout.states.push_back(reference::split_batch<double>(view)[std::size_t(sample)]);
            if (step == 0) continue;
            const auto& before = rollout.states[std::size_t(step) - 1];
            rollout.fire.push_back(reference::fire_mask(drawn.options.key, drawn.rule.fire_rate,
                                                        step - 1, sample, drawn.height,
                                                        drawn.width));
            const auto [z, life, next] =
                reference::step_forward(drawn.rule, parameters, before, rollout.fire.back());
            rollout.life.push_back(life);
            auto& error = step_error[std::size_t(step) - 1];
            auto& norm = step_norm[std::size_t(step) - 1];
            for (std::size_t i = 0; i < next.values.size(); ++i) {
                error += std::pow(rollout.states.back().values[i] - next.values[i], 2);
                norm += std::pow(next.values[i], 2);
            }
        }
        auto grad = reference::split_batch<double>(drawn.grad_view())[std::size_t(sample)];
        if (from_loss) {
            const double scale =
                2.0 / (double(drawn.height) * drawn.width * visible_channels * drawn.batch);
            for (int cell = 0; cell < grad.cells(); ++cell) {
                for (int c = 0; c < channels; ++c) {
                    grad.cell(cell)[c] =
                        c < visible_channels
                            ? scale * (rollout.last().cell(cell)[c] -
                                       drawn.target[std::size_t(cell) * visible_channels +
                                                    std::size_t(c)])
                            : 0;
                }
            }
        }
        const auto first =
            reference::rollout_backward(drawn.rule, parameters, rollout, grad, grad_weights);
        grad_first.insert(grad_first.end(), first.values.begin(), first.values.end());
    }
    for (std::size_t i = 0; i < step_error.size(); ++i) {
        const double error = step_error[i] == 0 ? 0 : std::sqrt(step_error[i] / step_norm[i]);
        errors.step = std::max(
            errors.step, std::isfinite(error) ? error : std::numeric_limits<double>::infinity());
    }
    errors.gradients = relative_error(result.gradients, grad_weights.all);
    errors.grad_first = relative_error(result.grad_first, grad_first);
    return errors;
}

struct BandCase {
    CaseOptions options;
    BandCut cut;
};

// Every kind of edge, life, width and cut.
std::vector<BandCase> band_cases() {
    return {
        {{.height = 12, .width = 10, .batch = 2, .steps = 4, .empty_alpha = 0.2F},
         cut_at({3, 5, 4})},
        {{.height = 13,
          .width = 33,
          .steps = 3,
          .edges = Edges::zero,
          .life = Life::pre_and_post,
          .start = Start::random},
         cut_at({4, 3, 6})},
        {{.height = 7, .width = 64, .steps = 3, .life = Life::pre_and_post, .start = Start::random},
         cut_at({4, 3})},
        {{.height = 7,
          .width = 70,
          .batch = 2,
          .steps = 4,
          .edges = Edges::zero,
          .life = Life::post,
          .output_bias = false,
          .fire_rate = 1,
          .step_size = 0.5F,
          .start = Start::random},
         cut_at({3, 4})},
        {{.height = 6, .width = 128, .steps = 2, .start = Start::random}, cut_at({3, 3})},
        {{.height = 3, .width = 1, .steps = 5, .start = Start::random}, cut_at({3})},
        {{.height = 5, .width = 2, .batch = 3, .steps = 3, .edges = Edges::zero}, cut_at({5})},
        {{.height = 9, .width = 5, .steps = 6, .start = Start::seed, .empty_alpha = 0.2F},
         cut_at({3, 3, 3})},
        {{.height = 9, .width = 9, .steps = 3, .start = Start::empty}, cut_at({3, 6})},
        {{.height = 9, .width = 9, .steps = 3, .start = Start::empty, .empty_alpha = 0.2F},
         cut_at({6, 3})},
    };
}

std::string describe(const CaseOptions& options, Precision precision) {
    return std::to_string(options.height) + " x " + std::to_string(options.width) + ", " +
           std::string(name(precision));
}

}  // namespace

TEST_CASE("bands agree with double, however the grid is cut") {
    const TensorDevice device;
    int seed = 1;
    for (const BandCase& one : band_cases()) {
        const Case drawn = test::random_case(one.options, static_cast<std::uint32_t>(seed++));
        for (const Precision precision : {Precision::precise, Precision::fast}) {
            INFO(describe(one.options, precision));
            const BandResult result = run_bands(drawn, one.cut, precision);
            const Errors errors = errors_of(result, drawn);
            // fp16's rounding of operands, in a chain of so many steps.
            const double steps = one.options.steps;
            const bool precise = precision == Precision::precise;
            CHECK(errors.step <= (precise ? 1e-6 : 0x1p-10));
            CHECK(errors.gradients <= (precise ? 2e-6 : std::sqrt(steps) * 0x1p-8));
            CHECK(errors.grad_first <= (precise ? 2e-6 : std::sqrt(steps) * 0x1p-8));
            const std::vector<float> last(
                result.states.end() - static_cast<std::ptrdiff_t>(drawn.state.size()),
                result.states.end());
            CHECK(result.last == last);
        }
    }
}
