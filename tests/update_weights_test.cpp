// SPDX-License-Identifier: MIT
// The end of an iteration in one launch, compared with several launches that do the same.
#include "cuda/device/device_memory.hpp"
#include "cuda/rule/rule_kernels.hpp"
#include "cuda/training/training_kernels.hpp"
#include "tests/support/cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/tensor_device.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

using namespace nca;
using namespace nca::cuda;

namespace {

constexpr BatchShape grid = {3, 4, 5};
constexpr int partials = 11, losses_per_sample = 2;

// A training's memory before an update. The executor's device memory is the host's.
struct Training {
    std::size_t count;
    bool output_bias;
    DeviceArray<float> parameters{3 * count, "parameters"}, good{count, "good weights"},
        anchor{3 * count, "the anchor"}, gradient{count, "the gradient"}, norms{4, "norms"},
        losses{2 * grid.batch, "losses"};
    DeviceArray<double> squares{update_slices, "squares"};
    DeviceArray<PartialGradients> partial{partials, "partial gradients"};
    DeviceArray<LossPartial> loss_partial{grid.batch * losses_per_sample, "partial losses"};
    DeviceArray<BlockArrival> arrivals{update_slices + 1, "arrivals"};
    DeviceArray<TrainingControl> control{1, "control"};
    DeviceArray<PackedModel> model{1, "the packed model"};

    explicit Training(bool with_output_bias)
        : count(parameter_count(with_output_bias)), output_bias(with_output_bias) {
        test::Uniform uniform(1);
        const auto fill = [&](float* values, std::size_t size, float low, float high) {
            std::generate_n(values, size, [&] { return uniform(low, high); });
        };
        fill(parameters.data(), 2 * count, -1, 1);
        fill(parameters.data() + 2 * count, count, 0, 1);
        fill(good.data(), count, 0, 1);
        fill(anchor.data(), 3 * count, 0, 1);
        fill(reinterpret_cast<float*>(partial.data()), std::size_t{partials} * partial_floats,
             -1e-3F, 1e-3F);
        for (std::size_t i = 0; i < loss_partial.size(); ++i) {
            loss_partial.data()[i] = {uniform(0, 1), static_cast<long long>(i)};
        }
        std::fill_n(arrivals.data(), arrivals.size(), BlockArrival{});
        *control.data() = {};
        for (int i = 0; i < 2; ++i) {
            control.data()->plans[i] = {
                {}, adam_rates({.learning_rate = 2e-3F, .update = i + 1}), i == 0};
        }
    }

    AdamArgs adam_args() const {
        return {.weights = parameters.data(),
                .first_moments = parameters.data() + count,
                .second_moments = parameters.data() + 2 * count,
                .grad_weights = gradient.data(),
                .norms = norms.data(),
                .squares = squares.data(),
                .output_bias = output_bias,
                .normalise = true,
                .beta1 = 0.9F,
                .beta2 = 0.999F,
                .epsilon = 1e-7F,
                .rates = {},
                .control = control.data(),
                .good = good.data(),
                .anchor = anchor.data()};
    }

    void update(int blocks, bool close = true) const {
        launch_update_weights({.adam = adam_args(),
                               .partial = partial.data(),
                               .partials = partials,
                               .loss_partial = loss_partial.data(),
                               .losses_per_sample = losses_per_sample,
                               .loss = losses.data(),
                               .living = losses.data() + grid.batch,
                               .squares = squares.data(),
                               .arrivals = arrivals.data(),
                               .packed = &model.data()->tensor,
                               .grid = grid,
                               .close = close},
                              blocks, nullptr);
        REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    }

    // The same but for the batch's loss and its verdict, which loss.cu finds.
    void update_by_parts() const {
        control.data()->outcomes[control.data()->cursor].verdict = Verdict::good;
        launch_reduce_gradients(view_parameters(gradient.data(), output_bias), partial.data(),
                                nullptr, partials, false, nullptr);
        launch_adam(adam_args(), nullptr);
        launch_pack_model(model.data(),
                          view_parameters<const float>(parameters.data(), output_bias), {}, {},
                          nullptr, Precision::fast, nullptr);
        launch_close_iteration(control.data(), nullptr);
        REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    }
};

template <class T>
std::vector<T> values_of(const DeviceArray<T>& array) {
    return {array.data(), array.data() + array.size()};
}

void require_close(const std::vector<float>& actual, const std::vector<float>& expected) {
    REQUIRE(actual.size() == expected.size());
    for (std::size_t i = 0; i < actual.size(); ++i) {
        REQUIRE(std::abs(actual[i] - expected[i]) <= 1e-6 * (1 + std::abs(expected[i])));
    }
}

std::vector<float> tensor_weights(const Training& training) {
    const TensorWeights& weights = training.model.data()->tensor;
    // Without b2, which packing alone clears where the model has none.
    const auto* first = weights.w1_forward[0][0][0];
    return {first, first + (sizeof weights - sizeof weights.b2) / sizeof(float)};
}

}  // namespace

TEST_CASE("an update in one launch is that of its parts, by however many blocks") {
    const test::TensorDevice device;
    for (const bool output_bias : {true, false}) {
        const Training expected(output_bias);
        for (int i = 0; i < 2; ++i) expected.update_by_parts();
        std::vector<float> by_one_block;
        for (const int blocks : {1, 5, 16}) {
            INFO(blocks << " blocks");
            const Training actual(output_bias);
            // The counts of blocks go on from one launch to the next.
            for (int i = 0; i < 2; ++i) actual.update(blocks);
            require_close(values_of(actual.parameters), values_of(expected.parameters));
            require_close(values_of(actual.good), values_of(expected.good));
            require_close(values_of(actual.anchor), values_of(expected.anchor));
            require_close(values_of(actual.gradient), values_of(expected.gradient));
            require_close(values_of(actual.norms), values_of(expected.norms));
            require_close(tensor_weights(actual), tensor_weights(expected));
            REQUIRE(actual.control.data()->cursor == 2);
            REQUIRE(actual.control.data()->failed == 0);
            if (by_one_block.empty()) by_one_block = values_of(actual.parameters);
            REQUIRE(values_of(actual.parameters) == by_one_block);
        }
    }
}

TEST_CASE("an update tells each sample's loss and its living cells") {
    const Training training(true);
    training.update(2, false);
    for (int sample = 0; sample < grid.batch; ++sample) {
        double squares = 0, living = 0;
        for (int i = 0; i < losses_per_sample; ++i) {
            const LossPartial& part = training.loss_partial.data()[sample * losses_per_sample + i];
            squares += part.squares;
            living += double(part.living);
        }
        const double loss = squares / (grid.height * grid.width * visible_channels);
        REQUIRE(std::abs(training.losses.data()[sample] - loss) <= 1e-6);
        REQUIRE(training.losses.data()[grid.batch + sample] == living);
    }
    REQUIRE(training.control.data()->cursor == 0);  // somebody else closes the iteration
    REQUIRE(training.control.data()->outcomes[0].verdict == Verdict::good);
}

TEST_CASE(
    "an iteration whose loss is not finite changes no weight, and the next one changes none") {
    const Training training(true);
    training.loss_partial.data()[3].squares = std::numeric_limits<double>::quiet_NaN();
    const auto before = values_of(training.parameters);
    training.update(3);
    training.loss_partial.data()[3].squares = 0;
    training.update(3);
    REQUIRE(values_of(training.parameters) == before);
    const TrainingControl& control = *training.control.data();
    REQUIRE(control.outcomes[0].verdict == Verdict::loss_not_finite);
    REQUIRE(control.outcomes[1].verdict == Verdict::not_run);
}
