// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nca/error.hpp>
#include <nca/trainer.hpp>
#include <utility>

#include "host/core/checks.hpp"
#include "host/core/throw_error.hpp"
#include "host/files/json_fields.hpp"
#include "host/files/model_file.hpp"
#include "host/iteration/loss_steps.hpp"
#include "host/training/checkpoint.hpp"
#include "host/training/composed_training_loop.hpp"
#include "host/training/init_weights.hpp"
#include "host/training/recovery.hpp"
#include "host/training/target.hpp"

namespace nca {
namespace {

// word / 2^32: uniform in 0 .. 1.
double uniform(std::uint32_t word) { return word * 0x1p-32; }

Weights initial_weights(const TrainingConfig& config, std::uint32_t seed) {
    Weights weights(config.output_bias);
    const auto fill = [&](std::uint32_t tensor, float* values, std::size_t size, double bound) {
        for (std::uint32_t i = 0; i < size; ++i) {
            const auto words = philox(seed, Purpose::initial_weights, {i / 4, tensor, 0, 0});
            values[i] = float(bound * (2 * uniform(words[i % 4]) - 1));
        }
    };
    switch (config.initialisation) {
        case Initialisation::pytorch: {
            const double bound = 1 / std::sqrt(double(perception));
            fill(0, weights.view().w1, w1_size, bound);
            fill(1, weights.view().b1, b1_size, bound);
            break;
        }
        case Initialisation::glorot:
            fill(0, weights.view().w1, w1_size, std::sqrt(6.0 / (perception + hidden)));
            break;
    }
    return weights;
}

// The loss of an empty grid. target is [grid, grid, 4].
double loss_of_empty_grid(const std::vector<float>& target) {
    double squares = 0;
    for (const float value : target) squares += double(value) * value;
    return squares / double(target.size());
}

// Why an iteration failed.
std::string reason_of(const IterationOutcome& outcome) {
    switch (outcome.verdict) {
        case Verdict::loss_not_finite:
            return "the loss is not finite";
        case Verdict::loss_exploded:
            return fmt::format("the loss is {:.3g}", outcome.loss);
        case Verdict::all_dead:
            return "every sample of the batch died";
        case Verdict::gradient_exploded:
            return fmt::format("the gradient's norm is {:.3g}", outcome.gradient_norm);
        case Verdict::weight_not_finite:
            return "an update made a weight that is not finite";
        case Verdict::good:
        case Verdict::not_run:
            break;
    }
    return "";
}

}  // namespace

// Connects the training loop, which computes, with Recovery, which decides.
struct Trainer::Impl {
    Impl(const Image& image, const TrainingConfig& configuration, const Device& device)
        : Impl(make_target(image, configuration), configuration, device) {
        if (whole_factor(image, config.target_size) > 0) {
            other_target = make_filtered_target(image, config);
        }
    }

    Impl(std::vector<float> on_grid, const TrainingConfig& configuration, const Device& device)
        : config(configuration),
          engine(make_engine(device)),
          target(std::move(on_grid)),
          recovery(config, loss_of_empty_grid(target)),
          loop(make_training_loop(*engine, config, target)) {
        start_anew();
    }

    const TrainingProgress& progress() const { return recovery.progress(); }

    // Goes on with the other target, if it has this hash. The loop is new then. False where neither
    // target has the hash.
    bool take_target(std::uint64_t hash) {
        if (hash == hash_target(target)) return true;
        if (other_target.empty() || hash != hash_target(other_target)) return false;
        loop = make_training_loop(*engine, config, other_target);
        std::swap(target, other_target);
        recovery = Recovery(config, loss_of_empty_grid(target));
        return true;
    }

    void start_anew() {
        const Parameters initial(init ? *init : initial_weights(config, recovery.seed()));
        loop->load(initial, initial, initial.weights);
        updates = anchor_updates = 0;
    }

    Parameters current() const {
        Parameters parameters = loop->current();
        parameters.updates = updates;
        return parameters;
    }

    Parameters anchor() const {
        Parameters parameters = loop->anchor();
        parameters.updates = anchor_updates;
        return parameters;
    }

    // The plan of iteration progress().iteration + ahead, if those before it are good.
    IterationPlan plan(int ahead) const {
        const std::int64_t i = progress().iteration + ahead;
        const int steps = recovery.steps(ahead);
        IterationPlan plan{.steps = steps,
                           .loss_steps = draw_loss_steps(config, recovery.seed(), i, steps),
                           .key = {recovery.seed(), std::uint32_t(i)},
                           .learning_rate = float(recovery.learning_rate(i)),
                           .update = updates + ahead + 1,
                           .set_anchor = recovery.sets_anchor(ahead),
                           .samples = {},
                           .damage = {}};
        if (config.pool > 0) {
            plan.samples = sample_pool(recovery.seed(), i, config.pool, config.batch);
            plan.damage = draw_damage(config, recovery.seed(), i);
        }
        return plan;
    }

