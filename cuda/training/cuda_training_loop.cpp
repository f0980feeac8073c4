// SPDX-License-Identifier: MIT
#include "cuda/training/cuda_training_loop.hpp"
#include "cuda/training/training_kernels.hpp"

#include <algorithm>
#include <cstddef>
#include <map>
#include <new>

#include "cuda/bands/band_cut.hpp"
#include "cuda/device/check.hpp"
#include "cuda/rollout/rollout.hpp"
#include "host/iteration/start_places.hpp"

namespace nca::cuda {
namespace {

class TrainingStream {
public:
    TrainingStream() {
        check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
    }
    ~TrainingStream() {
        cudaStreamSynchronize(stream_);
        cudaStreamDestroy(stream_);
    }
    TrainingStream(const TrainingStream&) = delete;
    TrainingStream& operator=(const TrainingStream&) = delete;

    operator cudaStream_t() const { return stream_; }
    void wait() const { check(cudaStreamSynchronize(stream_), "waiting for the device"); }

private:
    cudaStream_t stream_ = nullptr;
};

struct GraphDeleter {
    void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
};
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, GraphDeleter>;

struct PinnedDeleter {
    void operator()(TrainingControl* control) const { cudaFreeHost(control); }
};

std::unique_ptr<TrainingControl, PinnedDeleter> make_pinned_control() {
    void* memory = nullptr;
    check(cudaMallocHost(&memory, sizeof(TrainingControl)), "asking for pinned host memory");
    return std::unique_ptr<TrainingControl, PinnedDeleter>(new (memory) TrainingControl{});
}

class CudaTrainingLoop final : public TrainingLoop {
public:
    CudaTrainingLoop(const CudaDevice& device, const TrainingConfig& config,
                     std::span<const float> target)
        : device_(device),
          config_(config),
          grid_{config.batch, config.grid(), config.grid()},
          plan_(plan_rollout(device.limits, device.asked_for, grid_, config.rule,
                             row_load_of(target, grid_.height, grid_.width, config.rule.edges))),
          rule_(step_rule(config.rule)),
          count_(parameter_count(config.output_bias)),
          control_(1, "the training's control"),
          host_control_(make_pinned_control()),
          parameters_(3 * count_, "weights and moments"),
          anchor_(3 * count_, "the anchor"),
          good_(count_, "the good weights"),
          grad_weights_(count_, "the gradients"),
          norms_(4, "norms"),
          squares_(4, "norms"),
          losses_(2 * std::size_t(config.batch), "losses"),
          loss_partial_(std::size_t(loss_partials(grid_)), "sums of the loss"),
          target_(target.size(), "the target"),
          start_(grid_.floats(), "the start states"),
          grad_state_(grid_.floats(), "the gradient of the loss"),
          tape_(grid_, config.most_steps - 1, plan_.cut) {
        if (config.latest_loss_step > 0) make_loss_steps();
        // All of it: the padding between the values of outcomes is copied back, too.
        check(cudaMemsetAsync(control_.data(), 0, sizeof(TrainingControl), stream_),
              "clearing the training's control");
        upload(target_.data(), target);
        const auto values = config.rule.start_values();
        std::copy(values.begin(), values.end(), start_cell_.values);
        for (const Place& place : start_places(config)) {
            start_cell_.cells[start_cell_.count++] = place.y * grid_.width + place.x;
        }
        launch_start_states(start_.data(), grid_, start_cell_, stream_);
        stream_.wait();
        if (config.pool > 0) make_pool();
        if (plan_.in_bands()) {
            bands_.reserve(grid_, plan_.cut, device_.kernels.precision, tape_.steps, true);
            prepare_update();
        } else {
            forward_.reserve(grid_);
            backward_.reserve(grid_);
        }
    }

    // Fewer where an iteration is long: a queue takes about 0.2 s at 5e9 cells times steps a
    // second, so that a report or a stop does not wait longer.
    int queue_length() const override {
        const double cell_steps = double(grid_.cells()) * (config_.most_steps - 1);
        return int(std::clamp(1e9 / cell_steps, 1.0, double(most_queued_iterations)));
    }

