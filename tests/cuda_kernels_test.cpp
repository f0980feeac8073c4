// SPDX-License-Identifier: MIT
// Tests of the CUDA engine that only the executor can make: races, what is queued and when it runs,
// memory, and the messages where something is missing.
#include "cuda/engine/cuda_engine.hpp"
#include "cuda/training/cuda_training_loop.hpp"
#include "host/training/composed_training_loop.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/compare.hpp"
#include "tests/support/engine_runs.hpp"
#include "tests/support/executor/executor.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/tensor_device.hpp"
#include "tests/support/training.hpp"

#include <nca/error.hpp>
#include <nca/simulator.hpp>

#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <string>
#include <thread>

using namespace nca;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::EndsWith;
using test::Case;
using test::CaseOptions;
using test::message_of;
using test::Start;

namespace {

// Leaves so many bytes of device memory for a while.
struct MemoryLeft {
    explicit MemoryLeft(std::size_t bytes) {
        executor::set_memory_limit(executor::memory_in_use() + bytes);
    }
    ~MemoryLeft() { executor::set_memory_limit(std::size_t{8} << 30); }
};

// A case on an engine, and a stream of the caller's.
struct OnStream {
    OnStream(const Device& device, const CaseOptions& options)
        : example(test::random_case(options, 1)),
          engine(make_engine(device)),
          uploaded(*engine, example) {
        REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    }
    ~OnStream() { cudaStreamDestroy(stream); }
    OnStream(const OnStream&) = delete;
    OnStream& operator=(const OnStream&) = delete;

    void advance(int steps) const {
        engine->advance(example.rule, uploaded.weights, uploaded.state.view(),
                        {.steps = steps, .key = {}}, stream);
    }
    void start_again() const {
        engine->copy_from_host(uploaded.state.view().data, example.state, stream);
    }
    // A graph of what the call does; the caller destroys it.
    template <class Call>
    cudaGraphExec_t captured(Call call) const {
        cudaGraph_t graph = nullptr;
        cudaGraphExec_t executable = nullptr;
        REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
        REQUIRE_NOTHROW(call());
        REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
        REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
        cudaGraphDestroy(graph);
        return executable;
    }

    Case example;
    std::unique_ptr<Engine> engine;
    mutable test::Uploaded uploaded;
    cudaStream_t stream = nullptr;
};

std::string text_of(const std::filesystem::path& file) {
    std::ifstream stream(file);
    return {std::istreambuf_iterator<char>(stream), {}};
}

// The names of all kernels that stand in cuda/.
std::set<std::string> kernels_in_sources() {
    std::set<std::string> names;
    const std::regex kernel(R"(__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\()");
    for (const auto& file : std::filesystem::recursive_directory_iterator(NCA_CUDA_SOURCE_DIR)) {
        if (file.path().extension() != ".cu") continue;
        const std::string text = text_of(file.path());
        for (std::sregex_iterator i(text.begin(), text.end(), kernel), end; i != end; ++i) {
            names.insert((*i)[1]);
        }
    }
    return names;
}

// Ragged tiles in both directions, more than one to a block, every kind of row.
std::vector<CaseOptions> varied_cases() {
    return {
        {.height = 19, .width = 21, .batch = 2, .steps = 4, .empty_alpha = 0.2F},
        {.height = 33,
         .width = 9,
         .batch = 1,
         .steps = 3,
         .edges = Edges::zero,
         .life = Life::pre_and_post,
         .start = Start::random},
        {.height = 16, .width = 8, .batch = 1, .steps = 3, .fire_rate = 1, .start = Start::seed},
        {.height = 20,
         .width = 21,
         .batch = 1,
         .steps = 3,
         .fire_rate = 0.03F,
         .step_size = 0.5F,
         .start = Start::empty,
         .empty_alpha = 0.2F},
        {.height = 1, .width = 2, .batch = 3, .steps = 5, .own_filters = true}};
}

// Everything that three iterations leave behind.
std::vector<std::uint8_t> train_a_little(const char* name) {
    Trainer trainer(test::small_picture(), test::small_config(name), Device::cuda());
    for (int i = 0; i < 3; ++i) trainer.iterate();
    return test::checkpoint_bytes(trainer);
}

}  // namespace