    // Counts a finished iteration and fills its report. False where training has to give up.
    bool settle(const IterationPlan& plan, const IterationOutcome& outcome,
                IterationReport& report) {
        report = {.iteration = progress().iteration,
                  .steps = plan.steps,
                  .loss = outcome.loss,
                  .learning_rate = recovery.learning_rate(progress().iteration),
                  .gradient_norm = outcome.gradient_norm,
                  .dead = outcome.dead,
                  .reset = outcome.reset,
                  .recovery = ""};
        const bool tried_update =
            outcome.verdict == Verdict::good || outcome.verdict == Verdict::weight_not_finite;
        if (tried_update && plan.set_anchor) anchor_updates = updates;
        if (outcome.verdict == Verdict::good) {
            ++updates;
            recovery.add_good(outcome.loss);
        } else if (!recover(report, reason_of(outcome))) {
            return false;
        }
        recovery.next_iteration();
        return true;
    }

    // Returns to the anchor, or starts with new weights where the anchor has learnt nothing. False
    // where there were too many failures.
    bool recover(IterationReport& report, const std::string& reason, bool to_anchor = true) {
        const bool continues = recovery.add_failure();
        report.reset = config.pool;
        if (to_anchor || !continues) {
            loop->return_to_anchor();
            updates = anchor_updates;
        } else {
            start_anew();
        }
        if (config.pool > 0) loop->reset_pool();
        if (continues) {
            const char* const weights = to_anchor ? "back to the last good"
                                        : init    ? "back to the first"
                                                  : "new";
            report.recovery =
                fmt::format("{}: {} weights, {}new seed, learning rate times {:.3g}", reason,
                            weights, config.pool > 0 ? "a pool of start cells, " : "",
                            std::ldexp(1.0, -progress().recoveries));
        } else {
            gave_up = fmt::format(
                "training failed {} times in a row, the last time in iteration {} because {}: {}; "
                "start again with {} learning rate or another seed",
                progress().failures, report.iteration, reason,
                to_anchor ? "the last good weights are kept" : "nothing was learnt",
                to_anchor ? "a lower" : "another");
        }
        return continues;
    }

    std::vector<IterationReport> iterate(int most) {
        // The last call returned good iterations and then gave up, so this call throws.
        if (!gave_up.empty()) throw Error(std::exchange(gave_up, {}));
        std::vector<IterationPlan> plans(
            std::size_t(std::min({most, loop->queue_length(), recovery.iterations_to_anchor()})));
        for (std::size_t i = 0; i < plans.size(); ++i) plans[i] = plan(int(i));
        const std::vector<IterationOutcome> outcomes = loop->run(plans);
        std::vector<IterationReport> reports;
        for (std::size_t i = 0; i < outcomes.size(); ++i) {
            if (outcomes[i].verdict == Verdict::not_run) break;
            IterationReport report;
            if (!settle(plans[i], outcomes[i], report)) {
                if (reports.empty()) throw Error(std::exchange(gave_up, {}));
                break;
            }
            reports.push_back(report);
        }
        // Where there were too many failures, the next call throws.
        if (reports.back().recovery.empty() && recovery.stuck()) {
            recover(reports.back(),
                    fmt::format("the loss stays at {:.3g}, that of a blank image is {:.3g}",
                                recovery.usual_loss(), recovery.blank_loss()),
                    progress().learnt);
        }
        return reports;
    }

    void take(const Checkpoint& checkpoint) {
        loop->load(checkpoint.current, checkpoint.anchor, checkpoint.good);
        if (config.pool > 0) loop->load_pool(checkpoint.pool);
        updates = checkpoint.current.updates;
        anchor_updates = checkpoint.anchor.updates;
        gave_up.clear();
        recovery.set_progress(checkpoint.progress);
        target_name = checkpoint.target_name;
        wanted_iterations = checkpoint.wanted_iterations;
        init = checkpoint.init;
        init_text = checkpoint.init_text;
    }

    TrainingHistory history() const {
        return {.preset = config.preset,
                .target = target_name,
                .iterations = progress().iteration,
                .height = config.grid(),
                .width = config.grid(),
                .padding = config.padding,
                .loss = recovery.recent_loss(),
                .seed = config.seed,
                .start_cells = config.start_cells,
                .init = init_text};
    }