    std::vector<IterationOutcome> run(std::span<const IterationPlan> plans) override {
        const DeviceGuard guard(device_.index());
        // What can fail comes first: later, iterations would be running that nobody counts.
        for (const IterationPlan& plan : plans) make_graph(plan.steps);
        host_control_->cursor = host_control_->failed = host_control_->bad_weight = 0;
        for (std::size_t i = 0; i < plans.size(); ++i) {
            host_control_->plans[i] = {plans[i].key,
                                       adam_rates({.learning_rate = plans[i].learning_rate,
                                                   .beta1 = config_.beta1,
                                                   .beta2 = config_.beta2,
                                                   .update = plans[i].update}),
                                       plans[i].set_anchor};
        }
        send_draws(plans);
        std::size_t started = 0;
        try {
            started = start(plans);
        } catch (...) {
            // What was started still reads and writes the host's memory, which the next call
            // changes.
            cudaStreamSynchronize(stream_);
            cudaGetLastError();
            throw;
        }
        stream_.wait();
        last_steps_ = plans[started - 1].steps;
        return {host_control_->outcomes, host_control_->outcomes + started};
    }

    Parameters current() const override { return download_parameters(parameters_.data()); }
    Parameters anchor() const override { return download_parameters(anchor_.data()); }
    Weights good() const override {
        Weights weights(config_.output_bias);
        download(weights.all(), good_.data());
        return weights;
    }

    void load(const Parameters& current, const Parameters& anchor, const Weights& good) override {
        upload_parameters(parameters_.data(), current);
        upload_parameters(anchor_.data(), anchor);
        upload(good_.data(), good.all());
        pack_current();
    }

    void return_to_anchor() override {
        const DeviceGuard guard(device_.index());
        const auto copy = [&](float* to, std::size_t size) {
            check(cudaMemcpyAsync(to, anchor_.data(), size * sizeof(float),
                                  cudaMemcpyDeviceToDevice, stream_),
                  "returning to the anchor");
        };
        copy(parameters_.data(), 3 * count_);
        copy(good_.data(), count_);
        pack_current();
        stream_.wait();
    }

    StatePool pool(int count) const override {
        if (count == 0) return {};
        const std::size_t floats = grid_.floats() / config_.batch;
        StatePool result(count, int(floats / channels));
        std::vector<float> losses(static_cast<std::size_t>(count));
        download(losses, pool_losses_.data());
        std::vector<float> state(floats);
        for (int i = 0; i < count; ++i) {
            download(state, pool_states_.data() + i * floats);
            result.write(i, state, losses[std::size_t(i)]);
        }
        return result;
    }

    void load_pool(const StatePool& pool) override {
        const std::size_t floats = grid_.floats() / config_.batch;
        std::vector<float> losses, state(floats);
        for (int i = 0; i < pool.size(); ++i) {
            pool.read(state, i);
            upload(pool_states_.data() + i * floats, state);
            losses.push_back(pool.loss(i));
        }
        upload(pool_losses_.data(), losses);
    }

    void reset_pool() override {
        const DeviceGuard guard(device_.index());
        const BatchShape all = {config_.pool, grid_.height, grid_.width};
        launch_start_states(pool_states_.data(), all, start_cell_, stream_);
        upload(pool_losses_.data(), std::vector<float>(std::size_t(config_.pool), start_loss_));
    }

