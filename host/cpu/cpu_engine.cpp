// SPDX-License-Identifier: MIT
#include "host/cpu/cpu_engine.hpp"

#include "host/core/checks.hpp"
#include "host/core/throw_error.hpp"
#include "host/cpu/adam.hpp"
#include "host/cpu/step.hpp"
#include "host/cpu/threads.hpp"
#include "host/cpu/zeroed_memory.hpp"

#include <nca/error.hpp>

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <vector>

namespace nca::cpu {
namespace {

struct Shape {
    int batch = 0;
    int height = 0;
    int width = 0;

    bool operator==(const Shape&) const = default;
    int words() const { return height * BitGrid::words_for(width); }
    std::size_t grid_floats() const { return std::size_t(height) * width * channels; }
};

// Sets the bits of all cells.
void set_all(const BitGrid& grid) {
    for (int y = 0; y < grid.height; ++y) {
        for (int w = 0; w < grid.words(); ++w) grid.word(y, w) = grid.valid(w);
    }
}

// The slots of all samples for a number of consecutive states. All zero at first. It may be used
// again without being cleared: may_live tells which cells are left from the rollout before, and a
// step clears those that it does not overwrite.
class SlotStore {
public:
    SlotStore(const Shape& shape, int steps)
        : shape_(shape),
          steps_(steps),
          state_memory_(std::in_place, states_bytes(shape, steps)),
          bit_memory_(std::in_place, bits_bytes(shape, steps)),
          states_(state_memory_->as<float>()),
          bits_(bit_memory_->as<std::uint64_t>()) {}
    // In memory of the caller's.
    SlotStore(const Shape& shape, int steps, const TapeBuffers& buffers)
        : shape_(shape),
          steps_(steps),
          states_(buffers.states),
          bits_(reinterpret_cast<std::uint64_t*>(buffers.rest)) {}

    const Shape& shape() const { return shape_; }
    int steps() const { return steps_; }
    bool has_own_memory() const { return state_memory_.has_value(); }
    float* state(int step, int sample = 0) const {
        return states_ + index(step, sample) * shape_.grid_floats();
    }
    Slot slot(int step, int sample) const {
        return {state(step, sample),
                {bits_ + index(step, sample) * shape_.words(), shape_.height, shape_.width}};
    }
    // Any cell may hold something.
    void expect_anything() const {
        for (int step = 0; step < steps_; ++step) {
            for (int sample = 0; sample < shape_.batch; ++sample) {
                set_all(slot(step, sample).may_live);
            }
        }
    }

    static std::size_t states_bytes(const Shape& shape, int steps) {
        return std::size_t(steps) * shape.batch * shape.grid_floats() * sizeof(float);
    }
    static std::size_t bits_bytes(const Shape& shape, int steps) {
        return std::size_t(steps) * shape.batch * shape.words() * sizeof(std::uint64_t);
    }

private:
    std::size_t index(int step, int sample) const {
        return std::size_t(step) * shape_.batch + sample;
    }
    Shape shape_;
    int steps_;
    std::optional<ZeroedMemory> state_memory_, bit_memory_;  // none where it is the caller's
    float* states_;
    std::uint64_t* bits_;
};

// grad += added in the cells that have a bit, in rows top .. bottom - 1.
void add_in_cells(float* grad, const float* added, const BitGrid& cells, int top, int bottom) {
    for (int y = top; y < bottom; ++y) {
        for (int w = 0; w < cells.words(); ++w) {
            for_each_bit(cells.word(y, w), [&](int i) {
                const std::ptrdiff_t at = cell_at(grad, cells.width, y, w * 64 + i) - grad;
                for (int c = 0; c < channels; ++c) grad[at + c] += added[at + c];
            });
        }
    }
}

// Keeps the memory of a destroyed tape for the next one.
struct TapeCache {
    std::mutex mutex;
    std::unique_ptr<SlotStore> store;
};

struct CpuTape : Tape::Storage {
    ~CpuTape() override {
        if (!store || !store->has_own_memory()) return;
        const std::scoped_lock lock(cache->mutex);
        if (!cache->store || cache->store->steps() < store->steps())
            cache->store = std::move(store);
    }
    int steps() const override { return last_step; }
    ConstStateView state(int step) const override {
        const Shape& shape = store->shape();
        return {store->state(step), shape.batch, shape.height, shape.width, MemorySpace::host};
    }

