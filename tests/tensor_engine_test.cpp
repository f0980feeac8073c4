// SPDX-License-Identifier: MIT
// The CUDA engine's precisions, executed on a CPU: against the double reference, and in every order
// in which blocks may run.
#include "cuda/engine/cuda_engine.hpp"
#include "cuda/rollout/rollout.hpp"
#include "host/iteration/training_loop.hpp"
#include "tests/support/cases.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/compare.hpp"
#include "tests/support/engine_runs.hpp"
#include "tests/support/precision_errors.hpp"
#include "tests/support/tensor_device.hpp"
#include "tests/support/training.hpp"

#include <nca/engine.hpp>
#include <nca/model.hpp>
#include <nca/simulator.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

using namespace nca;
using executor::Interleaving;
using executor::Order;
using test::BlockSchedule;
using test::Case;
using test::CaseOptions;
using test::cuda_device;
using test::Errors;
using test::errors_of;
using test::expected_first;
using test::relative_error;
using test::Start;
using test::TensorDevice;
using test::tolerance;

namespace {

constexpr Precision tensor_precisions[] = {Precision::precise, Precision::fast};

// Ragged tiles, one and several to a sample, every kind of row.
std::vector<CaseOptions> varied_cases() {
    return {{.height = 19, .width = 21, .batch = 2, .steps = 3, .empty_alpha = 0.2F},
            {.height = 34,
             .width = 10,
             .batch = 1,
             .steps = 3,
             .edges = Edges::zero,
             .life = Life::pre_and_post,
             .own_filters = true,
             .start = Start::random},
            {.height = 16,
             .width = 8,
             .batch = 2,
             .steps = 4,
             .edges = Edges::circular,
             .life = Life::pre_and_post,
             .output_bias = false,
             .fire_rate = 1,
             .start = Start::seed},
            {.height = 20,
             .width = 21,
             .batch = 1,
             .steps = 2,
             .edges = Edges::zero,
             .fire_rate = 0.03F,
             .step_size = 0.5F,
             .start = Start::empty,
             .empty_alpha = 0.2F},
            {.height = 1, .width = 2, .batch = 3, .steps = 5, .own_filters = true}};
}

std::string describe(const CaseOptions& options, Precision precision) {
    return std::to_string(options.height) + " x " + std::to_string(options.width) + ", " +
           std::string(name(precision));
}

}  // namespace

TEST_CASE("every precision agrees with double, one kernel a step", "[gradients]") {
    const TensorDevice device;
    for (const CaseOptions& options : varied_cases()) {
        const Case drawn = test::random_case(options, 3);
        for (const Precision precision : tensor_precisions) {
            INFO(describe(options, precision));
            const auto engine = make_engine(cuda_device(precision, RolloutForm::steps));
            const test::RolloutResult result = test::run_rollout(*engine, drawn);
            const Errors errors = errors_of(result, drawn);
            REQUIRE(errors.states <= tolerance(precision, options.steps));
            REQUIRE(errors.weights <= tolerance(precision, 2 * options.steps));
            REQUIRE(errors.first <= tolerance(precision, 2 * options.steps));
            REQUIRE(test::run_advance(*engine, drawn) == result.states.back());
        }
    }
}

namespace {

// A step whose state and gradient are so many times as large as usual, and hidden units as the
// state, so that they are as far from being switched off as ever.
Case scaled_case(float state_scale, float grad_scale) {
    Case drawn = test::random_case({.height = 19,
                                    .width = 21,
                                    .batch = 2,
                                    .steps = 1,
                                    .start = Start::random,
                                    .empty_alpha = 0.2F},
                                   4);
    for (float& value : drawn.state) value *= state_scale;
    const auto [w1, b1, w2, b2] = drawn.weights.view();
    for (std::size_t i = 0; i < b1_size; ++i) b1[i] *= state_scale;
    for (float& value : drawn.grad_last) value *= grad_scale;
    return drawn;
}

// Of the weights' gradients, relative to the largest of each tensor.
double worst_tensor_error(const std::vector<float>& actual, const std::vector<double>& expected) {
    double worst = 0;
    std::size_t first = 0;
    for (const std::size_t size : {w1_size, b1_size, w2_size, b2_size}) {
        const auto part = [&](const auto& values) {
            return std::vector(values.begin() + static_cast<std::ptrdiff_t>(first),
                               values.begin() + static_cast<std::ptrdiff_t>(first + size));
        };
        worst = std::max(worst, relative_error(part(actual), part(expected)));
        first += size;
    }
    return worst;
}

}  // namespace