TEST_CASE("nothing in cuda/ knows of the tests' executor") {
    // Its name, a condition on the tests, or a function that only the tests could give a body.
    const std::regex known(
        R"([Ee]xecutor|EXECUTOR|the tests|#\s*(?:if|include).*TEST|void\s+\w+\([^)]*\)\s*\{\s*\})");
    for (const char* leftover :
         {"#if defined(NCA_CUDA_EXECUTOR)", "executor::run();", "// as the executor does",
          "#ifdef NCA_TEST", "inline void name_launch(const char*) {}",
          "// For the record of what the tests have run."}) {
        CAPTURE(leftover);
        REQUIRE(std::regex_search(leftover, known));
    }
    int files = 0;
    for (const auto& file : std::filesystem::recursive_directory_iterator(NCA_CUDA_SOURCE_DIR)) {
        if (!file.is_regular_file()) continue;
        CAPTURE(file.path());
        REQUIRE_FALSE(std::regex_search(text_of(file.path()), known));
        ++files;
    }
    REQUIRE(files > 20);
}

TEST_CASE("every kernel in cuda/ is run") {
    const Case example = test::random_case({.steps = 2}, 1);
    const auto engine = make_engine(Device::cuda());
    test::run_rollout(*engine, example);
    test::run_advance(*engine, example);
    train_a_little("regenerating");
    Trainer(test::small_picture(), test::with_loss_steps(test::small_config("growing")),
            Device::cuda())
        .iterate();
    {
        const test::Uploaded on_engine(*engine, example);
        const Tape tape = engine->forward(example.rule, on_engine.weights, on_engine.state.view(),
                                          example.options);
        test::run_backward(*engine, tape, example, Accumulate::no, 0,
                           {.from_steps = std::vector<int>(std::size_t(example.batch), 1)});
    }
    {
        const test::TensorDevice device;
        for (const RolloutForm form : {RolloutForm::steps, RolloutForm::bands}) {
            const Device fast = test::cuda_device(Precision::fast, form);
            test::run_rollout(*make_engine(fast), example);
            Trainer(test::small_picture(), test::small_config("growing"), fast).iterate();
        }
    }
    const std::set<std::string> all = kernels_in_sources();
    REQUIRE(all.size() >= 21);
    REQUIRE(all.count("step_forward_kernel") == 1);
    for (const std::string& name : all) {
        INFO(name);
        REQUIRE(executor::launched_kernels().count(name) == 1);
    }
}

TEST_CASE("threads, warps and blocks that run in reverse order give the same bits") {
    for (const CaseOptions& options : varied_cases()) {
        const Case example = test::random_case(options, 3);
        INFO(options.height << " x " << options.width);
        const auto expected = test::run_rollout(*make_engine(Device::cuda()), example);
        REQUIRE(test::largest_magnitude(expected.gradients.weights) > 0);
        const auto advanced = test::run_advance(*make_engine(Device::cuda()), example);
        REQUIRE(advanced == expected.states.back());
        const test::BlockSchedule reverse(executor::Order::reverse);
        REQUIRE((test::run_rollout(*make_engine(Device::cuda()), example) == expected));
        REQUIRE(test::run_advance(*make_engine(Device::cuda()), example) == advanced);
    }
}

TEST_CASE("training in reverse order gives the same bits") {
    for (const char* name : {"notebook", "growing", "regenerating"}) {
        const auto expected = train_a_little(name);
        const test::BlockSchedule reverse(executor::Order::reverse);
        REQUIRE(train_a_little(name) == expected);
    }
}

