// SPDX-License-Identifier: MIT
#include "cuda/engine/cuda_engine.hpp"
#include "cuda/training/training_kernels.hpp"
#include "host/core/throw_error.hpp"

#include <nca/error.hpp>

#include <fmt/format.h>

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda/device/check.hpp"
#include "cuda/engine/load_kernels.hpp"
#include "cuda/rollout/rollout.hpp"
#include "cuda/rollout/rollout_form.hpp"
#include "cuda/training/cuda_training_loop.hpp"
#include "host/core/checks.hpp"

namespace nca::cuda {
namespace {

// Memory of finished tapes, for the next one.
struct TapeCache {
    std::mutex mutex;
    std::unique_ptr<TapeMemory> memory;
};

struct CudaTape : Tape::Storage {
    CudaTape(std::shared_ptr<TapeCache> tape_cache, std::unique_ptr<TapeMemory> tape_memory)
        : cache(std::move(tape_cache)), memory(std::move(tape_memory)) {}
    ~CudaTape() override {
        if (!memory->has_own_memory()) return;
        const std::scoped_lock lock(cache->mutex);
        if (!cache->memory || cache->memory->steps < memory->steps) {
            cache->memory = std::move(memory);
        }
    }
    int steps() const override { return last_step; }
    ConstStateView state(int step) const override {
        const BatchShape& grid = memory->grid;
        return {memory->state(step), grid.batch, grid.height, grid.width, MemorySpace::device};
    }

    std::shared_ptr<TapeCache> cache;
    std::unique_ptr<TapeMemory> memory;
    int last_step = 0;
    StepRule rule;
    bool output_bias = false;
};

struct LossScratch {
    DeviceArray<LossPartial> sums;

    bool fits(const BatchShape& grid) const { return sums.fits(size_for(grid)); }
    void reserve(const BatchShape& grid) { sums.reserve(size_for(grid), "sums of the loss"); }

private:
    static std::size_t size_for(const BatchShape& grid) { return std::size_t(loss_partials(grid)); }
};

struct StepsScratch {
    DeviceArray<int> steps;

    bool fits(std::size_t size) const { return steps.fits(size); }
    void reserve(std::size_t size) { steps.reserve(size, "where the way back begins"); }
};

struct PointersScratch {
    DeviceArray<const float*> pointers;

    bool fits(std::size_t size) const { return pointers.fits(size); }
    void reserve(std::size_t size) { pointers.reserve(size, "where gradients of steps lie"); }
};

// All calls of an engine use its scratch, so each waits, on the device, for the one before it,
// whatever their streams. A call that the caller captures into a graph does not: the caller decides
// when the graph runs.
class WorkOrder {
public:
    WorkOrder() {
        check(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming), "making an event");
    }
    ~WorkOrder() { cudaEventDestroy(done_); }
    WorkOrder(const WorkOrder&) = delete;
    WorkOrder& operator=(const WorkOrder&) = delete;

    // One call's work on a stream: begins behind all earlier work; later work waits for its end,
    // even if only a part of it could be queued.
    class Turn {
    public:
        Turn(const WorkOrder& order, cudaStream_t stream) : order_(order), stream_(stream) {
            cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
            check(cudaStreamIsCapturing(stream, &status), "asking a stream");
            capturing_ = status != cudaStreamCaptureStatusNone;
            if (capturing_) return;
            // An event that was never recorded is done.
            check(cudaStreamWaitEvent(stream, order.done_, 0), "ordering streams");
        }
        ~Turn() {
            if (!capturing_) cudaEventRecord(order_.done_, stream_);
        }
        Turn(const Turn&) = delete;
        Turn& operator=(const Turn&) = delete;

        bool is_captured() const { return capturing_; }

