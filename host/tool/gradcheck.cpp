// SPDX-License-Identifier: MIT
// `nca gradcheck`: compares an engine's gradients of the loss after a rollout with the reference in
// double precision: every entry with its analytic gradient, and some entries with central
// differences, for which the masks are frozen.
#include "host/core/throw_error.hpp"
#include "host/tool/arguments/arguments.hpp"
#include "host/tool/console.hpp"
#include "host/tool/gradcheck_reference.hpp"
#include "host/tool/output_files.hpp"
#include "host/tool/threads.hpp"

#include <nca/engine.hpp>
#include <nca/error.hpp>
#include <nca/image.hpp>

#include <algorithm>
#include <cmath>

namespace nca::tool {
namespace {

constexpr int largest_target = 256;  // cells; above, the reference takes seconds for each step
constexpr std::int64_t most_cell_steps = std::int64_t{1} << 23;  // 1 GiB of states in double

Image load_small_target(const std::filesystem::path& path) {
    Image image = load_target(path);
    if (image.height > largest_target || image.width > largest_target) {
        throw_error<FormatError>(
            "{}: {}x{} pixels, gradcheck takes at most {}x{}: it works on the picture's own size, "
            "hand it a smaller one",
            path.string(), image.height, image.width, largest_target, largest_target);
    }
    return image;
}

std::vector<float> target_values(const Image& image, const Rule& rule) {
    std::vector<float> values(image.pixels.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
        const float alpha = float(image.pixels[i / 4 * 4 + 3]) / 255;
        const bool scaled = rule.premultiplied && i % 4 != 3;
        values[i] = float(image.pixels[i]) / 255 * (scaled ? alpha : 1.0F);
    }
    return values;
}

GradcheckProblem make_problem(const GradcheckArguments& arguments) {
    GradcheckProblem problem;
    problem.model = load_model(arguments.model);
    Rule& rule = problem.model.rule;
    rule.fire_rate = arguments.fire_rate.value_or(rule.fire_rate);
    const Image image = load_small_target(arguments.target);
    problem.target = target_values(image, rule);
    problem.batch = arguments.batch;
    problem.height = image.height;
    problem.width = image.width;
    problem.options = {.steps = arguments.steps, .key = {.seed = arguments.seed}};
    if (problem.cell_steps() > most_cell_steps) {
        throw_error<UsageError>(
            "{} steps of {} grids of {}x{} cells are too many for the reference: take fewer "
            "--steps or a smaller --batch",
            arguments.steps, arguments.batch, image.height, image.width);
    }
    problem.state.resize(problem.view().size());
    for (int sample = 0; sample < problem.batch; ++sample) {
        const std::size_t row =
            std::size_t(sample) * problem.height + std::size_t(problem.height / 2);
        float* cell = &problem.state[(row * problem.width + problem.width / 2) * channels];
        std::ranges::copy(rule.start_values(), cell);
    }
    return problem;
}

// Throws Error where a state of the rollout has a value that is not finite. The gradients may be
// finite all the same, where that value is in a channel that the loss does not depend on.
void require_finite_states(Engine& engine, const Tape& tape, const GradcheckProblem& problem) {
    std::vector<float> values(problem.state.size());
    ConstStateView view = problem.view();
    view.data = values.data();
    for (int step = 0; step <= tape.steps(); ++step) {
        engine.copy_to_host(values, tape.state(step).data);
        if (check_state(view).finite) continue;
        throw_error<Error>(
            "after step {} of {} the engine's states are not finite: most likely weights and rule "
            "do not fit together; take another model or fewer --steps",
            step, tape.steps());
    }
}

// The engine's gradient of the loss, laid out as Weights::all().
Weights engine_gradient(Engine& engine, const GradcheckProblem& problem) {
    const bool output_bias = problem.model.weights.has_output_bias();
    State state = engine.make_state(problem.batch, problem.height, problem.width);
    engine.copy_from_host(state.view().data, problem.state);
    const Buffer target = engine.allocate(problem.target.size());
    engine.copy_from_host(target.data(), problem.target);

    const Tape tape = engine.forward(problem.model, state.view(), problem.options);
    require_finite_states(engine, tape, problem);
    State grad_state = engine.make_state(problem.batch, problem.height, problem.width);
    const auto samples = std::size_t(problem.batch);
    const Buffer loss = engine.allocate(samples);
    const Buffer living = engine.allocate(samples);
    engine.loss(grad_state.view(), loss.data(), living.data(), tape.last(),
                {target.data(), problem.height, problem.width});
    const Buffer grad_weights = engine.allocate(parameter_count(output_bias));
    engine.backward(tape, grad_state.view(), view_parameters(grad_weights.data(), output_bias),
                    Accumulate::no);
    Weights gradient(output_bias);
    engine.copy_to_host(gradient.all(), grad_weights.data());
    std::vector<float> losses(samples);
    engine.copy_to_host(losses, loss.data());
    if (!std::isfinite(norm(losses)) || !std::isfinite(norm(gradient.all()))) {
        throw Error(
            "the engine's loss or gradients are not finite: the rollout diverged, take fewer "
            "--steps");
    }
    return gradient;
}

void print_header() {
    constexpr const char* row = "{:<13} {:>11} {:>11} {:>9} {:>9} {:>8} {:>9} {:>9}\n";
    print(fmt::format(fmt::runtime(row), "", "engine", "reference", "largest", "part of", "central",
                      "largest", "part of"));
    print(fmt::format(fmt::runtime(row), "tensor", "norm", "norm", "error", "largest", "diffs",
                      "error", "largest"));
}

void print_row(const ParameterTensor& tensor, const TensorCheck& check) {
    const auto part = [&](double error) {
        return check.largest > 0 ? error / check.largest : error;
    };
    print("{:<13} {:>11.4e} {:>11.4e} {:>9.1e} {:>9.1e} {:>8} {:>9.1e} {:>9.1e}  {}\n", tensor.name,
          check.engine_norm, check.reference_norm, check.error, part(check.error),
          check.differences, check.difference_error, part(check.difference_error),
          check.good ? "ok" : "WRONG");
}

void check_files(const GradcheckArguments& arguments) {
    require_different("--out", arguments.out, "MODEL", arguments.model);
    require_different("--out", arguments.out, "TARGET", arguments.target);
    require_kind("--out", arguments.out, gradients_kind);
    if (!arguments.out.empty()) require_writable(arguments.out);
}

}  // namespace

int gradcheck(const GradcheckArguments& arguments) {
    check_files(arguments);
    const GradcheckProblem problem = make_problem(arguments);
    const std::unique_ptr<Engine> engine = make_engine(arguments.device);
    say("{}, {} steps of {} of {}x{} cells", running_on(*engine, arguments.device), arguments.steps,
        problem.batch, problem.height, problem.width);
    check_precision(*engine, arguments.device);

    const Weights gradient = engine_gradient(*engine, problem);
    if (!arguments.out.empty()) {
        // The gradients have the names and shapes of the weights, so a model's file can hold them.
        Model file{problem.model.rule, gradient, {}, {}};
        file.history.preset = gradients_preset;
        file.save(arguments.out);
    }
    const reference::GradientCheck reference = problem.reference();
    const std::vector<double> expected = reference.gradients().weights.all;
    const double tolerance = gradcheck_tolerance(arguments.steps, engine->precision());
    print_header();
    bool good = true;
    for (const ParameterTensor& tensor : parameter_tensors(gradient.has_output_bias())) {
        const TensorCheck check = check_tensor(tensor, gradient, expected, reference, tolerance,
                                               thread_count(arguments.device));
        print_row(tensor, check);
        good = good && check.good;
    }
    print("tolerance: {:.1e} of the tensor's largest gradient\n", tolerance);
    if (norm(expected) == 0) {
        say("every gradient is zero: the automaton died on the way, so this checked nothing; take "
            "fewer --steps or a trained model");
        return exit_failed;
    }
    if (!good) {
        say("the engine's gradients are off by more than the tolerance");
        return exit_failed;
    }
    return exit_done;
}

}  // namespace nca::tool