TEST_CASE("more tiles than blocks give the gradients of the reference") {
    // 528 tiles for the 512 blocks that keep sums, so that some take two.
    const CaseOptions options = {
        .height = 17, .width = 2105, .batch = 1, .steps = 1, .start = Start::seed};
    const Case example = test::random_case(options, 2);
    const auto expected = test::run_rollout(*make_engine(Device::cuda()), example);
    const test::BlockSchedule reverse(executor::Order::reverse);
    REQUIRE((test::run_rollout(*make_engine(Device::cuda()), example) == expected));
    const auto reference = test::expected_of(example, {0, 0});
    REQUIRE(reference.has_value());
    const double largest = test::largest_magnitude(reference->grad_weights.all);
    REQUIRE(largest > 0);
    REQUIRE(test::worst_error(expected.gradients.weights, reference->grad_weights.all,
                              {1e-5 * largest, 0}) <= 1);
}

TEST_CASE("an iteration that is one graph gives the bits of the four calls") {
    for (const char* name : {"notebook", "growing", "regenerating"}) {
        const TrainingConfig config = test::small_config(name);
        const auto target = make_target(test::small_picture(), config);
        const auto engine = make_engine(Device::cuda());
        const auto graph = make_training_loop(*engine, config, target);
        const auto calls = make_composed_training_loop(*engine, config, target);
        const Parameters initial =
            test::inside(Trainer(test::small_picture(), config, Device::cpu(1))).current;
        graph->load(initial, initial, initial.weights);
        calls->load(initial, initial, initial.weights);
        for (int i = 0; i < 4; ++i) {
            IterationPlan plan = {.steps = 4 + i % 2,
                                  .key = {1, std::uint32_t(i)},
                                  .learning_rate = 2e-3F,
                                  .update = i + 1,
                                  .set_anchor = i == 2,
                                  .samples = {},
                                  .damage = {}};
            if (config.pool > 0) {
                plan.samples = sample_pool(1, i, config.pool, config.batch);
                plan.damage = draw_damage(config, 1, i);
            }
            const IterationOutcome a = graph->run({&plan, 1}).at(0);
            const IterationOutcome b = calls->run({&plan, 1}).at(0);
            REQUIRE(a.verdict == Verdict::good);
            REQUIRE(b.verdict == Verdict::good);
            REQUIRE(a.loss == b.loss);
            REQUIRE(a.dead == b.dead);
            REQUIRE(a.reset == b.reset);
            REQUIRE((graph->pool(config.pool) == calls->pool(config.pool)));
            REQUIRE(graph->states_before() == calls->states_before());
            REQUIRE(graph->states_after() == calls->states_after());
            REQUIRE(std::abs(a.gradient_norm / b.gradient_norm - 1) <= 1e-12);
            REQUIRE(graph->current().weights == calls->current().weights);
            REQUIRE(graph->current().second_moments == calls->current().second_moments);
            REQUIRE(graph->good() == calls->good());
            REQUIRE(graph->anchor().weights == calls->anchor().weights);
            REQUIRE(graph->anchor().first_moments == calls->anchor().first_moments);
        }
    }
}

TEST_CASE("queued iterations are those that are run one by one") {
    const TrainingConfig config = test::with_loss_steps(test::small_config("regenerating"));
    Trainer single(test::small_picture(), config, Device::cuda());
    Trainer queued(test::small_picture(), config, Device::cuda());
    std::vector<IterationReport> reports;
    while (reports.size() < 40) {
        const auto more = queued.iterate(40 - int(reports.size()));
        REQUIRE(more.size() <= 32);
        reports.insert(reports.end(), more.begin(), more.end());
    }
    for (const IterationReport& expected : reports) {
        const IterationReport report = single.iterate();
        REQUIRE(report.iteration == expected.iteration);
        REQUIRE(report.steps == expected.steps);
        REQUIRE(report.loss == expected.loss);
        REQUIRE(report.gradient_norm == expected.gradient_norm);
        REQUIRE(report.reset == expected.reset);
    }
    REQUIRE(test::checkpoint_bytes(single) == test::checkpoint_bytes(queued));
    REQUIRE(single.model().weights == queued.model().weights);
}