TEST_CASE("a step back keeps its digits, whatever the size of states and gradients",
          "[gradients]") {
    const TensorDevice device;
    for (const float state_scale : {1e-4F, 1.0F, 1e4F}) {
        for (const float grad_scale : {1e-6F, 1.0F, 1e6F}) {
            INFO("states of " << state_scale << ", gradients of " << grad_scale);
            const Case drawn = scaled_case(state_scale, grad_scale);
            for (const Precision precision : tensor_precisions) {
                const auto engine = make_engine(cuda_device(precision, RolloutForm::steps));
                const test::RolloutResult result = test::run_rollout(*engine, drawn);
                reference::WeightValues<double> grad_weights(drawn.weights.has_output_bias());
                const std::vector<double> first = expected_first(result, drawn, grad_weights);
                REQUIRE(test::largest_magnitude(first) > 0);
                REQUIRE(worst_tensor_error(result.gradients.weights, grad_weights.all) <=
                        tolerance(precision, 2));
                REQUIRE(relative_error(result.gradients.first, first) <= tolerance(precision, 2));
            }
        }
    }
}

TEST_CASE("a step back makes nothing of nothing, and of what is infinite no number") {
    const TensorDevice device;
    for (const Precision precision : tensor_precisions) {
        const auto engine = make_engine(cuda_device(precision, RolloutForm::steps));
        const test::RolloutResult zero = test::run_rollout(*engine, scaled_case(1, 0));
        for (const float grad : zero.gradients.weights) REQUIRE(grad == 0);
        for (const float grad : zero.gradients.first) REQUIRE(grad == 0);

        Case drawn = scaled_case(1, 1);
        const auto fire = reference::fire_mask(drawn.options.key, drawn.rule.fire_rate, 0, 0,
                                               drawn.height, drawn.width);
        const auto cell = std::find(fire.begin(), fire.end(), true) - fire.begin();
        drawn.grad_last[std::size_t(cell) * channels + 5] = HUGE_VALF;
        const auto grads = test::run_rollout(*engine, drawn).gradients.weights;
        std::size_t first = 0;
        for (const std::size_t size : {w1_size, b1_size, w2_size, b2_size}) {
            int spoilt = 0;
            for (std::size_t i = 0; i < size; ++i) spoilt += !std::isfinite(grads[first + i]);
            REQUIRE(spoilt > 0);
            first += size;
        }
    }
}

TEST_CASE("where the first layer has no weights, or small ones, gradients keep their digits") {
    const TensorDevice device;
    for (const float scale : {0.0F, 1e-5F}) {
        Case drawn = test::random_case({.height = 12, .width = 12, .steps = 2}, 3);
        const auto [w1, b1, w2, b2] = drawn.weights.view();
        for (std::size_t i = 0; i < w1_size; ++i) w1[i] *= scale;
        for (const RolloutForm form : {RolloutForm::steps, RolloutForm::bands}) {
            for (const Precision precision : tensor_precisions) {
                INFO("times " << scale << ", " << name(precision));
                const auto engine = make_engine(cuda_device(precision, form));
                const Errors errors = errors_of(test::run_rollout(*engine, drawn), drawn);
                REQUIRE(errors.states <= tolerance(precision, 2));
                REQUIRE(errors.weights <= tolerance(precision, 4));
                REQUIRE(errors.first <= tolerance(precision, 4));
            }
        }
    }
}

TEST_CASE("of an infinite cell no gradient of its rows is a number") {
    const TensorDevice device;
    for (const Precision precision : tensor_precisions) {
        Case drawn = scaled_case(1, 1);
        const auto fire = reference::fire_mask(drawn.options.key, drawn.rule.fire_rate, 0, 0,
                                               drawn.height, drawn.width);
        const auto cell = std::find(fire.begin(), fire.end(), true) - fire.begin();
        drawn.state[std::size_t(cell) * channels + 5] = HUGE_VALF;
        const auto engine = make_engine(cuda_device(precision, RolloutForm::steps));
        const auto result = test::run_rollout(*engine, drawn).gradients;
        const auto spoilt = [](const std::vector<float>& values) {
            return std::any_of(values.begin(), values.end(),
                               [](float value) { return !std::isfinite(value); });
        };
        REQUIRE(spoilt(result.weights));
        REQUIRE(spoilt(result.first));
    }
}