    std::shared_ptr<TapeCache> cache;
    std::unique_ptr<SlotStore> store;
    int last_step = 0;
    Rule rule;
    FireKey key;
    bool output_bias = false;
    PackedWeights weights;
};

class CpuEngine final : public Engine {
public:
    explicit CpuEngine(int threads) : threads_(threads), scratch_(threads) {}

    MemorySpace memory_space() const override { return MemorySpace::host; }

    std::string description() const override {
        return fmt::format("cpu, {} thread{}, {}", threads_, threads_ == 1 ? "" : "s",
                           instruction_set());
    }

    Precision precision() const override { return Precision::exact; }

    ChosenForm rollout_form(int, int, int, const Rule&) const override {
        return {RolloutForm::steps, "float32 on the CPU"};
    }

    Buffer allocate(std::size_t size) override {
        // aligned_alloc wants whole lines; at least one, so that the pointer is not null.
        constexpr std::size_t line = 64;
        constexpr std::size_t most = (SIZE_MAX - line) / sizeof(float);
        const std::size_t bytes = (std::min(size, most) * sizeof(float) / line + 1) * line;
        void* data = size <= most ? std::aligned_alloc(line, bytes) : nullptr;
        if (data == nullptr) {
            throw_error<Error>("no memory for {:.0f} bytes: use a smaller batch or grid",
                               double(size) * sizeof(float));
        }
        std::fill_n(static_cast<float*>(data), size, 0.0F);
        return {static_cast<float*>(data), size, MemorySpace::host,
                [](float* pointer) { std::free(pointer); }};
    }

    void copy_from_host(float* destination, std::span<const float> source, Stream) override {
        check_copy(destination, source.size());
        std::copy(source.begin(), source.end(), destination);
    }

    void copy_to_host(std::span<float> destination, const float* source, Stream) override {
        check_copy(source, destination.size());
        std::copy_n(source, destination.size(), destination.begin());
    }

    void advance(const Rule& rule, ConstWeightsView weights, StateView state,
                 const RolloutOptions& options, Stream) override {
        check_rollout(rule, weights, state, options, memory_space());
        if (options.steps == 0) return;
        const Shape shape{state.batch, state.height, state.width};
        pack(*packed_, weights);
        const RolloutConstants rollout(rule, *packed_, options.key);
        // States after an even number of steps are in the caller's memory, the others in odd_,
        // which is kept for the next call.
        if (!odd_ || odd_->shape() != shape) odd_ = std::make_unique<SlotStore>(shape, 1);
        const SlotStore& odd = *odd_;
        std::vector<std::uint64_t> even_bits(std::size_t(shape.batch) * shape.words());
        const auto slot_of = [&](int step, int sample) -> Slot {
            if (step % 2 != 0) return odd.slot(0, sample);
            return {state.sample(sample).data,
                    {even_bits.data() + std::size_t(sample) * shape.words(), shape.height,
                     shape.width}};
        };
        roll_forward(rollout, shape, options.steps, slot_of);
        if (options.steps % 2 != 0) std::copy_n(odd.state(0), state.size(), state.data);
    }

    Tape forward(const Rule& rule, ConstWeightsView weights, ConstStateView state,
                 const RolloutOptions& options, const TapeBuffers& buffers, Stream) override {
        check_rollout(rule, weights, state, options, memory_space());
        check_buffers(buffers, true);
        auto tape = make_tape(rule, weights, state, options, buffers);
        if (buffers.states != nullptr && !buffers.are_clean) tape->store->expect_anything();
        std::copy_n(state.data, state.size(), tape->store->state(0));
        const RolloutConstants rollout(rule, tape->weights, options.key);
        roll_forward(rollout, tape->store->shape(), options.steps,
                     [&](int step, int sample) { return tape->store->slot(step, sample); });
        return Tape(std::move(tape));
    }

    std::size_t tape_bytes(const Rule&, int batch, int height, int width,
                           int steps) const override {
        check_tape_size(batch, height, width, steps);
        return SlotStore::bits_bytes({batch, height, width}, steps + 1);
    }

    Tape open_tape(const Rule& rule, ConstWeightsView weights, int batch, int height, int width,
                   const RolloutOptions& options, const TapeBuffers& buffers) override {
        check_buffers(buffers, false);
        const ConstStateView first = {buffers.states, batch, height, width, memory_space()};
        check_rollout(rule, weights, first, options, memory_space());
        return Tape(make_tape(rule, weights, first, options, buffers));
    }