    std::vector<float> states_before() const override { return download_states(start_.data()); }
    std::vector<float> states_after() const override {
        return last_steps_ > 0 ? download_states(tape_.state(last_steps_))
                               : std::vector<float>(grid_.floats());
    }

private:
    // Sends the plans, starts their iterations and asks for the outcomes; returns how many were
    // started. Where a launch is refused in the middle, those before it count, and the next call
    // throws.
    std::size_t start(std::span<const IterationPlan> plans) const {
        check(cudaMemcpyAsync(control_.data(), host_control_.get(),
                              offsetof(TrainingControl, outcomes), cudaMemcpyHostToDevice, stream_),
              "sending the plans of iterations");
        std::size_t started = 0;
        for (const IterationPlan& plan : plans) {
            const cudaError_t error = cudaGraphLaunch(graphs_.at(plan.steps).get(), stream_);
            if (started == 0) check(error, "starting an iteration");
            if (error != cudaSuccess) break;
            ++started;
        }
        cudaGetLastError();
        check(cudaMemcpyAsync(host_control_->outcomes, &control_.data()->outcomes,
                              started * sizeof(IterationOutcome), cudaMemcpyDeviceToHost, stream_),
              "asking for outcomes");
        return started;
    }

    void make_loss_steps() {
        const auto batch = std::size_t(config_.batch);
        loss_steps_ = {std::size_t{most_queued_iterations} * batch, "the loss steps of plans"};
        from_steps_ = {batch, "the loss steps"};
        if (config_.pool > 0) last_losses_ = {2 * batch, "the last states' losses"};
    }

    void make_pool() {
        const std::size_t size = std::size_t(config_.pool);
        pool_states_ = {size * (grid_.floats() / config_.batch), "the pool"};
        pool_losses_ = {size, "the pool's losses"};
        samples_ = {std::size_t{most_queued_iterations} * config_.batch, "the samples of plans"};
        damage_ = {std::size_t{most_queued_iterations} * config_.damaged + 1, "damage of plans"};
        launch_loss(grad_state_.data(), losses_.data(), losses_.data() + config_.batch,
                    loss_partial_.data(), start_.data(), nullptr, target_.data(), grid_, nullptr,
                    stream_);
        download({&start_loss_, 1}, losses_.data());
        reset_pool();
    }

    PoolArgs pool_args() const {
        return {pool_states_.data(), pool_losses_.data(), samples_.data(), damage_.data(),
                config_.damaged,     start_cell_,         start_loss_};
    }

    // Sends the steps of the plans' losses, which samples of the pool they take, and their damage.
    void send_draws(std::span<const IterationPlan> plans) {
        std::vector<int> samples, loss_steps;
        std::vector<DamageCircle> damage;
        for (const IterationPlan& plan : plans) {
            samples.insert(samples.end(), plan.samples.begin(), plan.samples.end());
            damage.insert(damage.end(), plan.damage.begin(), plan.damage.end());
            loss_steps.insert(loss_steps.end(), plan.loss_steps.begin(), plan.loss_steps.end());
        }
        if (!loss_steps.empty()) upload(loss_steps_.data(), loss_steps);
        if (!samples.empty()) upload(samples_.data(), samples);
        if (!damage.empty()) upload(damage_.data(), damage);
    }

    std::vector<float> download_states(const float* from) const {
        std::vector<float> states(grid_.floats());
        download(states, from);
        return states;
    }

    template <class T>
    void upload(T* to, const std::vector<T>& values) const {
        upload(to, std::span<const T>(values));
    }
    template <class T>
    void upload(T* to, std::span<const T> values) const {
        const DeviceGuard guard(device_.index());
        check(cudaMemcpyAsync(to, values.data(), values.size_bytes(), cudaMemcpyHostToDevice,
                              stream_),
              "copying to the device");
        stream_.wait();
    }

    void download(std::span<float> values, const float* from) const {
        const DeviceGuard guard(device_.index());
        check(cudaMemcpyAsync(values.data(), from, values.size_bytes(), cudaMemcpyDeviceToHost,
                              stream_),
              "copying from the device");
        stream_.wait();
    }

    Parameters download_parameters(const float* all) const {
        Parameters parameters{Weights(config_.output_bias)};
        download(parameters.weights.all(), all);
        download(parameters.first_moments, all + count_);
        download(parameters.second_moments, all + 2 * count_);
        return parameters;
    }