TEST_CASE("blocks of a step in any order, however many there are, give the same bits") {
    const Case drawn = test::random_case({.height = 18,
                                          .width = 18,
                                          .batch = 2,
                                          .steps = 3,
                                          .life = Life::pre_and_post,
                                          .start = Start::random},
                                         2);
    for (const Precision precision : tensor_precisions) {
        const auto run = [&](int multiprocessors) {
            const TensorDevice device(multiprocessors);
            const auto engine = make_engine(cuda_device(precision, RolloutForm::steps));
            return test::run_rollout(*engine, drawn);
        };
        const test::RolloutResult expected = run(1);  // several tiles a block
        REQUIRE((run(9) == expected));                // and one
        const BlockSchedule schedule(Order::reverse);
        REQUIRE((run(1) == expected));
        REQUIRE((run(9) == expected));
    }
}

TEST_CASE("steps on an 8.6, which has less shared memory, give the bits of a 9.0") {
    const Case drawn = test::random_case({.height = 19, .width = 21, .steps = 2}, 5);
    const TensorDevice device;
    const auto run = [&](Precision precision) {
        const auto engine = make_engine(cuda_device(precision, RolloutForm::steps));
        return test::run_rollout(*engine, drawn);
    };
    const test::RolloutResult precise = run(Precision::precise), fast = run(Precision::fast);
    executor::set_compute_capability(8, 6);
    executor::set_shared_limit(99 * 1024);
    REQUIRE((run(Precision::precise) == precise));
    REQUIRE((run(Precision::fast) == fast));
}

namespace {

// What a few iterations leave behind.
std::vector<std::uint8_t> train_a_little(const char* preset_name, const Device& device) {
    Trainer trainer(test::small_picture(), test::small_config(preset_name), device);
    trainer.iterate(3);
    return test::checkpoint_bytes(trainer);
}

}  // namespace

TEST_CASE("training on tensor cores by steps is the same in any schedule") {
    const TensorDevice device(1);
    const Device fast = cuda_device(Precision::fast, RolloutForm::steps);
    const auto expected = train_a_little("regenerating", fast);
    const BlockSchedule schedule(Order::reverse);
    REQUIRE(train_a_little("regenerating", fast) == expected);
}

namespace {

// Whether such a grid runs in bands here.
void require_bands(int batch, int height, int width) {
    const auto engine = make_engine(cuda_device(Precision::precise));
    REQUIRE(engine->rollout_form(batch, height, width).form == RolloutForm::bands);
}

// One band and several, rows of two words and of four, every kind of row.
std::vector<CaseOptions> cases_in_bands() {
    return {{.height = 19, .width = 21, .batch = 2, .steps = 3, .empty_alpha = 0.2F},
            {.height = 24,
             .width = 10,
             .batch = 1,
             .steps = 4,
             .edges = Edges::zero,
             .life = Life::pre_and_post,
             .start = Start::random},
            {.height = 3,
             .width = 70,
             .batch = 3,
             .steps = 3,
             .edges = Edges::circular,
             .life = Life::pre_and_post,
             .output_bias = false,
             .fire_rate = 1,
             .start = Start::seed}};
}

}  // namespace

TEST_CASE("an engine in bands agrees with double, and repeats to the bit", "[gradients]") {
    const TensorDevice device;
    require_bands(2, 19, 21);
    for (const CaseOptions& options : cases_in_bands()) {
        const Case drawn = test::random_case(options, 3);
        for (const Precision precision : tensor_precisions) {
            INFO(describe(options, precision));
            const auto engine = make_engine(cuda_device(precision, RolloutForm::bands));
            const test::RolloutResult result = test::run_rollout(*engine, drawn);
            const Errors errors = errors_of(result, drawn);
            REQUIRE(errors.states <= tolerance(precision, options.steps));
            REQUIRE(errors.weights <= tolerance(precision, 2 * options.steps));
            REQUIRE(errors.first <= tolerance(precision, 2 * options.steps));
            REQUIRE(test::run_advance(*engine, drawn) == result.states.back());
            REQUIRE((test::run_rollout(*engine, drawn) == result));
        }
    }
}