    void backward(const Tape& tape, const BackwardOptions& options, StateView grad_state,
                  WeightsView grad_weights, Accumulate accumulate, Stream) override {
        const auto* from = dynamic_cast<const CpuTape*>(tape.storage());
        if (from == nullptr) {
            throw InvalidArgument(
                "the tape is empty or of another engine: give the engine the "
                "tape that its own forward returned");
        }
        const Shape& shape = from->store->shape();
        check_backward(tape, from->output_bias, options, grad_state, grad_weights, memory_space());
        if (!from->output_bias) grad_weights.b2 = nullptr;
        const RolloutConstants rollout(from->rule, from->weights, from->key);
        const Bands bands{shape.height};
        std::vector<PackedGradients> gradients(std::size_t(shape.batch) * bands.count());
        std::vector<BackwardWork> work;
        work.reserve(shape.batch);
        for (int sample = 0; sample < shape.batch; ++sample) {
            work.emplace_back(shape.height, shape.width);
            set_all(work.back().may_be_nonzero);
        }
        const auto takes_part = [&](int step, int sample) {
            return options.from_steps.empty() || step < options.from_steps[std::size_t(sample)];
        };
        const std::vector<const float*> added = step_gradient_table(tape, options);
        // What comes in after a step, in the cells that live after it: the others' is masked.
        const auto add_step_gradient = [&](int state, int sample, int band) {
            if (added.empty() || added[state] == nullptr) return;
            add_in_cells(
                grad_state.sample(sample).data, added[state] + sample * shape.grid_floats(),
                from->store->slot(state, sample).may_live, bands.top(band), bands.bottom(band));
        };
        run_steps(
            shape, from->last_step,
            [&](int reverse, int sample, int band, Scratch& scratch) {
                const int step = from->last_step - 1 - reverse;
                if (!takes_part(step, sample)) return;
                add_step_gradient(step + 1, sample, band);
                backward_rows(grad_state.sample(sample).data,
                              gradients[std::size_t(sample) * bands.count() + band], work[sample],
                              scratch, rollout, from->store->slot(step, sample),
                              from->store->slot(step + 1, sample), step, sample, band);
            },
            [&](int reverse, int sample, int band) {
                const int step = from->last_step - 1 - reverse;
                if (!takes_part(step, sample)) return;
                backward_stencil(grad_state.sample(sample).data, work[sample], rollout,
                                 from->store->slot(step + 1, sample), band);
            });
        if (!added.empty() && added[0] != nullptr) {  // the first states have no mask
            for (std::size_t i = 0; i < grad_state.size(); ++i) grad_state.data[i] += added[0][i];
        }
        for (std::size_t i = 1; i < gradients.size(); ++i) add(gradients[0], gradients[i]);
        unpack(grad_weights, gradients[0], accumulate == Accumulate::yes);
    }

    void loss(StateView grad_state, float* loss, float* living, ConstStateView state,
              TargetView target, Stream) override {
        check_loss(grad_state, loss, living, state, target, memory_space());
        const std::size_t cells = std::size_t(state.height) * state.width;
        const float scale = 2.0F / (float(cells) * visible_channels * float(state.batch));
        prepare_threads(threads_);
#pragma omp parallel for num_threads(threads_)
        for (int sample = 0; sample < state.batch; ++sample) {
            const float* x = state.sample(sample).data;
            float* grad = grad_state.sample(sample).data;
            double sum = 0;
            std::size_t count = 0;
            for (std::size_t cell = 0; cell < cells; ++cell) {
                for (int c = 0; c < channels; ++c) {
                    const float difference =
                        c < visible_channels
                            ? x[cell * channels + c] - target.data[cell * visible_channels + c]
                            : 0.0F;
                    sum += double(difference) * difference;
                    grad[cell * channels + c] = scale * difference;
                }
                count += std::size_t(x[cell * channels + alpha_channel] > living_threshold);
            }
            loss[sample] = float(sum / (double(cells) * visible_channels));
            living[sample] = float(count);
        }
    }