    TrainingConfig config;
    std::unique_ptr<Engine> engine;
    std::vector<float> target;
    // What version 0.2.0 made of the same image, where that may be another target: a checkpoint of
    // that version goes on with it. Empty where it is the same.
    std::vector<float> other_target;
    Recovery recovery;
    std::unique_ptr<TrainingLoop> loop;
    std::string target_name;
    std::int64_t wanted_iterations = 0;  // 0: not known
    std::optional<Weights> init;         // the first weights, where they are a model's
    std::string init_text;               // TrainingHistory::init
    std::int64_t updates = 0;            // number of Adam updates in the current parameters
    std::int64_t anchor_updates = 0;     // the same in the anchor
    std::string gave_up;                 // why training gave up; empty: it did not
};

Trainer::Trainer(const Image& target, const TrainingConfig& config, const Device& device)
    : impl_(std::make_unique<Impl>(target, config, device)) {}
Trainer::Trainer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Trainer::~Trainer() = default;
Trainer::Trainer(Trainer&&) noexcept = default;
Trainer& Trainer::operator=(Trainer&&) noexcept = default;

Trainer::Impl& Trainer::impl() const {
    if (!impl_) throw InvalidArgument("the trainer has nothing to train: was it moved from?");
    return *impl_;
}

IterationReport Trainer::iterate() { return impl().iterate(1).front(); }
std::vector<IterationReport> Trainer::iterate(int most) {
    if (most < 1) throw_error<InvalidArgument>("{} iterations: expected 1 or more", most);
    return impl().iterate(most);
}
std::int64_t Trainer::iteration() const { return impl().progress().iteration; }
const TrainingConfig& Trainer::config() const { return impl().config; }
Engine& Trainer::engine() const { return *impl().engine; }
const std::vector<float>& Trainer::target() const { return impl().target; }
const std::vector<double>& Trainer::recent_losses() const {
    return impl().progress().recent_losses;
}
double Trainer::blank_loss() const { return impl().recovery.blank_loss(); }
std::vector<float> Trainer::states_before() const { return impl().loop->states_before(); }
std::vector<float> Trainer::states_after() const { return impl().loop->states_after(); }
std::vector<float> Trainer::pool_states(int count) const {
    const StatePool pool = impl().loop->pool(std::clamp(count, 0, config().pool));
    const std::size_t size = std::size_t(pool.cells()) * channels;
    std::vector<float> states(pool.size() * size);
    for (int i = 0; i < pool.size(); ++i) pool.read(std::span(states).subspan(i * size, size), i);
    return states;
}
Model Trainer::model() const { return {impl().config.rule, impl().loop->good(), impl().history()}; }
void Trainer::set_target_name(std::string name) { impl().target_name = std::move(name); }
void Trainer::set_wanted_iterations(std::int64_t iterations) {
    if (iterations < 1 || iterations > most_wanted_iterations) {
        throw_error<InvalidArgument>("{} iterations: expected 1 to {}", iterations,
                                     most_wanted_iterations);
    }
    impl().wanted_iterations = iterations;
}

void Trainer::start_from(const Model& model, const std::string& name) {
    if (iteration() > 0) {
        throw_error<InvalidArgument>(
            "{}: a training starts from weights before its first iteration, and this one has done "
            "{}",
            name, iteration());
    }
    check_weights(model.weights);
    if (const float* bad = find_not_finite(model.weights.all())) {
        throw_error<InvalidArgument>("{} has the weight {}, expected finite numbers", name, *bad);
    }
    impl().init = init_weights(model.weights, config().output_bias, name);
    impl().init_text = init_text(model.history, name);
    impl().start_anew();
}

void Trainer::save_checkpoint(const std::filesystem::path& path) const {
    nca::save_checkpoint(path,
                         {
                             .config = impl().config,
                             .target_name = impl().target_name,
                             .target_hash = hash_target(impl().target),
                             .target = impl().target,
                             .wanted_iterations = impl().wanted_iterations,
                             .progress = impl().progress(),
                             .current = impl().current(),
                             .anchor = impl().anchor(),
                             .good = impl().loop->good(),
                             .pool = impl().loop->pool(config().pool),
                             .init_text = impl().init_text,
                             .init = impl().init,
                         },
                         impl().history());
}

void Trainer::resume(const std::filesystem::path& path) {
    const Checkpoint checkpoint = load_checkpoint(path);
    const std::string difference = first_difference(checkpoint.config, impl().config);
    if (!difference.empty()) {
        throw_error<FormatError>(
            "{} is a checkpoint of another configuration: its {}; give the options that it was "
            "made with",
            path.string(), difference);
    }
    if (!impl().take_target(checkpoint.target_hash)) {
        throw_error<FormatError>(
            "{} is a checkpoint of another target ({}): give the image that it was made with",
            path.string(), printable(checkpoint.target_name));
    }
    impl().take(checkpoint);
}

Trainer Trainer::from_checkpoint(const std::filesystem::path& path, const Device& device) {
    const Checkpoint checkpoint = load_checkpoint(path);
    if (checkpoint.target.empty()) {
        throw_error<FormatError>(
            "{} is a checkpoint of an earlier version, without its target ({}): give the image "
            "that it was made with",
            path.string(), printable(checkpoint.target_name));
    }
    auto impl = std::make_unique<Impl>(checkpoint.target, checkpoint.config, device);
    impl->take(checkpoint);
    return Trainer(std::move(impl));
}

}  // namespace nca