    private:
        const WorkOrder& order_;
        cudaStream_t stream_;
        bool capturing_ = false;
    };

private:
    cudaEvent_t done_ = nullptr;
};

// The kernels read and write 16 bytes at a time.
void check_alignment(const char* name, const float* data) {
    if (reinterpret_cast<std::uintptr_t>(data) % 16 != 0) {
        throw_error<InvalidArgument>(
            "{} is not aligned to 16 bytes, which the CUDA engine needs: memory from cudaMalloc "
            "is, a pointer into the middle of it need not be",
            name);
    }
}

BatchShape grid_of(ConstStateView state) { return {state.batch, state.height, state.width}; }

class CudaEngine final : public Engine, public HasTrainingLoop {
public:
    explicit CudaEngine(const CudaDevice& device) : device_(device) {}

    MemorySpace memory_space() const override { return MemorySpace::device; }

    std::string description() const override {
        return fmt::format("cuda:{}, {}, {}", device_.index(), device_.limits.name,
                           name(precision()));
    }

    Precision precision() const override { return device_.kernels.precision; }

    ChosenForm rollout_form(int batch, int height, int width, const Rule& rule) const override {
        const RolloutPlan chosen = plan({batch, height, width}, rule);
        return {chosen.form, chosen.text};
    }

    Buffer allocate(std::size_t size) override {
        const DeviceGuard guard(device_.index());
        constexpr std::size_t most = SIZE_MAX / sizeof(float);
        const std::size_t bytes = size <= most ? size * sizeof(float) : SIZE_MAX;
        DeviceArray<float> memory(bytes / sizeof(float), "a buffer");
        Buffer buffer(memory.release(), size, MemorySpace::device,
                      [](float* pointer) { cudaFree(pointer); });
        check(cudaMemsetAsync(buffer.data(), 0, bytes, nullptr), "clearing memory");
        check(cudaStreamSynchronize(nullptr), "clearing memory");
        return buffer;
    }

    void copy_from_host(float* destination, std::span<const float> source, Stream stream) override {
        in_order(stream, [&] {
            check(cudaMemcpyAsync(destination, source.data(), source.size_bytes(),
                                  cudaMemcpyHostToDevice, stream),
                  "copying to the device");
            check(cudaStreamSynchronize(stream), "copying to the device");
        });
    }

    void copy_to_host(std::span<float> destination, const float* source, Stream stream) override {
        in_order(stream, [&] {
            check(cudaMemcpyAsync(destination.data(), source, destination.size_bytes(),
                                  cudaMemcpyDeviceToHost, stream),
                  "copying from the device");
            check(cudaStreamSynchronize(stream), "waiting for the device");
        });
    }

    void advance(const Rule& rule, ConstWeightsView weights, StateView state,
                 const RolloutOptions& options, Stream stream) override {
        check_rollout(rule, weights, state, options, memory_space());
        check_alignment("the state", state.data);
        if (options.steps == 0) return;
        in_order(stream, [&] {
            const BatchShape grid = grid_of(state);
            model_.reserve(1, "the packed weights");
            const StepRule step = step_rule(rule);
            launch_pack_model(model_.data(), weights, step, options.key, nullptr, precision(),
                              stream);
            const RolloutPlan& how = plan_of(grid, rule);
            if (how.in_bands()) {
                // For the most steps, so that a later call with more finds its memory.
                reserve(bands_, grid, how.cut, precision(), most_advanced_steps, false);
                queue_advance_in_bands(state.data, model_.data(), grid, how.cut, step,
                                       options.steps, bands_, precision(), stream);
            } else {
                reserve(forward_, grid);
                queue_advance(state.data, model_.data(), grid, step, options.steps, forward_,
                              device_.kernels, stream);
            }
        });
    }