TEST_CASE("a queue does what its iterations do one by one where a run loses what it had learnt") {
    TrainingConfig config = test::small_config("growing");
    config.rule.fire_rate = 0;
    Checkpoint checkpoint = test::inside(Trainer(test::small_picture(), config, Device::cuda()));
    checkpoint.progress.learnt = true;
    checkpoint.progress.good_iterations = 90;
    // The median is small at first. Ten losses of a blank image later, when an anchor and a look at
    // whether the run is stuck are due, it is not.
    checkpoint.progress.recent_losses.assign(100, 1e-3);
    std::fill_n(checkpoint.progress.recent_losses.begin() + 20, 45, 900.0);
    Trainer single(test::small_picture(), config, Device::cuda());
    Trainer queued(test::small_picture(), config, Device::cuda());
    test::resume_from(single, checkpoint);
    test::resume_from(queued, checkpoint);
    std::string recovery;
    while (queued.iteration() < 40) {
        for (const IterationReport& expected : queued.iterate(40 - int(queued.iteration()))) {
            const IterationReport report = single.iterate();
            REQUIRE(report.recovery == expected.recovery);
            REQUIRE(report.loss == expected.loss);
            recovery += report.recovery;
        }
    }
    REQUIRE_THAT(recovery, ContainsSubstring("that of a blank image is"));
    REQUIRE(test::checkpoint_bytes(single) == test::checkpoint_bytes(queued));
}

TEST_CASE("a failure in the middle of a queue stops the queue there", "[long]") {
    TrainingConfig config = test::small_config("persistent");
    config.learning_rate = 10;
    Trainer single(test::small_picture(), config, Device::cuda());
    Trainer queued(test::small_picture(), config, Device::cuda());
    int recoveries = 0, cut_short = 0;
    while (queued.iteration() < 30) {
        const auto reports = queued.iterate(30 - int(queued.iteration()));
        cut_short += reports.size() > 1 && !reports.back().recovery.empty();
        for (const IterationReport& expected : reports) {
            const IterationReport report = single.iterate();
            REQUIRE(report.iteration == expected.iteration);
            REQUIRE(report.recovery == expected.recovery);
            REQUIRE((report.loss == expected.loss || !std::isfinite(report.loss)));
            recoveries += !report.recovery.empty();
        }
    }
    REQUIRE(recoveries >= 4);
    REQUIRE(cut_short >= 1);
    REQUIRE(test::checkpoint_bytes(single) == test::checkpoint_bytes(queued));
}

TEST_CASE("iterations that were started before a launch failed count, and training goes on") {
    const TrainingConfig config = test::small_config("growing");
    const auto target = make_target(test::small_picture(), config);
    const Parameters initial(
        test::inside(Trainer(test::small_picture(), config, Device::cuda())).current.weights);
    const auto make = [&] {
        const auto engine = make_engine(Device::cuda());
        auto loop = make_training_loop(*engine, config, target);
        loop->load(initial, initial, initial.weights);
        return loop;
    };
    const auto plans = [&](std::uint32_t first, int count) {
        std::vector<IterationPlan> result;
        for (int i = 0; i < count; ++i) {
            result.push_back({.steps = 5,
                              .key = {first + std::uint32_t(i), 1},
                              .learning_rate = 1e-2F,
                              .samples = {},
                              .damage = {}});
        }
        return result;
    };
    const auto interrupted = make(), whole = make();
    executor::fail_graph_launch(0);
    REQUIRE_THAT(message_of<CudaError>([&] { interrupted->run(plans(10, 3)); }),
                 ContainsSubstring("starting an iteration"));
    REQUIRE((interrupted->current().weights == initial.weights));
    executor::fail_graph_launch(1);
    const auto outcomes = interrupted->run(plans(10, 3));
    REQUIRE(outcomes.size() == 1);
    REQUIRE(outcomes[0].verdict == Verdict::good);
    interrupted->run(plans(20, 2));
    whole->run(plans(10, 1));
    whole->run(plans(20, 2));
    REQUIRE((interrupted->current().weights == whole->current().weights));
}