TEST_CASE("gradients come in at any step in every precision and form, on a tape of the caller's",
          "[gradients]") {
    const TensorDevice device;
    require_bands(2, 19, 21);
    for (CaseOptions options : cases_in_bands()) {
        options.gradient_steps = {options.steps, 0, 1};
        if (options.batch > 1) {
            options.from_steps = {options.steps, 1, 2};
            options.from_steps.resize(std::size_t(options.batch));
        }
        const Case drawn = test::random_case(options, 3);
        for (const Precision precision : tensor_precisions) {
            for (const RolloutForm form : {RolloutForm::steps, RolloutForm::bands}) {
                INFO(describe(options, precision));
                const Device asked_for = cuda_device(precision, form);
                const auto engine = make_engine(asked_for);
                const test::CallersTape memory(*engine, drawn, options.steps, false);
                const test::RolloutResult result =
                    test::run_rollout(*engine, drawn, memory.buffers());
                const Errors errors = errors_of(result, drawn);
                REQUIRE(errors.weights <= tolerance(precision, 2 * options.steps));
                REQUIRE(errors.first <= tolerance(precision, 2 * options.steps));
                REQUIRE((test::run_rollout(*engine, drawn) == result));

                const auto other = make_engine(asked_for);
                const test::CallersTape copy(*other, memory);
                const test::Uploaded on_other(*other, drawn);
                const Tape opened =
                    other->open_tape(drawn.rule, on_other.weights, drawn.batch, drawn.height,
                                     drawn.width, drawn.options, copy.buffers());
                REQUIRE((test::result_of(*other, opened, drawn) == result));
            }
        }
    }
}

TEST_CASE("more steps than go in one launch are those of a tape", "[long]") {
    const TensorDevice device;
    require_bands(1, 3, 4);
    const Case drawn = test::random_case({.height = 3,
                                          .width = 4,
                                          .steps = 2 * cuda::most_advanced_steps + 3,
                                          .life = Life::pre_and_post,
                                          .output_scale = 1e-3F},
                                         1);
    const auto engine = make_engine(cuda_device(Precision::precise, RolloutForm::bands));
    const test::RolloutResult taped = test::run_rollout(*engine, drawn);
    REQUIRE(test::largest_magnitude(taped.states.back()) > 0);
    REQUIRE(test::run_advance(*engine, drawn) == taped.states.back());
}

TEST_CASE("training in bands is training in steps, but for the order of sums") {
    const TensorDevice device;
    require_bands(2, 18, 18);
    std::vector<TrainingConfig> configs;
    for (const char* preset_name : {"notebook", "growing", "regenerating"}) {
        configs.push_back(test::small_config(preset_name));
    }
    configs.push_back(test::with_loss_steps(configs.back()));
    for (TrainingConfig& config : configs) {
        INFO(config.preset << ", steps of the loss below " << config.latest_loss_step);
        config.padding = 5;  // 18 x 18 cells
        Trainer steps(test::small_picture(), config,
                      cuda_device(Precision::precise, RolloutForm::steps));
        Trainer bands(test::small_picture(), config,
                      cuda_device(Precision::precise, RolloutForm::bands));
        for (int i = 0; i < 4; ++i) {
            const IterationReport expected = steps.iterate(), report = bands.iterate();
            REQUIRE(std::abs(report.loss / expected.loss - 1) <= 1e-5);
            REQUIRE(std::abs(report.gradient_norm / expected.gradient_norm - 1) <= 1e-4);
            REQUIRE(report.dead == expected.dead);
            REQUIRE(report.reset == expected.reset);
        }
        REQUIRE(relative_error(bands.model().weights.all(), steps.model().weights.all()) <= 1e-4);
        REQUIRE(relative_error(bands.states_after(), steps.states_after()) <= 1e-4);
    }
}

TEST_CASE("training in bands is the same in any schedule, alone or beside others") {
    const TensorDevice device(8);
    require_bands(3, 12, 12);
    Device fast = cuda_device(Precision::fast, RolloutForm::bands);
    const auto expected = train_a_little("regenerating", fast);
    fast.engines_on_device = 4;
    for (const Interleaving interleaving :
         {Interleaving::as_far_as_possible, Interleaving::one_block_late, Interleaving::random}) {
        const BlockSchedule schedule(Order::reverse, interleaving);
        REQUIRE(train_a_little("regenerating", fast) == expected);
    }
}