    Tape forward(const Rule& rule, ConstWeightsView weights, ConstStateView state,
                 const RolloutOptions& options, const TapeBuffers& buffers,
                 Stream stream) override {
        check_rollout(rule, weights, state, options, memory_space());
        check_buffers(buffers, true);
        check_alignment("the state", state.data);
        check_alignment("TapeBuffers::states", buffers.states);
        std::unique_ptr<CudaTape> tape;
        in_order(stream, [&] {
            const BatchShape grid = grid_of(state);
            const RolloutPlan& how = plan_of(grid, rule);
            tape = make_tape(rule, weights, grid, options, how.cut, buffers);
            if (options.steps == 0) {
                check(
                    cudaMemcpyAsync(tape->memory->state(0), state.data,
                                    state.size() * sizeof(float), cudaMemcpyDeviceToDevice, stream),
                    "copying the state");
            } else {
                const TapeMemory& memory = *tape->memory;
                launch_pack_model(memory.model, weights, tape->rule, options.key, nullptr,
                                  precision(), stream);
                if (memory.in_bands()) {
                    reserve(bands_, grid, how.cut, precision(), options.steps, false);
                    queue_forward_in_bands(memory, state.data, tape->rule, options.steps, bands_,
                                           precision(), stream);
                } else {
                    reserve(forward_, grid);
                    queue_forward(memory, state.data, tape->rule, options.steps, forward_,
                                  device_.kernels, stream);
                }
            }
        });
        return Tape(std::move(tape));
    }

    std::size_t tape_bytes(const Rule& rule, int batch, int height, int width,
                           int steps) const override {
        rule.validate();
        check_tape_size(batch, height, width, steps);
        const BatchShape grid = {batch, height, width};
        return TapeMemory::rest_bytes(grid, steps, plan(grid, rule).cut);
    }

    Tape open_tape(const Rule& rule, ConstWeightsView weights, int batch, int height, int width,
                   const RolloutOptions& options, const TapeBuffers& buffers) override {
        check_buffers(buffers, false);
        const ConstStateView first = {buffers.states, batch, height, width, memory_space()};
        check_rollout(rule, weights, first, options, memory_space());
        check_alignment("TapeBuffers::states", buffers.states);
        const BatchShape grid = grid_of(first);
        return Tape(make_tape(rule, weights, grid, options, plan_of(grid, rule).cut, buffers));
    }

    void backward(const Tape& tape, const BackwardOptions& options, StateView grad_state,
                  WeightsView grad_weights, Accumulate accumulate, Stream stream) override {
        const auto* from = dynamic_cast<const CudaTape*>(tape.storage());
        if (from == nullptr) {
            throw InvalidArgument(
                "the tape is empty or of another engine: give the engine the "
                "tape that its own forward returned");
        }
        check_backward(tape, from->output_bias, options, grad_state, grad_weights, memory_space());
        check_alignment("grad_state", grad_state.data);
        for (const StepGradient& gradient : options.step_gradients) {
            check_alignment("a gradient of step_gradients", gradient.grad_state.data);
        }
        if (!from->output_bias) grad_weights.b2 = nullptr;
        const std::vector<const float*> added = step_gradient_table(tape, options);
        in_order(stream, [&] {
            const TapeMemory& memory = *from->memory;
            const bool add = accumulate == Accumulate::yes;
            WayBack way = {.grad_last = grad_state.data,
                           .from_steps = put_steps(options.from_steps, stream),
                           .step_gradients = added.empty() ? nullptr : added.data()};
            if (from->last_step == 0) {
                if (!add) clear(grad_weights, stream);
                if (added.empty()) return;
                launch_gather_gradient(grad_state.data, grad_state.data, nullptr, nullptr, added[0],
                                       memory.grid, from->rule, stream);
            } else if (memory.in_bands()) {
                reserve(bands_, memory.grid, memory.cut, precision(), from->last_step, true);
                way.step_gradients = put_pointers(added, stream);
                queue_backward_in_bands(grad_state.data, grad_weights, way, memory, from->rule,
                                        from->last_step, add, bands_, precision(), stream);
            } else {
                reserve(backward_, memory.grid);
                queue_backward(grad_state.data, grad_weights, way, memory, from->rule,
                               from->last_step, add, backward_, device_.kernels, stream);
            }
        });
    }