    void upload_parameters(float* all, const Parameters& parameters) const {
        upload(all, parameters.weights.all());
        upload(all + count_, parameters.first_moments);
        upload(all + 2 * count_, parameters.second_moments);
    }

    void prepare_update() {
        slice_squares_ = {update_slices, "norms"};
        const std::vector<BlockArrival> none(update_slices + 1);
        arrivals_ = {none.size(), "the update's blocks"};
        upload(arrivals_.data(), none);
        // All of the update's blocks are resident at once, beside those of other engines on the
        // device.
        const int fit = device_.limits.multiprocessors * resident_update_blocks();
        update_blocks_ =
            std::clamp(fit / std::max(device_.asked_for.engines_on_device, 1), 1, update_slices);
    }

    // An iteration in bands packs the weights for the next one. This packs them for the first one.
    void pack_current() {
        if (!plan_.in_bands()) return;
        const DeviceGuard guard(device_.index());
        launch_pack_model(tape_.model,
                          view_parameters<const float>(parameters_.data(), config_.output_bias),
                          rule_, {}, nullptr, device_.kernels.precision, stream_);
    }

    // One iteration of so many steps; everything else that changes is in the control block.
    void queue_iteration(int steps) {
        const bool pool = config_.pool > 0;
        if (from_steps_.data() != nullptr) {
            launch_plan_steps(from_steps_.data(), loss_steps_.data(), config_.batch,
                              control_.data(), stream_);
        }
        if (pool) launch_take_samples(start_.data(), grid_, pool_args(), control_.data(), stream_);
        if (plan_.in_bands()) {
            queue_iteration_in_bands(steps);
        } else {
            queue_iteration_by_steps(steps);
        }
        if (pool) {
            const float* const losses = losses_of_last(steps);
            launch_put_samples(pool_args(), tape_.state(steps), losses, losses + config_.batch,
                               grid_, control_.data(), stream_);
        }
        if (pool || !plan_.in_bands()) launch_close_iteration(control_.data(), stream_);
    }

    // Losses and living cells of the last states, [2, batch].
    const float* losses_of_last(int steps) {
        if (last_losses_.data() == nullptr) return losses_.data();
        // The way back no longer needs the gradient of the loss.
        launch_loss(grad_state_.data(), last_losses_.data(), last_losses_.data() + config_.batch,
                    loss_partial_.data(), tape_.state(steps), nullptr, target_.data(), grid_,
                    nullptr, stream_);
        return last_losses_.data();
    }

    void queue_iteration_by_steps(int steps) {
        const bool bias = config_.output_bias;
        const int* const from_steps = from_steps_.data();
        launch_pack_model(tape_.model, view_parameters<const float>(parameters_.data(), bias),
                          rule_, {}, control_.data(), device_.kernels.precision, stream_);
        queue_forward(tape_, start_.data(), rule_, steps, forward_, device_.kernels, stream_);
        launch_loss(grad_state_.data(), losses_.data(), losses_.data() + config_.batch,
                    loss_partial_.data(), tape_.state(from_steps != nullptr ? 0 : steps),
                    from_steps, target_.data(), grid_, control_.data(), stream_);
        queue_backward(
            nullptr, view_parameters(grad_weights_.data(), bias),
            {.grad_last = grad_state_.data(), .from_steps = from_steps, .step_gradients = nullptr},
            tape_, rule_, steps, false, backward_, device_.kernels, stream_);
        launch_adam(adam_args(), stream_);
    }

