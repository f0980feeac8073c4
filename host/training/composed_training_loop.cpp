// SPDX-License-Identifier: MIT
#include "host/training/composed_training_loop.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "host/iteration/start_places.hpp"

namespace nca {
namespace {

bool all_finite(std::span<const float> values) {
    return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

double mean(std::span<const float> values) {
    return std::accumulate(values.begin(), values.end(), 0.0) / double(values.size());
}

// Weights, moments, states and target are in the engine's memory. The good weights, the anchor and
// the pool are in host memory.
class ComposedTrainingLoop final : public TrainingLoop {
public:
    ComposedTrainingLoop(Engine& engine, const TrainingConfig& config,
                         std::span<const float> target)
        : engine_(engine),
          config_(config),
          current_(config.output_bias),
          good_(config.output_bias),
          anchor_(current_),
          target_(engine.allocate(target.size())),
          weights_(engine.allocate(current_.all().size())),
          first_moments_(engine.allocate(current_.all().size())),
          second_moments_(engine.allocate(current_.all().size())),
          grad_weights_(engine.allocate(current_.all().size())),
          norms_(engine.allocate(4)),
          losses_(engine.allocate(std::size_t(config.batch))),
          living_(engine.allocate(std::size_t(config.batch))),
          start_(engine.make_state(config.batch, config.grid(), config.grid())),
          grad_state_(engine.make_state(config.batch, config.grid(), config.grid())),
          measured_(config.latest_loss_step > 0
                        ? engine.make_state(config.batch, config.grid(), config.grid())
                        : State()),
          sample_(start_.view().sample(0).size()) {
        engine.copy_from_host(target_.data(), target);
        const auto cell = config.rule.start_values();
        for (int sample = 0; sample < config.batch; ++sample) {
            for (const Place& place : start_places(config)) {
                engine.copy_from_host(start_.view().cell(sample, place.y, place.x), cell);
            }
        }
        if (config.pool > 0) {
            measure(start_.view());
            start_cell_ = StatePool(1, int(sample_.size() / channels));
            start_cell_.write(0, download_sample(start_.view(), 0), download(losses_)[0]);
            reset_pool();
        }
    }

    int queue_length() const override { return 1; }

    std::vector<IterationOutcome> run(std::span<const IterationPlan> plans) override {
        std::vector<IterationOutcome> outcomes(plans.size());
        for (std::size_t i = 0; i < plans.size(); ++i) {
            outcomes[i].verdict = iterate(plans[i], outcomes[i]);
            if (outcomes[i].verdict != Verdict::good) break;
        }
        return outcomes;
    }

    Parameters current() const override {
        Parameters parameters(current_);
        parameters.first_moments = download(first_moments_);
        parameters.second_moments = download(second_moments_);
        return parameters;
    }
    Parameters anchor() const override { return anchor_; }
    Weights good() const override { return good_; }

    void load(const Parameters& current, const Parameters& anchor, const Weights& good) override {
        anchor_ = anchor;
        good_ = good;
        upload(current);
    }
    void return_to_anchor() override {
        good_ = anchor_.weights;
        upload(anchor_);
    }

    StatePool pool(int count) const override {
        if (count == 0) return {};
        StatePool first(count, pool_.cells());
        for (int i = 0; i < count; ++i) first.set_entry(i, pool_.entry(i));
        return first;
    }
    void load_pool(const StatePool& pool) override { pool_ = pool; }
    void reset_pool() override {
        pool_ = StatePool(config_.pool, start_cell_.cells());
        for (int i = 0; i < config_.pool; ++i) pool_.set_entry(i, start_cell_.entry(0));
    }

    std::vector<float> states_before() const override { return download(start_.view()); }
    std::vector<float> states_after() const override {
        return tape_ ? download(tape_.last()) : std::vector<float>(start_.view().size());
    }

private:
    std::vector<float> download(const Buffer& buffer) const {
        std::vector<float> values(buffer.size());
        engine_.copy_to_host(values, buffer.data());
        return values;
    }

    std::vector<float> download(ConstStateView view) const {
        std::vector<float> values(view.size());
        engine_.copy_to_host(values, view.data);
        return values;
    }

    // The states that have the losses; copied where they are not the last ones.
    ConstStateView measured_states(const IterationPlan& plan) {
        if (plan.loss_steps.empty()) return tape_.last();
        for (int i = 0; i < config_.batch; ++i) {
            download_sample(tape_.state(plan.loss_steps[std::size_t(i)]), i);
            engine_.copy_from_host(measured_.view().sample(i).data, sample_);
        }
        return measured_.view();
    }

    // Copies into sample_, which allocates nothing.
    std::span<const float> download_sample(ConstStateView batch, int sample) {
        engine_.copy_to_host(sample_, batch.sample(sample).data);
        return sample_;
    }

    void upload(const Parameters& parameters) {
        current_ = parameters.weights;
        engine_.copy_from_host(weights_.data(), current_.all());
        engine_.copy_from_host(first_moments_.data(), parameters.first_moments);
        engine_.copy_from_host(second_moments_.data(), parameters.second_moments);
    }

    // Computes losses, their gradient and the numbers of living cells.
    void measure(ConstStateView states) {
        engine_.loss(grad_state_.view(), losses_.data(), living_.data(), states,
                     {target_.data(), config_.grid(), config_.grid()});
    }

    void kill(const DamageCircle& circle) {
        const int grid = config_.grid();
        for (int cell = 0; cell < grid * grid; ++cell) {
            if (!circle.covers(cell / grid, cell % grid)) continue;
            std::fill_n(&sample_[std::size_t(cell) * channels], channels, 0.0F);
        }
    }

    // Fills start_ with the states that the iteration starts from.
    void take_samples(const IterationPlan& plan) {
        std::vector<float> losses;
        for (const int index : plan.samples) losses.push_back(pool_.loss(index));
        const std::vector<int> rank = ranks(losses);
        for (int i = 0; i < config_.batch; ++i) {
            const bool worst = rank[std::size_t(i)] == config_.batch - 1;
            if (worst) {
                start_cell_.read(sample_, 0);
            } else {
                pool_.read(sample_, plan.samples[std::size_t(i)]);
            }
            if (!worst && rank[std::size_t(i)] < config_.damaged) {
                kill(plan.damage[std::size_t(rank[std::size_t(i)])]);
            }
            engine_.copy_from_host(start_.view().sample(i).data, sample_);
        }
    }

    // Puts the iteration's last states into the pool. Returns how many of its samples became the
    // start cell, including the one that did before the rollout.
    int put_samples(const IterationPlan& plan) {
        if (!plan.loss_steps.empty()) measure(tape_.last());
        const std::vector<float> losses = download(losses_);
        const std::vector<float> living_cells = download(living_);
        int reset = 1;
        for (int i = 0; i < config_.batch; ++i) {
            const float loss = losses[std::size_t(i)];
            const int index = plan.samples[std::size_t(i)];
            if (living_cells[std::size_t(i)] > 0 && loss <= exploded_loss) {
                pool_.write(index, download_sample(tape_.last(), i), loss);
            } else {
                pool_.set_entry(index, start_cell_.entry(0));
                ++reset;
            }
        }
        return reset;
    }

    Verdict iterate(const IterationPlan& plan, IterationOutcome& outcome) {
        const bool bias = config_.output_bias;
        if (config_.pool > 0) take_samples(plan);
        tape_ = {};  // frees its memory for the next one
        tape_ = engine_.forward(config_.rule, view_parameters<const float>(weights_.data(), bias),
                                start_.view(), {plan.steps, plan.key});
        measure(measured_states(plan));
        const std::vector<float> living_cells = download(living_);
        const std::vector<float> losses = download(losses_);
        outcome.loss = mean(losses);
        outcome.dead = int(std::count(living_cells.begin(), living_cells.end(), 0.0F));
        if (!std::isfinite(outcome.loss)) return Verdict::loss_not_finite;
        if (outcome.loss > exploded_loss) return Verdict::loss_exploded;
        if (outcome.dead == config_.batch) return Verdict::all_dead;
        // The forward pass has tried these weights. It has not tried those after the update.
        good_ = current_;

        engine_.backward(tape_, {.from_steps = plan.loss_steps}, grad_state_.view(),
                         view_parameters(grad_weights_.data(), bias), Accumulate::no);
        double squares = 0;
        for (const float g : download(grad_weights_)) squares += double(g) * g;
        outcome.gradient_norm = std::sqrt(squares);
        if (!(outcome.gradient_norm <= exploded_gradient)) return Verdict::gradient_exploded;
        if (plan.set_anchor) anchor_ = current();
        const AdamOptions options{.learning_rate = plan.learning_rate,
                                  .beta1 = config_.beta1,
                                  .beta2 = config_.beta2,
                                  .normalise_gradients = config_.normalise_gradients,
                                  .update = plan.update};
        engine_.adam(weights_.data(), first_moments_.data(), second_moments_.data(),
                     grad_weights_.data(), norms_.data(), bias, options);
        engine_.copy_to_host(current_.all(), weights_.data());
        if (!all_finite(current_.all())) return Verdict::weight_not_finite;
        if (config_.pool > 0) outcome.reset = put_samples(plan);
        return Verdict::good;
    }

    Engine& engine_;
    TrainingConfig config_;
    Weights current_;  // the same as on the engine
    Weights good_;     // the last ones that a forward pass has tried
    Parameters anchor_;
    Buffer target_, weights_, first_moments_, second_moments_, grad_weights_, norms_, losses_,
        living_;
    State start_;
    State grad_state_;
    State measured_;  // those of loss_steps
    Tape tape_;
    std::vector<float> sample_;  // one state, moved from or to the pool
    StatePool pool_;
    StatePool start_cell_;  // one state
};

}  // namespace

std::unique_ptr<TrainingLoop> make_composed_training_loop(Engine& engine,
                                                          const TrainingConfig& config,
                                                          std::span<const float> target) {
    return std::make_unique<ComposedTrainingLoop>(engine, config, target);
}

std::unique_ptr<TrainingLoop> make_training_loop(Engine& engine, const TrainingConfig& config,
                                                 std::span<const float> target) {
    if (auto* own = dynamic_cast<HasTrainingLoop*>(&engine)) {
        return own->make_training_loop(config, target);
    }
    return make_composed_training_loop(engine, config, target);
}

}  // namespace nca