    void loss(StateView grad_state, float* loss, float* living, ConstStateView state,
              TargetView target, Stream stream) override {
        check_loss(grad_state, loss, living, state, target, memory_space());
        check_alignment("the state", state.data);
        check_alignment("grad_state", grad_state.data);
        check_alignment("the target", target.data);
        in_order(stream, [&] {
            const BatchShape grid = grid_of(state);
            reserve(loss_partial_, grid);
            launch_loss(grad_state.data, loss, living, loss_partial_.sums.data(), state.data,
                        nullptr, target.data, grid, nullptr, stream);
        });
    }

    void adam(float* weights, float* first_moments, float* second_moments, float* grad_weights,
              float* norms, bool output_bias, const AdamOptions& options, Stream stream) override {
        check_adam(weights, first_moments, second_moments, grad_weights, norms, options);
        in_order(stream, [&] {
            squares_.reserve(4, "the tensors' norms");
            launch_adam({.weights = weights,
                         .first_moments = first_moments,
                         .second_moments = second_moments,
                         .grad_weights = grad_weights,
                         .norms = norms,
                         .squares = squares_.data(),
                         .output_bias = output_bias,
                         .normalise = options.normalise_gradients,
                         .beta1 = options.beta1,
                         .beta2 = options.beta2,
                         .epsilon = options.epsilon,
                         .rates = adam_rates(options)},
                        stream);
        });
    }

    std::unique_ptr<TrainingLoop> make_training_loop(const TrainingConfig& config,
                                                     std::span<const float> target) override {
        return make_cuda_training_loop(device_, config, target);
    }

private:
    // Every call works on the engine's device and after the call before it.
    template <class Work>
    void in_order(Stream stream, Work work) {
        const DeviceGuard guard(device_.index());
        const WorkOrder::Turn turn(order_, stream);
        was_captured_ = was_captured_ || turn.is_captured();
        work();
    }

    // Makes room in scratch. A graph of the caller's uses the memory that it has captured: once
    // there may be one, memory that has become too small is kept until the engine ends.
    template <class Scratch, class... Sizes>
    void reserve(Scratch& scratch, const Sizes&... sizes) {
        if (was_captured_ && !scratch.fits(sizes...)) {
            kept_.push_back(std::make_shared<Scratch>(std::move(scratch)));
            scratch = {};
        }
        scratch.reserve(sizes...);
    }

    // The numbers in the device's memory; null where there is none.
    const int* put_steps(std::span<const int> steps, Stream stream) {
        if (steps.empty()) return nullptr;
        reserve(from_steps_, steps.size());
        launch_put_steps(from_steps_.steps.data(), steps, stream);
        return from_steps_.steps.data();
    }
    // The same with pointers.
    const float* const* put_pointers(std::span<const float* const> pointers, Stream stream) {
        if (pointers.empty()) return nullptr;
        reserve(step_gradients_, pointers.size());
        launch_put_pointers(step_gradients_.pointers.data(), pointers, stream);
        return step_gradients_.pointers.data();
    }

    static void clear(const WeightsView& weights, Stream stream) {
        const std::pair<float*, std::size_t> tensors[] = {
            {weights.w1, w1_size},
            {weights.b1, b1_size},
            {weights.w2, w2_size},
            {weights.b2, weights.b2 != nullptr ? b2_size : 0}};
        for (const auto& [data, size] : tensors) {
            if (size == 0) continue;
            check(cudaMemsetAsync(data, 0, size * sizeof(float), stream), "clearing gradients");
        }
    }

    // A tape whose memory is not yet written, or is the caller's.
    std::unique_ptr<CudaTape> make_tape(const Rule& rule, ConstWeightsView weights,
                                        const BatchShape& grid, const RolloutOptions& options,
                                        const BandCut& cut, const TapeBuffers& buffers) {
        auto tape = std::make_unique<CudaTape>(
            cache_, buffers.states != nullptr
                        ? std::make_unique<TapeMemory>(grid, options.steps, cut, buffers)
                        : take_memory(grid, options.steps, cut));
        tape->last_step = options.steps;
        tape->rule = step_rule(rule);
        tape->output_bias = weights.b2 != nullptr;
        return tape;
    }