TEST_CASE("a trainer counts what was started before a launch failed") {
    const TrainingConfig config = test::small_config("regenerating");
    Trainer interrupted(test::small_picture(), config, Device::cuda());
    Trainer whole(test::small_picture(), config, Device::cuda());
    executor::fail_graph_launch(3);
    REQUIRE(interrupted.iterate(8).size() == 3);
    REQUIRE(interrupted.iteration() == 3);
    while (interrupted.iteration() < 8) interrupted.iterate(8 - int(interrupted.iteration()));
    while (whole.iteration() < 8) whole.iterate();
    REQUIRE(test::checkpoint_bytes(interrupted) == test::checkpoint_bytes(whole));
}

TEST_CASE("training that gives up behind good iterations reports those first") {
    TrainingConfig config = test::small_config("growing");
    config.learning_rate = 10;
    Checkpoint checkpoint = test::inside(Trainer(test::small_picture(), config, Device::cuda()));
    checkpoint.progress.failures = 12;
    Trainer trainer(test::small_picture(), config, Device::cuda());
    test::resume_from(trainer, checkpoint);
    const auto reports = trainer.iterate(32);
    REQUIRE(!reports.empty());
    for (const IterationReport& report : reports) REQUIRE(report.recovery.empty());
    REQUIRE_THAT(message_of<Error>([&] { trainer.iterate(32); }),
                 ContainsSubstring("failed 13 times"));
}

TEST_CASE("a run started on the CPU continues on CUDA, and the other way round") {
    const TrainingConfig config = test::small_config("regenerating");
    for (const bool to_cuda : {false, true}) {
        const test::TemporaryDirectory folder;
        const Device from = to_cuda ? Device::cpu(1) : Device::cuda();
        const Device to = to_cuda ? Device::cuda() : Device::cpu(1);
        Trainer first(test::small_picture(), config, from);
        for (int i = 0; i < 3; ++i) first.iterate();
        first.save_checkpoint(folder / "checkpoint");
        Trainer second(test::small_picture(), config, to);
        second.resume(folder / "checkpoint");
        REQUIRE(test::checkpoint_bytes(first) == test::checkpoint_bytes(second));
        const double expected = first.iterate().loss;
        // The same masks and weights: only the order of sums differs.
        REQUIRE(std::abs(second.iterate().loss / expected - 1) <= 1e-5);
    }
}

TEST_CASE("steps are queued on the stream and have not run when the call returns") {
    const Case example = test::random_case({.steps = 3}, 1);
    const auto engine = make_engine(Device::cuda());
    test::Uploaded on_engine(*engine, example);
    const auto expected = test::run_rollout(*engine, example);
    const Buffer grad = engine->allocate(parameter_count(true));
    cudaStream_t stream = nullptr;
    REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    {
        const Tape tape = engine->forward(example.rule, on_engine.weights, on_engine.state.view(),
                                          example.options, stream);
        REQUIRE(cudaStreamQuery(stream) == cudaErrorNotReady);
        State grad_state = engine->make_state(example.batch, example.height, example.width);
        engine->copy_from_host(grad_state.view().data, example.grad_last, stream);
        engine->backward(tape, grad_state.view(), view_parameters(grad.data(), true),
                         Accumulate::no, stream);
        engine->advance(example.rule, on_engine.weights, on_engine.state.view(), example.options,
                        stream);
        REQUIRE(cudaStreamQuery(stream) == cudaErrorNotReady);
        // Another stream of the caller's sees all of it: the engine keeps its calls in order.
        REQUIRE(test::download(*engine, grad.data(), grad.size()) == expected.gradients.weights);
        REQUIRE(test::download(*engine, on_engine.state.view()) == expected.states.back());
    }
    REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
}

TEST_CASE("steps can be captured into a graph of the caller's") {
    const OnStream on(Device::cuda(), {.height = 9, .width = 17, .steps = 2});
    // The first call makes the scratch, the second the result that the graph must have.
    on.advance(2);
    on.start_again();
    on.advance(2);
    on.advance(2);
    const auto expected = test::download(*on.engine, on.uploaded.state.view());
    on.start_again();

    const cudaGraphExec_t graph = on.captured([&] { on.advance(2); });
    for (int i = 0; i < 2; ++i) REQUIRE(cudaGraphLaunch(graph, on.stream) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(on.stream) == cudaSuccess);
    REQUIRE(test::download(*on.engine, on.uploaded.state.view()) == expected);
    cudaGraphExecDestroy(graph);
}