TEST_CASE("iterations in bands that are queued are those that are run one by one") {
    const TensorDevice device;
    require_bands(2, 12, 12);
    const TrainingConfig persistent = test::small_config("persistent");
    for (const TrainingConfig& config :
         {test::small_config("growing"), persistent, test::with_loss_steps(persistent)}) {
        Trainer single(test::small_picture(), config, cuda_device(Precision::fast));
        Trainer queued(test::small_picture(), config, cuda_device(Precision::fast));
        int reports = 0;
        while (reports < 5) {
            for (const IterationReport& expected : queued.iterate(5 - reports)) {
                REQUIRE(single.iterate().loss == expected.loss);
                ++reports;
            }
        }
        REQUIRE(test::checkpoint_bytes(single) == test::checkpoint_bytes(queued));
    }
}

TEST_CASE("an iteration in bands that fails changes nothing, and training recovers") {
    const TensorDevice device;
    require_bands(2, 12, 12);
    TrainingConfig config = test::small_config("growing");
    config.learning_rate = 10;
    Trainer trainer(test::small_picture(), config, cuda_device(Precision::fast));
    std::string recovery;
    for (int i = 0; i < 12 && recovery.empty(); ++i) recovery = trainer.iterate().recovery;
    REQUIRE(!recovery.empty());
    const Model model = trainer.model();
    for (const float w : model.weights.all()) REQUIRE(std::isfinite(w));
    REQUIRE(std::isfinite(trainer.iterate().loss));
}

TEST_CASE("a captured rollout in bands may be replayed behind one of another grid") {
    const TensorDevice device;
    require_bands(1, 18, 10);
    const Case small = test::random_case({.height = 18, .width = 10, .steps = 4}, 1);
    const Case other = test::random_case({.height = 24, .width = 20, .batch = 2, .steps = 4}, 2);
    const auto engine = make_engine(cuda_device(Precision::fast, RolloutForm::bands));
    const std::vector<float> expected = test::run_advance(*engine, small);
    test::Uploaded on_engine(*engine, small);
    cudaStream_t stream = nullptr;
    REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    engine->advance(small.rule, on_engine.weights, on_engine.state.view(), small.options, stream);
    REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
    test::run_rollout(*engine, other);
    REQUIRE(cudaGraphLaunch(executable, stream) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    REQUIRE(test::download(*engine, on_engine.state.view()) == expected);
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
}

TEST_CASE("a run goes on in another precision") {
    const TensorDevice device;
    const TrainingConfig config = test::small_config("regenerating");
    const test::TemporaryDirectory folder;
    Trainer first(test::small_picture(), config, cuda_device(Precision::exact));
    first.iterate(2);
    first.save_checkpoint(folder / "checkpoint");
    const double expected = first.iterate().loss;
    for (const Precision precision : tensor_precisions) {
        Trainer second(test::small_picture(), config, cuda_device(precision));
        second.resume(folder / "checkpoint");
        REQUIRE(std::abs(second.iterate().loss / expected - 1) <=
                (precision == Precision::precise ? 1e-5 : 1e-2));
    }
}

TEST_CASE("the gradient of a trained lizard keeps its digits over many steps", "[long]") {
    const TensorDevice device;
    const Model lizard =
        Model::load(NCA_CUDA_SOURCE_DIR "/../data/models/lizard_growing.safetensors");
    const auto gradient_error = [&](Precision precision, int steps,
                                    RolloutForm form = RolloutForm::steps) {
        Case drawn = test::random_case({.height = 40, .width = 40, .steps = steps}, 1);
        drawn.rule = lizard.rule;
        drawn.weights = lizard.weights;
        std::fill(drawn.state.begin(), drawn.state.end(), 0.0F);
        const auto start = lizard.rule.start_values();
        std::copy(start.begin(), start.end(),
                  drawn.state.begin() + (20 * 40 + 20) * std::ptrdiff_t{channels});
        const auto engine = make_engine(cuda_device(precision, form));
        return errors_of(test::run_rollout(*engine, drawn), drawn).weights;
    };
    // As good as float32 needs it to be.
    for (const int steps : {1, 8, 32, 96}) {
        INFO(steps << " steps");
        REQUIRE(gradient_error(Precision::precise, steps) <= 1e-5);
    }
    // Hidden units near zero are switched the other way here and there, and count in full.
    for (const int steps : {8, 32}) {
        REQUIRE(gradient_error(Precision::fast, steps) <= tolerance(Precision::fast, 2 * steps));
    }
    // fp16 has as many digits as TF32.
    REQUIRE(gradient_error(Precision::fast, 8, RolloutForm::bands) <=
            1.1 * gradient_error(Precision::fast, 8));
}