    void queue_iteration_in_bands(int steps) {
        queue_training_in_bands({.first_state = start_.data(),
                                 .target = target_.data(),
                                 .from_steps = from_steps_.data(),
                                 .control = control_.data()},
                                tape_, rule_, steps, bands_, device_.kernels.precision, stream_);
        launch_update_weights({.adam = adam_args(),
                               .partial = bands_.partial.data(),
                               .partials = grid_.batch * plan_.cut.bands,
                               .loss_partial = bands_.losses.data(),
                               .losses_per_sample = plan_.cut.bands,
                               .loss = losses_.data(),
                               .living = losses_.data() + config_.batch,
                               .squares = slice_squares_.data(),
                               .arrivals = arrivals_.data(),
                               .packed = &tape_.model->tensor,
                               .grid = grid_,
                               .close = config_.pool == 0},
                              update_blocks_, stream_);
    }

    AdamArgs adam_args() const {
        return {.weights = parameters_.data(),
                .first_moments = parameters_.data() + count_,
                .second_moments = parameters_.data() + 2 * count_,
                .grad_weights = grad_weights_.data(),
                .norms = norms_.data(),
                .squares = squares_.data(),
                .output_bias = config_.output_bias,
                .normalise = config_.normalise_gradients,
                .beta1 = config_.beta1,
                .beta2 = config_.beta2,
                .epsilon = AdamOptions{}.epsilon,
                .rates = {},
                .control = control_.data(),
                .good = good_.data(),
                .anchor = anchor_.data()};
    }

    // One graph for each number of steps, made when it is first wanted.
    void make_graph(int steps) {
        Graph& graph = graphs_[steps];
        if (!graph) graph = capture([&] { queue_iteration(steps); });
    }

    template <class Work>
    Graph capture(Work work) const {
        check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
              "capturing an iteration");
        cudaGraph_t graph = nullptr;
        try {
            work();
        } catch (...) {
            cudaStreamEndCapture(stream_, &graph);
            if (graph != nullptr) cudaGraphDestroy(graph);
            throw;
        }
        check(cudaStreamEndCapture(stream_, &graph), "capturing an iteration");
        cudaGraphExec_t executable = nullptr;
        const cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
        cudaGraphDestroy(graph);
        check(error, "making the graph of an iteration");
        return Graph(executable);
    }

    CudaDevice device_;
    TrainingConfig config_;
    BatchShape grid_;
    RolloutPlan plan_;
    StepRule rule_;
    std::size_t count_;  // of parameters
    TrainingStream stream_;
    DeviceArray<TrainingControl> control_;
    std::unique_ptr<TrainingControl, PinnedDeleter> host_control_;
    DeviceArray<float> parameters_;  // weights, first and second moments
    DeviceArray<float> anchor_;      // the same
    DeviceArray<float> good_;        // weights
    DeviceArray<float> grad_weights_, norms_;
    DeviceArray<double> squares_;
    DeviceArray<float> losses_;  // and living cells, [2, batch]
    DeviceArray<LossPartial> loss_partial_;
    DeviceArray<float> target_, start_, grad_state_;
    // Where samples have their losses at steps of their own only.
    DeviceArray<int> loss_steps_;     // of the queue's plans
    DeviceArray<int> from_steps_;     // of the iteration that runs
    DeviceArray<float> last_losses_;  // with a pool: as losses_, of the last states
    StartCell start_cell_ = {};
    // With a pool only.
    DeviceArray<float> pool_states_, pool_losses_;
    DeviceArray<int> samples_;          // of the queue's plans
    DeviceArray<DamageCircle> damage_;  // the same
    float start_loss_ = 0;
    TapeMemory tape_;
    ForwardScratch forward_;
    BackwardScratch backward_;
    // In bands.
    BandScratch bands_;
    DeviceArray<double> slice_squares_;
    DeviceArray<BlockArrival> arrivals_;
    int update_blocks_ = 0;
    std::map<int, Graph> graphs_;
    int last_steps_ = 0;  // of the iteration that ran last
};

}  // namespace

std::unique_ptr<TrainingLoop> make_cuda_training_loop(const CudaDevice& device,
                                                      const TrainingConfig& config,
                                                      std::span<const float> target) {
    const DeviceGuard guard(device.index());
    return std::make_unique<CudaTrainingLoop>(device, config, target);
}

}  // namespace nca::cuda