TEST_CASE("many steps can be captured behind a call of few, whose kernels are others") {
    const test::TensorDevice device;
    const OnStream on(test::cuda_device(Precision::fast), {.height = 18, .width = 10});
    on.advance(2);
    cudaGraphExecDestroy(on.captured([&] { on.advance(12); }));
}

TEST_CASE("a graph of the caller's stays valid when a later call needs more scratch") {
    const auto precision = GENERATE(Precision::exact, Precision::fast);
    const test::TensorDevice device;
    const OnStream on(test::cuda_device(precision), {.height = 18, .width = 10});
    State grad = on.engine->make_state(1, on.example.height, on.example.width);
    Buffer grad_weights = on.engine->allocate(on.example.weights.all().size());
    Buffer sums = on.engine->allocate(2);
    const Buffer target = test::upload(*on.engine, on.example.target);
    const auto roll = [&](int steps) {
        Tape tape =
            on.engine->forward(on.example.rule, on.uploaded.weights, on.uploaded.state.view(),
                               {.steps = steps, .key = {}}, on.stream);
        on.engine->loss(grad.view(), sums.data(), sums.data() + 1, tape.last(),
                        {target.data(), on.example.height, on.example.width}, on.stream);
        on.engine->backward(
            tape, grad.view(),
            view_parameters(grad_weights.data(), on.example.weights.has_output_bias()),
            Accumulate::no, on.stream);
        return tape;
    };
    roll(12);
    const auto expected = test::download(*on.engine, grad.view());
    roll(2);
    Tape tape;  // lives as long as the graph that fills it
    const cudaGraphExec_t graph = on.captured([&] { tape = roll(12); });

    // This call needs more memory of every kind. It must leave the graph its own.
    test::run_rollout(*on.engine, test::random_case({.height = 40, .width = 24, .batch = 2}, 2));
    REQUIRE(cudaGraphLaunch(graph, on.stream) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(on.stream) == cudaSuccess);
    REQUIRE(test::download(*on.engine, grad.view()) == expected);
    cudaGraphExecDestroy(graph);
}

TEST_CASE("a captured way back reads the gradients of its steps when it runs") {
    const auto precision = GENERATE(Precision::exact, Precision::fast);
    const test::TensorDevice device;
    const OnStream on(test::cuda_device(precision),
                      {.height = 18, .width = 10, .gradient_steps = {1}});
    const std::vector<float>& values = on.example.step_gradients[0].values;
    State grad = on.engine->make_state(1, on.example.height, on.example.width);
    State added = on.engine->make_state(1, on.example.height, on.example.width);
    Buffer grad_weights = on.engine->allocate(on.example.weights.all().size());
    const Tape tape = on.engine->forward(on.example.rule, on.uploaded.weights,
                                         on.uploaded.state.view(), on.example.options, on.stream);
    const auto expected = test::run_backward(*on.engine, tape, on.example).weights;
    const cudaGraphExec_t graph = on.captured([&] {
        // What lies in host memory is read before the call returns.
        const std::vector<StepGradient> gradients = {{1, added.view()}};
        on.engine->backward(
            tape, {.step_gradients = gradients}, grad.view(),
            view_parameters(grad_weights.data(), on.example.weights.has_output_bias()),
            Accumulate::no, on.stream);
    });
    on.engine->copy_from_host(grad.view().data, on.example.grad_last, on.stream);
    on.engine->copy_from_host(added.view().data, values, on.stream);
    REQUIRE(cudaGraphLaunch(graph, on.stream) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(on.stream) == cudaSuccess);
    REQUIRE(test::download(*on.engine, grad_weights.data(), grad_weights.size()) == expected);
    cudaGraphExecDestroy(graph);
}

