// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nca/error.hpp>
#include <nca/trainer.hpp>
#include <utility>

#include "host/training/checkpoint.hpp"
#include "host/training/composed_training_loop.hpp"

namespace nca {
namespace {

constexpr std::size_t loss_window = 100;  // losses that the history's mean is taken over
// Good iterations between two anchors, and between two looks at whether the run is stuck. No queue
// goes beyond such a point, so that it does what its iterations would do one by one.
constexpr int anchor_interval = 50;
constexpr int enough_good_iterations = 100;  // after these, earlier failures are forgiven
constexpr int most_failures = 12;  // then training gives up: a rate of 10 is 2.4e-3 by then
// In multiples of a blank image's loss: below the one, a run has learnt something; above the other,
// it is stuck, at once where it had learnt something, after so many good iterations where not.
constexpr double learnt_share = 0.5;
constexpr double stuck_share = 0.95;
constexpr int patience = 500;

// Uniform in 0 .. 1, [word / 2^32].
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

// good_iterations: how many came before this one since training began or began again.
int draw_steps(const TrainingConfig& config, std::int64_t iteration, int good_iterations) {
    const auto words =
        philox(config.seed, Purpose::step_count, {0, 0, 0, std::uint32_t(iteration)});
    const int choices = config.most_steps - config.fewest_steps;
    const int steps = config.fewest_steps + int(uniform(words[0]) * choices);
    if (good_iterations >= config.warmup) return steps;
    const double share = 0.125 + 0.875 * good_iterations / config.warmup;
    return std::max(1, int(std::lround(steps * share)));
}

// The loss of a grid that is empty, [grid, grid, 4].
double loss_of_empty_grid(const std::vector<float>& target) {
    double squares = 0;
    for (const float value : target) squares += double(value) * value;
    return squares / double(target.size());
}

double scheduled_rate(const TrainingConfig& config, std::int64_t iteration) {
    switch (config.schedule) {
        case Schedule::exponential:
            return config.learning_rate * std::pow(0.9999, double(iteration));
        case Schedule::drop:
            return config.learning_rate * (iteration < 2000 ? 1.0 : 0.1);
    }
    return config.learning_rate;
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

// The numbers live in the training loop; here is what decides about them.
struct Trainer::Impl {
    Impl(const Image& image, const TrainingConfig& configuration, const Device& device)
        : config(configuration),
          engine(make_engine(device)),
          target(make_target(image, config)),
          blank(loss_of_empty_grid(target)),
          loop(make_training_loop(*engine, config, target)) {
        start_anew();
    }

    // A new seed after each recovery, so that what failed is not drawn again.
    std::uint32_t seed() const { return config.seed + 0x9e3779b9U * std::uint32_t(recoveries); }

    void start_anew() {
        const Parameters initial(initial_weights(config, seed()));
        loop->load(initial, initial);
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

    // The iteration that comes so many good ones after this.
    IterationPlan plan(int ahead) const {
        const std::int64_t i = iteration + ahead;
        const int good = good_iterations + ahead;
        // A run that is losing what it had learnt keeps the weights from before.
        const bool worth_keeping = !learnt || usual_loss() < learnt_share * blank;
        IterationPlan plan{.steps = draw_steps(config, i, good),
                           .key = {seed(), std::uint32_t(i)},
                           .learning_rate = float(learning_rate(i)),
                           .update = updates + ahead + 1,
                           .set_anchor = good % anchor_interval == 0 && worth_keeping,
                           .samples = {},
                           .damage = {}};
        if (config.pool > 0) {
            plan.samples = sample_pool(seed(), i, config.pool, config.batch);
            plan.damage = draw_damage(config, seed(), i);
        }
        return plan;
    }

    // Not a number as long as there is none.
    double recent_loss() const {
        if (recent_losses.empty()) return std::numeric_limits<double>::quiet_NaN();
        double loss = 0;
        for (const double value : recent_losses) loss += value / double(recent_losses.size());
        return loss;
    }

    // The median, which single batches that went wild do not move; 0 as long as there is no loss.
    double usual_loss() const {
        if (recent_losses.empty()) return 0;
        std::vector<double> losses = recent_losses;
        const auto middle = losses.begin() + std::ptrdiff_t(losses.size() / 2);
        std::nth_element(losses.begin(), middle, losses.end());
        return *middle;
    }

    bool grows_nothing() const { return usual_loss() >= stuck_share * blank; }

    // Whether the loss is a blank image's, and has been for long enough.
    bool stuck() const {
        const int wait = config.warmup + (learnt ? int(loss_window) : patience);
        return good_iterations >= wait && good_iterations % anchor_interval == 0 && grows_nothing();
    }

    double learning_rate(std::int64_t i) const {
        return std::ldexp(scheduled_rate(config, i), -recoveries);
    }

    // Takes note of a finished iteration. False where training has to give up.
    bool settle(const IterationPlan& plan, const IterationOutcome& outcome,
                IterationReport& report) {
        report = {.iteration = iteration,
                  .steps = plan.steps,
                  .loss = outcome.loss,
                  .learning_rate = learning_rate(iteration),
                  .gradient_norm = outcome.gradient_norm,
                  .dead = outcome.dead,
                  .reset = outcome.reset,
                  .recovery = ""};
        const bool tried_update =
            outcome.verdict == Verdict::good || outcome.verdict == Verdict::weight_not_finite;
        if (tried_update && plan.set_anchor) anchor_updates = updates;
        if (outcome.verdict != Verdict::good) {
            if (!recover(report, reason_of(outcome))) return false;
            ++iteration;
            return true;
        }
        ++updates;
        recent_losses.push_back(outcome.loss);
        if (recent_losses.size() > loss_window) recent_losses.erase(recent_losses.begin());
        ++good_iterations;
        learnt =
            learnt || (good_iterations >= int(loss_window) && usual_loss() < learnt_share * blank);
        const int enough = config.warmup + enough_good_iterations + (learnt ? 0 : patience);
        if (good_iterations >= enough && !grows_nothing()) failures = 0;
        ++iteration;
        return true;
    }

    // False where this was one failure too many. Weights that never learnt anything are not worth
    // going back to.
    bool recover(IterationReport& report, const std::string& reason, bool to_anchor = true) {
        ++recoveries;
        good_iterations = 0;
        report.reset = config.pool;
        if (++failures > most_failures) {
            gave_up = fmt::format(
                "training failed {} times in a row, the last time in iteration {} because {}: {}; "
                "start again with {} learning rate or another seed",
                failures, report.iteration, reason,
                to_anchor ? "the last good weights are kept" : "nothing was learnt",
                to_anchor ? "a lower" : "another");
            to_anchor = true;
        }
        if (to_anchor) {
            loop->return_to_anchor();
            updates = anchor_updates;
        } else {
            start_anew();
        }
        if (config.pool > 0) loop->reset_pool();
        if (!gave_up.empty()) return false;
        report.recovery = fmt::format("{}: {} weights, {}new seed, learning rate times {:.3g}",
                                      reason, to_anchor ? "back to the last good" : "new",
                                      config.pool > 0 ? "a pool of start cells, " : "",
                                      std::ldexp(1.0, -recoveries));
        return true;
    }

    std::vector<IterationReport> iterate(int most) {
        // An iteration that gave up behind others that went well was left for this call to tell.
        if (!gave_up.empty()) throw Error(std::exchange(gave_up, {}));
        const int to_next_anchor = anchor_interval - good_iterations % anchor_interval;
        std::vector<IterationPlan> plans(
            std::size_t(std::min({most, loop->queue_length(), to_next_anchor})));
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
        // Where this is one failure too many, the next call tells.
        if (reports.back().recovery.empty() && stuck()) {
            recover(reports.back(),
                    fmt::format("the loss stays at {:.3g}, that of a blank image is {:.3g}",
                                usual_loss(), blank),
                    learnt);
        }
        return reports;
    }

    TrainingHistory history() const {
        return {.preset = config.preset,
                .target = target_name,
                .iterations = iteration,
                .height = config.grid(),
                .width = config.grid(),
                .padding = config.padding,
                .loss = recent_loss(),
                .seed = config.seed};
    }

    TrainingConfig config;
    std::unique_ptr<Engine> engine;
    std::vector<float> target;
    double blank;  // the loss of an empty grid
    std::unique_ptr<TrainingLoop> loop;
    std::string target_name;
    std::int64_t iteration = 0;
    std::int64_t updates = 0;         // of Adam in the current parameters
    std::int64_t anchor_updates = 0;  // in the anchor's
    int recoveries = 0;
    int failures = 0;
    int good_iterations = 0;
    bool learnt = false;  // the usual loss has been clearly below a blank image's
    std::vector<double> recent_losses;
    std::string gave_up;
};

Trainer::Trainer(const Image& target, const TrainingConfig& config, const Device& device)
    : impl_(std::make_unique<Impl>(target, config, device)) {}
Trainer::~Trainer() = default;
Trainer::Trainer(Trainer&&) noexcept = default;
Trainer& Trainer::operator=(Trainer&&) noexcept = default;

IterationReport Trainer::iterate() { return impl_->iterate(1).front(); }
std::vector<IterationReport> Trainer::iterate(int most) {
    if (most < 1) throw InvalidArgument(fmt::format("{} iterations: expected 1 or more", most));
    return impl_->iterate(most);
}
std::int64_t Trainer::iteration() const { return impl_->iteration; }
const TrainingConfig& Trainer::config() const { return impl_->config; }
Engine& Trainer::engine() const { return *impl_->engine; }
const std::vector<float>& Trainer::target() const { return impl_->target; }
double Trainer::blank_loss() const { return impl_->blank; }
std::vector<float> Trainer::states_before() const { return impl_->loop->states_before(); }
std::vector<float> Trainer::states_after() const { return impl_->loop->states_after(); }
std::vector<float> Trainer::pool_states(int count) const {
    const StatePool pool = impl_->loop->pool(std::clamp(count, 0, config().pool));
    const std::size_t size = std::size_t(pool.cells()) * channels;
    std::vector<float> states(pool.size() * size);
    for (int i = 0; i < pool.size(); ++i) {
        pool.read(std::span(states).subspan(i * size, size), i);
    }
    return states;
}
Model Trainer::model() const { return {impl_->config.rule, impl_->loop->good(), impl_->history()}; }
void Trainer::set_target_name(std::string name) { impl_->target_name = std::move(name); }

void Trainer::save_checkpoint(const std::filesystem::path& path) const {
    nca::save_checkpoint(path,
                         {
                             .config = impl_->config,
                             .target_name = impl_->target_name,
                             .target_hash = hash_target(impl_->target),
                             .iteration = impl_->iteration,
                             .recoveries = impl_->recoveries,
                             .failures = impl_->failures,
                             .good_iterations = impl_->good_iterations,
                             .learnt = impl_->learnt,
                             .recent_losses = impl_->recent_losses,
                             .current = impl_->current(),
                             .anchor = impl_->anchor(),
                             .pool = impl_->loop->pool(config().pool),
                         },
                         impl_->history());
}

void Trainer::resume(const std::filesystem::path& path) {
    const Checkpoint checkpoint = load_checkpoint(path);
    const std::string difference = first_difference(checkpoint.config, impl_->config);
    if (!difference.empty()) {
        throw FormatError(fmt::format(
            "{} is a checkpoint of another configuration: its {}; give the options that it was "
            "made with",
            path.string(), difference));
    }
    if (checkpoint.target_hash != hash_target(impl_->target)) {
        throw FormatError(fmt::format(
            "{} is a checkpoint of another target ({}): give the image that it was made with",
            path.string(), checkpoint.target_name));
    }
    impl_->loop->load(checkpoint.current, checkpoint.anchor);
    if (config().pool > 0) impl_->loop->load_pool(checkpoint.pool);
    impl_->updates = checkpoint.current.updates;
    impl_->anchor_updates = checkpoint.anchor.updates;
    impl_->gave_up.clear();
    impl_->iteration = checkpoint.iteration;
    impl_->recoveries = checkpoint.recoveries;
    impl_->failures = checkpoint.failures;
    impl_->good_iterations = checkpoint.good_iterations;
    impl_->learnt = checkpoint.learnt;
    impl_->recent_losses = checkpoint.recent_losses;
    impl_->target_name = checkpoint.target_name;
}

}  // namespace nca