    void adam(float* weights, float* first_moments, float* second_moments, float* grad_weights,
              float* norms, bool output_bias, const AdamOptions& options, Stream) override {
        check_adam(weights, first_moments, second_moments, grad_weights, norms, options);
        adam_update(weights, first_moments, second_moments, grad_weights, norms, output_bias,
                    options);
    }

private:
    // For each step in turn calls first(step, sample, band, scratch) for all bands and then
    // second(step, sample, band) for all bands. Where the batch divides well among the threads, a
    // thread takes whole samples through all steps without a barrier: samples are independent.
    // Otherwise the threads share the bands of all samples, with a barrier after each phase.
    template <class First, class Second>
    void run_steps(const Shape& shape, int steps, First first, Second second) {
        const int bands = Bands{shape.height}.count();
        const int rounds = (shape.batch + threads_ - 1) / threads_;
        prepare_threads(threads_);
        if (rounds * threads_ * 4 <= shape.batch * 5) {
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
            for (int sample = 0; sample < shape.batch; ++sample) {
                Scratch& scratch = scratch_[omp_get_thread_num()];
                for (int step = 0; step < steps; ++step) {
                    for (int band = 0; band < bands; ++band) first(step, sample, band, scratch);
                    for (int band = 0; band < bands; ++band) second(step, sample, band);
                }
            }
            return;
        }
        const int units = shape.batch * bands;
#pragma omp parallel num_threads(threads_)
        {
            Scratch& scratch = scratch_[omp_get_thread_num()];
            for (int step = 0; step < steps; ++step) {
#pragma omp for schedule(dynamic)
                for (int unit = 0; unit < units; ++unit) {
                    first(step, unit / bands, unit % bands, scratch);
                }
#pragma omp for schedule(dynamic)
                for (int unit = 0; unit < units; ++unit) second(step, unit / bands, unit % bands);
            }
        }
    }

    template <class SlotOf>
    void roll_forward(const RolloutConstants& rollout, const Shape& shape, int steps,
                      SlotOf slot_of) {
        std::vector<ForwardWork> work;
        work.reserve(shape.batch);
        for (int sample = 0; sample < shape.batch; ++sample) {
            work.emplace_back(shape.height, shape.width);
        }
        const Bands bands{shape.height};
        prepare_threads(threads_);
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
        for (int unit = 0; unit < shape.batch * bands.count(); ++unit) {
            const int sample = unit / bands.count();
            const int band = unit % bands.count();
            scan_state(slot_of(0, sample), work[sample], bands.top(band), bands.bottom(band));
        }
        run_steps(
            shape, steps,
            [&](int step, int sample, int band, Scratch& scratch) {
                update_band(slot_of(step + 1, sample), slot_of(step, sample), work[sample], scratch,
                            rollout, step, sample, bands.top(band), bands.bottom(band));
            },
            [&](int step, int sample, int band) {
                mask_band(slot_of(step + 1, sample), slot_of(step, sample), work[sample], rollout,
                          step, sample, bands.top(band), bands.bottom(band));
            });
    }

    // A tape whose store is not yet written, or is one of the caller's that is.
    std::unique_ptr<CpuTape> make_tape(const Rule& rule, ConstWeightsView weights,
                                       ConstStateView state, const RolloutOptions& options,
                                       const TapeBuffers& buffers) {
        const Shape shape{state.batch, state.height, state.width};
        const int slots = options.steps + 1;
        auto tape = std::make_unique<CpuTape>();
        tape->cache = cache_;
        tape->store = buffers.states != nullptr ? std::make_unique<SlotStore>(shape, slots, buffers)
                                                : take_store(shape, slots);
        tape->last_step = options.steps;
        tape->rule = rule;
        tape->key = options.key;
        tape->output_bias = weights.b2 != nullptr;
        pack(tape->weights, weights);
        return tape;
    }

    std::unique_ptr<SlotStore> take_store(const Shape& shape, int steps) {
        {
            const std::scoped_lock lock(cache_->mutex);
            std::unique_ptr<SlotStore> cached = std::move(cache_->store);
            if (cached && cached->shape() == shape && cached->steps() >= steps) return cached;
        }
        return std::make_unique<SlotStore>(shape, steps);
    }

    int threads_;
    std::vector<Scratch> scratch_;
    std::unique_ptr<PackedWeights> packed_ = std::make_unique<PackedWeights>();
    std::unique_ptr<SlotStore> odd_;
    std::shared_ptr<TapeCache> cache_ = std::make_shared<TapeCache>();
};

}  // namespace

std::unique_ptr<Engine> make_cpu_engine(int threads) {
    constexpr int most_threads = 1024;
    if (threads < 0 || threads > most_threads) {
        throw_error<InvalidArgument>(
            "{} threads: expected 1 to {}, or 0 for one for each processor", threads, most_threads);
    }
    return std::make_unique<CpuEngine>(threads == 0 ? omp_get_num_procs() : threads);
}

}  // namespace nca::cpu