TEST_CASE("a call that needs memory in a capture says what to do, and the engine goes on") {
    const OnStream on(Device::cuda(), {.height = 9, .width = 17});
    cudaGraph_t graph = nullptr;
    REQUIRE(cudaStreamBeginCapture(on.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    REQUIRE_THAT(message_of<CudaError>([&] { on.advance(2); }),
                 ContainsSubstring("make a call of this size before the capture"));
    REQUIRE(cudaStreamEndCapture(on.stream, &graph) != cudaSuccess);
    cudaGetLastError();
    REQUIRE_NOTHROW(on.advance(2));
    REQUIRE(cudaStreamSynchronize(on.stream) == cudaSuccess);
}

TEST_CASE("a second rollout of the same size allocates nothing") {
    const Case example = test::random_case({.height = 20, .width = 9, .steps = 3}, 1);
    const auto engine = make_engine(Device::cuda());
    test::Uploaded on_engine(*engine, example);
    State grad_state = engine->make_state(example.batch, example.height, example.width);
    const Buffer grad = engine->allocate(parameter_count(true));
    const auto use = [&] {
        engine->advance(example.rule, on_engine.weights, on_engine.state.view(), example.options);
        const Tape tape = engine->forward(example.rule, on_engine.weights, on_engine.state.view(),
                                          example.options);
        engine->backward(tape, grad_state.view(), view_parameters(grad.data(), true),
                         Accumulate::no);
    };
    use();
    const std::size_t in_use = executor::memory_in_use();
    const MemoryLeft none(0);
    use();
    use();
    REQUIRE(executor::memory_in_use() == in_use);
}

TEST_CASE("engines, tapes and trainers give back all their memory") {
    const std::size_t before = executor::memory_in_use();
    {
        const Case example = test::random_case({.steps = 3}, 1);
        test::run_rollout(*make_engine(Device::cuda()), example);
        Trainer trainer(test::small_picture(), test::small_config("regenerating"), Device::cuda());
        trainer.iterate();
    }
    REQUIRE(executor::memory_in_use() == before);
}

TEST_CASE("two engines in two threads do not meet") {
    const Case examples[] = {test::random_case({.steps = 3}, 1),
                             test::random_case({.height = 18, .width = 9, .steps = 2}, 2)};
    test::RolloutResult expected[2], found[2];
    for (int i = 0; i < 2; ++i) {
        expected[i] = test::run_rollout(*make_engine(Device::cuda()), examples[i]);
    }
    std::thread threads[2];
    for (int i = 0; i < 2; ++i) {
        threads[i] = std::thread([&, i] {
            const auto engine = make_engine(Device::cuda());
            for (int round = 0; round < 3; ++round) {
                found[i] = test::run_rollout(*engine, examples[i]);
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    for (int i = 0; i < 2; ++i) REQUIRE((found[i] == expected[i]));
}

TEST_CASE("an engine works on its own device and leaves the caller's current") {
    executor::set_device_count(2);
    const Case example = test::random_case({.steps = 2}, 1);
    const auto second = make_engine(Device::cuda(1));
    REQUIRE_THAT(second->description(), ContainsSubstring("cuda:1"));
    const auto found = test::run_rollout(*second, example);
    int current = -1;
    REQUIRE(cudaGetDevice(&current) == cudaSuccess);
    REQUIRE(current == 0);
    REQUIRE((test::run_rollout(*make_engine(Device::cuda(0)), example) == found));
    executor::set_device_count(1);
}

TEST_CASE("an engine says in what precision and form it runs") {
    Device device = Device::cuda();
    device.precision = Precision::exact;
    REQUIRE_THAT(make_engine(device)->description(), EndsWith(", exact"));
    REQUIRE(make_engine(device)->rollout_form(8, 40, 40).text ==
            "one kernel a step: the precision is exact");
    const test::TensorDevice tensor_device;
    device.precision = Precision::fast;
    REQUIRE_THAT(make_engine(device)->description(), EndsWith(", fast"));
}

TEST_CASE("what is missing is said, with what to do") {
    const auto message = [](int index) {
        return message_of<CudaError>([&] { make_engine(Device::cuda(index)); });
    };
    REQUIRE_THAT(message(1), ContainsSubstring("no CUDA device 1") && ContainsSubstring("has 1"));

    executor::set_device_count(0);
    REQUIRE_THAT(message(0),
                 ContainsSubstring("no CUDA device") && ContainsSubstring("the CPU engine"));
    REQUIRE(make_engine(Device::automatic())->memory_space() == MemorySpace::host);
    executor::set_device_count(1);
    REQUIRE(make_engine(Device::automatic())->memory_space() == MemorySpace::device);

    executor::set_driver_missing(true);
    REQUIRE_THAT(message(0), ContainsSubstring("driver") && ContainsSubstring("the CPU engine"));
    REQUIRE(make_engine(Device::automatic())->memory_space() == MemorySpace::host);
    executor::set_driver_missing(false);

    executor::set_architecture_supported(false);
    REQUIRE_THAT(message(0), ContainsSubstring("compute capability 7.5") &&
                                 ContainsSubstring("CMAKE_CUDA_ARCHITECTURES=75"));
    REQUIRE(make_engine(Device::automatic())->memory_space() == MemorySpace::host);
    executor::set_architecture_supported(true);
    REQUIRE(make_engine(Device::cuda()) != nullptr);
}

TEST_CASE("a state that is not aligned to 16 bytes is refused") {
    const Case example = test::random_case({.steps = 2}, 1);
    const auto engine = make_engine(Device::cuda());
    test::Uploaded on_engine(*engine, example);
    StateView shifted = on_engine.state.view();
    shifted.data += 1;
    --shifted.width;
    const auto advance = [&] {
        engine->advance(example.rule, on_engine.weights, shifted, example.options);
    };
    REQUIRE_THAT(message_of<InvalidArgument>(advance), ContainsSubstring("aligned to 16 bytes"));

    const test::CallersTape memory(*engine, example, 3, false);
    TapeBuffers buffers = memory.buffers();
    buffers.states += 2;
    const auto forward = [&] {
        engine->forward(example.rule, on_engine.weights, on_engine.state.view(), example.options,
                        buffers);
    };
    REQUIRE_THAT(message_of<InvalidArgument>(forward), ContainsSubstring("TapeBuffers::states"));
    const Tape tape = engine->forward(example.rule, on_engine.weights, on_engine.state.view(),
                                      example.options, memory.buffers());
    State state = engine->make_state(1, example.height, example.width + 1);
    ConstStateView added = state.view();
    added.data += 1;
    --added.width;
    State grad_state = engine->make_state(1, example.height, example.width);
    Buffer grad = engine->allocate(parameter_count(true));
    const std::vector<StepGradient> gradients = {{1, added}};
    const auto backward = [&] {
        engine->backward(tape, {.step_gradients = gradients}, grad_state.view(),
                         view_parameters(grad.data(), true), Accumulate::no);
    };
    REQUIRE_THAT(message_of<InvalidArgument>(backward), ContainsSubstring("step_gradients"));
}

TEST_CASE("out of memory says how much was wanted for what, and the engine goes on") {
    const Case example = test::random_case({.height = 40, .width = 40, .batch = 2, .steps = 9}, 1);
    const auto engine = make_engine(Device::cuda());
    const test::Uploaded on_engine(*engine, example);
    const auto roll = [&](int steps) {
        return engine->forward(example.rule, on_engine.weights, on_engine.state.view(),
                               {.steps = steps, .key = {}});
    };
    const auto train = [] {
        Trainer(test::small_picture(), test::small_config("growing"), Device::cuda()).iterate();
    };
    {
        const MemoryLeft little(4U << 20);
        // 501 states of 2 x 40 x 40 cells of 64 bytes.
        REQUIRE_THAT(message_of<CudaError>([&] { roll(500); }),
                     ContainsSubstring("102604800 bytes") &&
                         ContainsSubstring("the tape, 500 steps") &&
                         ContainsSubstring("a smaller batch or grid, or fewer steps"));
        REQUIRE(roll(2).steps() == 2);
    }
    {
        const MemoryLeft less(200000);
        REQUIRE_THAT(message_of<CudaError>(train), ContainsSubstring("bytes of"));
    }
    REQUIRE(roll(9).steps() == 9);
    train();
}