    std::unique_ptr<TapeMemory> take_memory(const BatchShape& grid, int steps, const BandCut& cut) {
        std::unique_ptr<TapeMemory> cached;
        {
            const std::scoped_lock lock(cache_->mutex);
            cached = std::move(cache_->memory);
        }
        if (cached && cached->grid == grid && cached->cut == cut && cached->steps >= steps) {
            return cached;
        }
        cached.reset();  // before asking for more
        return std::make_unique<TapeMemory>(grid, steps, cut);
    }

    RolloutPlan plan(const BatchShape& grid, const Rule& rule) const {
        return plan_rollout(device_.limits, device_.asked_for, grid, rule, {});
    }

    // The same, made once for each shape and kind of rule.
    const RolloutPlan& plan_of(const BatchShape& grid, const Rule& rule) {
        const std::array<int, 4> key = {grid.batch, grid.height, grid.width,
                                        has_plain_filters(rule)};
        const auto found = plans_.find(key);
        if (found != plans_.end()) return found->second;
        return plans_.emplace(key, plan(grid, rule)).first->second;
    }

    CudaDevice device_;
    WorkOrder order_;
    DeviceArray<PackedModel> model_;
    ForwardScratch forward_;
    BackwardScratch backward_;
    BandScratch bands_;
    std::map<std::array<int, 4>, RolloutPlan> plans_;
    LossScratch loss_partial_;
    StepsScratch from_steps_;
    PointersScratch step_gradients_;
    DeviceArray<double> squares_;
    bool was_captured_ = false;                // by a graph of the caller's, any call
    std::vector<std::shared_ptr<void>> kept_;  // what such a graph may use
    std::shared_ptr<TapeCache> cache_ = std::make_shared<TapeCache>();
};

}  // namespace

CudaDevice open_device(const Device& asked_for) {
    const int index = asked_for.index;
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaErrorInsufficientDriver) {
        cudaGetLastError();
        throw_error<CudaError>(
            "no NVIDIA driver that knows CUDA {}.{}: install one, or use the CPU engine",
            CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    }
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
        cudaGetLastError();
        throw CudaError("this machine has no CUDA device: use the CPU engine");
    }
    check(error, "looking for CUDA devices");
    if (index < 0 || index >= count) {
        throw_error<CudaError>("there is no CUDA device {}: this machine has {}, counted from 0",
                               index, count);
    }
    const DeviceGuard guard(index);
    cudaDeviceProp properties = {};
    check(cudaGetDeviceProperties(&properties, index), "asking what the device is");
    CudaDevice device = {.asked_for = asked_for,
                         .limits = {.name = properties.name,
                                    .compute_capability = properties.major * 10 + properties.minor,
                                    .code = loaded_code(),
                                    .multiprocessors = properties.multiProcessorCount},
                         .kernels = {}};
    DeviceLimits& limits = device.limits;
    if (asked_for.precision != Precision::exact && limits.code >= 90) {
        limits.band_clusters =
            active_band_clusters(asked_for.precision.value_or(Precision::precise));
    }
    const Precision precision =
        asked_for.precision.value_or(default_precision(limits, asked_for.rollout));
    check_precision(limits, precision);
    device.asked_for.precision = precision;
    device.kernels = {.precision = precision,
                      .forward_blocks = limits.multiprocessors * resident_step_forward_blocks(),
                      .waits_for_predecessor = limits.code >= 90,
                      .stream = {.multiprocessors = limits.multiprocessors,
                                 .shared_bytes = properties.sharedMemPerBlockOptin}};
    return device;
}

bool is_usable(int index) {
    try {
        open_device(Device::cuda(index));
        return true;
    } catch (const CudaError&) {
        return false;
    }
}

std::unique_ptr<Engine> make_cuda_engine(const Device& asked_for) {
    const CudaDevice device = open_device(asked_for);
    const DeviceGuard guard(device.index());
    load_kernels(device);
    return std::make_unique<CudaEngine>(device);
}

}  // namespace nca::cuda
