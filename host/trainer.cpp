// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nca/error.hpp>
#include <nca/trainer.hpp>
#include <numeric>

#include "host/checkpoint.hpp"

namespace nca {
namespace {

constexpr std::size_t loss_window = 100;     // losses that the history's mean is taken over
constexpr int anchor_interval = 50;          // iterations between two anchors
constexpr int enough_good_iterations = 100;  // after these, earlier failures are forgiven
constexpr int most_failures = 12;       // then training gives up: a rate of 10 is 2.4e-3 by then
constexpr double exploded_loss = 1000;  // colours are in 0..1, a blank grid's loss is below 1
// Adam squares gradients, and a second moment that is infinite once stays so for ever.
constexpr double exploded_gradient = 1e18;

// Uniform in 0 .. 1, [word / 2^32].
double uniform(std::uint32_t word) { return word * 0x1p-32; }

Weights initial_weights(const TrainingConfig& config) {
    Weights weights(config.output_bias);
    const auto fill = [&](std::uint32_t tensor, float* values, std::size_t size, double bound) {
        for (std::uint32_t i = 0; i < size; ++i) {
            const auto words = philox(config.seed, Purpose::initial_weights, {i / 4, tensor, 0, 0});
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

int draw_steps(const TrainingConfig& config, std::int64_t iteration) {
    const auto words =
        philox(config.seed, Purpose::step_count, {0, 0, 0, std::uint32_t(iteration)});
    const int choices = config.most_steps - config.fewest_steps;
    return config.fewest_steps + int(uniform(words[0]) * choices);
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

bool all_finite(std::span<const float> values) {
    return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

double mean(std::span<const float> values) {
    return std::accumulate(values.begin(), values.end(), 0.0) / double(values.size());
}

}  // namespace

// Weights, moments, states and target live where the engine does; the host keeps three sets of
// weights: the current ones, the last good ones, and the anchor.
struct Trainer::Impl {
    Impl(const Image& image, const TrainingConfig& configuration, const Device& device)
        : config(configuration),
          engine(make_engine(device)),
          target(make_target(image, config)),
          current(initial_weights(config)),
          good(current),
          anchor(current),
          device_target(upload(target)),
          weights(upload(good.all())),
          first_moments(engine->allocate(good.all().size())),
          second_moments(engine->allocate(good.all().size())),
          grad_weights(engine->allocate(good.all().size())),
          norms(engine->allocate(4)),
          losses(engine->allocate(std::size_t(config.batch))),
          living(engine->allocate(std::size_t(config.batch))),
          start(engine->make_state(config.batch, config.grid(), config.grid())),
          grad_state(engine->make_state(config.batch, config.grid(), config.grid())) {
        const auto cell = config.rule.start_values();
        for (int sample = 0; sample < config.batch; ++sample) {
            const int middle = config.grid() / 2;
            engine->copy_from_host(start.view().cell(sample, middle, middle), cell);
        }
    }

    Buffer upload(std::span<const float> values) {
        Buffer buffer = engine->allocate(values.size());
        engine->copy_from_host(buffer.data(), values);
        return buffer;
    }

    std::vector<float> download(const Buffer& buffer) const {
        std::vector<float> values(buffer.size());
        engine->copy_to_host(values, buffer.data());
        return values;
    }

    Parameters download_parameters() const {
        Parameters parameters(current);
        parameters.first_moments = download(first_moments);
        parameters.second_moments = download(second_moments);
        parameters.updates = updates;
        return parameters;
    }

    void upload_parameters(const Parameters& parameters) {
        current = parameters.weights;
        engine->copy_from_host(weights.data(), current.all());
        engine->copy_from_host(first_moments.data(), parameters.first_moments);
        engine->copy_from_host(second_moments.data(), parameters.second_moments);
        updates = parameters.updates;
    }

    // Forward, loss, backward and update. Fills the report; says what is wrong where the iteration
    // failed, nothing where it went well.
    std::string train(IterationReport& report) {
        const bool bias = config.output_bias;
        // A new seed after each recovery, so that what failed is not drawn again.
        const FireKey key{config.seed + 0x9e3779b9U * std::uint32_t(recoveries),
                          std::uint32_t(iteration)};
        const Tape tape =
            engine->forward(config.rule, view_parameters<const float>(weights.data(), bias),
                            start.view(), {report.steps, key});
        engine->loss(grad_state.view(), losses.data(), living.data(), tape.last(),
                     {device_target.data(), config.grid(), config.grid()});
        const std::vector<float> living_cells = download(living);
        report.loss = mean(download(losses));
        report.dead = int(std::count(living_cells.begin(), living_cells.end(), 0.0F));
        if (!std::isfinite(report.loss)) return "the loss is not finite";
        if (report.loss > exploded_loss) return fmt::format("the loss is {:.3g}", report.loss);
        if (report.dead == config.batch) return "every sample of the batch died";
        // These weights are good, the update to come has yet to show it.
        good = current;

        engine->backward(tape, grad_state.view(), view_parameters(grad_weights.data(), bias),
                         Accumulate::no);
        double squares = 0;
        for (const float g : download(grad_weights)) squares += double(g) * g;
        report.gradient_norm = std::sqrt(squares);
        if (!(report.gradient_norm <= exploded_gradient)) {
            return fmt::format("the gradient's norm is {:.3g}", report.gradient_norm);
        }
        if (good_iterations % anchor_interval == 0) anchor = download_parameters();
        const AdamOptions options{.learning_rate = float(report.learning_rate),
                                  .beta1 = config.beta1,
                                  .beta2 = config.beta2,
                                  .normalise_gradients = config.normalise_gradients,
                                  .update = ++updates};
        engine->adam(weights.data(), first_moments.data(), second_moments.data(),
                     grad_weights.data(), norms.data(), bias, options);
        engine->copy_to_host(current.all(), weights.data());
        return all_finite(current.all()) ? "" : "an update made a weight that is not finite";
    }

    void recover(IterationReport& report, const std::string& reason) {
        upload_parameters(anchor);
        good = anchor.weights;
        good_iterations = 0;
        ++recoveries;
        if (++failures > most_failures) {
            throw Error(fmt::format(
                "training failed {} times in a row, the last time in iteration {} because {}: the "
                "last good weights are kept; start again with a lower learning rate or another "
                "seed",
                failures, iteration, reason));
        }
        report.recovery =
            fmt::format("{}: back to the last good weights, new seed, learning rate times {:.3g}",
                        reason, std::ldexp(1.0, -recoveries));
    }

    IterationReport iterate() {
        IterationReport report;
        report.iteration = iteration;
        report.steps = draw_steps(config, iteration);
        report.learning_rate = std::ldexp(scheduled_rate(config, iteration), -recoveries);
        const std::string failure = train(report);
        if (failure.empty()) {
            recent_losses.push_back(report.loss);
            if (recent_losses.size() > loss_window) recent_losses.erase(recent_losses.begin());
            if (++good_iterations >= enough_good_iterations) failures = 0;
        } else {
            recover(report, failure);
        }
        ++iteration;
        return report;
    }

    TrainingHistory history() const {
        // Not a number as long as there is none.
        double loss = recent_losses.empty() ? std::numeric_limits<double>::quiet_NaN() : 0;
        for (const double value : recent_losses) loss += value / double(recent_losses.size());
        return {.preset = config.preset,
                .target = target_name,
                .iterations = iteration,
                .height = config.grid(),
                .width = config.grid(),
                .padding = config.padding,
                .loss = loss,
                .seed = config.seed};
    }

    TrainingConfig config;
    std::unique_ptr<Engine> engine;
    std::vector<float> target;
    Weights current;  // the same as on the engine
    Weights good;     // the last that a forward pass has tried
    Parameters anchor;
    Buffer device_target, weights, first_moments, second_moments, grad_weights, norms, losses,
        living;
    State start;
    State grad_state;
    std::string target_name;
    std::int64_t iteration = 0;
    std::int64_t updates = 0;
    int recoveries = 0;
    int failures = 0;
    int good_iterations = 0;
    std::vector<double> recent_losses;
};

Trainer::Trainer(const Image& target, const TrainingConfig& config, const Device& device)
    : impl_(std::make_unique<Impl>(target, config, device)) {}
Trainer::~Trainer() = default;
Trainer::Trainer(Trainer&&) noexcept = default;
Trainer& Trainer::operator=(Trainer&&) noexcept = default;

IterationReport Trainer::iterate() { return impl_->iterate(); }
std::int64_t Trainer::iteration() const { return impl_->iteration; }
const TrainingConfig& Trainer::config() const { return impl_->config; }
Engine& Trainer::engine() const { return *impl_->engine; }
const std::vector<float>& Trainer::target() const { return impl_->target; }
Model Trainer::model() const { return {impl_->config.rule, impl_->good, impl_->history()}; }
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
                             .recent_losses = impl_->recent_losses,
                             .current = impl_->download_parameters(),
                             .anchor = impl_->anchor,
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
    impl_->upload_parameters(checkpoint.current);
    impl_->good = checkpoint.current.weights;
    impl_->anchor = checkpoint.anchor;
    impl_->iteration = checkpoint.iteration;
    impl_->recoveries = checkpoint.recoveries;
    impl_->failures = checkpoint.failures;
    impl_->good_iterations = checkpoint.good_iterations;
    impl_->recent_losses = checkpoint.recent_losses;
    impl_->target_name = checkpoint.target_name;
}

}  // namespace nca
