// SPDX-License-Identifier: MIT
#pragma once

#include <nca/device.hpp>
#include <nca/export.hpp>
#include <nca/random.hpp>
#include <nca/rule.hpp>
#include <nca/state.hpp>
#include <nca/weights.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

struct CUstream_st;

namespace nca {

/// The stream that CUDA work is queued on: the same type as cudaStream_t. The CPU engine ignores
/// it.
using Stream = CUstream_st*;

/// Whether backward adds to the weight gradients or replaces them.
enum class Accumulate : bool {
    no,   ///< replaces them
    yes,  ///< adds to them
};

/// The length of a rollout and its random numbers.
struct RolloutOptions {
    int steps = 1;  ///< 0 to 2^24
    FireKey key;    ///< which fire masks are drawn
};

/// What forward remembers for backward: the states of all steps, and copies of rule and weights.
/// Move-only. When a tape is destroyed, the engine keeps its memory for the next rollout. A tape
/// may outlive its engine.
class NCA_API Tape {
public:
    /// What the engine that made the tape implements.
    class Storage {
    public:
        virtual ~Storage() = default;
        /// As Tape::steps.
        virtual int steps() const = 0;
        /// As Tape::state; step is in 0 .. steps().
        virtual ConstStateView state(int step) const = 0;
    };

    Tape() = default;
    /// Takes what an engine keeps. For engines.
    explicit Tape(std::unique_ptr<Storage> storage) : storage_(std::move(storage)) {}

    /// Whether it is not empty: not made by Tape() and not moved from.
    explicit operator bool() const { return storage_ != nullptr; }
    /// How many steps it has. Throws InvalidArgument where the tape is empty.
    int steps() const;
    /// The state after `step` steps, in the engine's memory; step 0 is the state that forward was
    /// given. Valid while the tape lives; on CUDA the values are there when forward's work on its
    /// stream is done. Throws InvalidArgument where the tape is empty or step is not in
    /// 0 .. steps().
    ConstStateView state(int step) const;
    /// The state after all steps. Throws InvalidArgument where the tape is empty.
    ConstStateView last() const { return state(steps()); }
    /// What the engine keeps; null where the tape is empty. For engines.
    Storage* storage() const { return storage_.get(); }

private:
    std::unique_ptr<Storage> storage_;
};

/// Memory of the caller's that a tape lies in, for who has an allocator of their own. Memory of the
/// engine's memory space, which has to live as long as the tape and stay as it is.
struct TapeBuffers {
    /// [steps + 1, batch, height, width, channels] floats: the states after 0 to `steps` steps.
    /// Null: the engine takes memory of its own.
    float* states = nullptr;
    /// Engine::tape_bytes() bytes for what else the way back needs, aligned to 16 bytes.
    std::byte* rest = nullptr;
    /// Whether both are all zero, or are as a tape of the same batch, height and width has left
    /// them, which may have had fewer or more steps. The CPU engine then writes only the cells that
    /// are not empty in either. With false they may hold anything.
    bool are_clean = false;
};

/// Gradients that come into the way back at one step of a rollout.
struct StepGradient {
    int step = 0;  ///< after how many steps, in 0 .. tape.steps()
    /// [batch, height, width, channels] in the engine's memory: the gradients of the states after
    /// that many steps. They are added to what comes from the steps behind them. Not the memory of
    /// backward's grad_state.
    ConstStateView grad_state;
};

/// Where the way back of a tape begins and what comes into it. What the two point to, which is in
/// host memory, is read before backward returns.
struct BackwardOptions {
    /// [batch] after how many steps of each sample the way back begins, in 1 .. tape.steps(): what
    /// comes behind that step takes no part, even where it is not finite. Empty: that of all
    /// samples begins at the last state.
    std::span<const int> from_steps = {};
    /// Gradients of other states than that where the way back begins, in any order, at most one of
    /// a step. That state has its gradient in grad_state; what is given for it here is added.
    std::span<const StepGradient> step_gradients = {};
};

/// The target of the loss, [height, width, visible_channels] floats in the engine's memory.
struct TargetView {
    const float* data = nullptr;  ///< the first float
    int height = 0;               ///< in cells
    int width = 0;                ///< in cells
};

/// The options of one Adam update. Kingma and Ba, "Adam", ICLR 2015, with bias correction.
struct AdamOptions {
    float learning_rate = 2e-3F;  ///< alpha of the paper
    float beta1 = 0.9F;           ///< decay of the first moments
    float beta2 = 0.999F;         ///< decay of the second moments
    float epsilon = 1e-8F;        ///< is added to the square root of the second moments
    /// First divide each tensor's gradient by its L2 norm + 1e-8.
    bool normalise_gradients = false;
    std::int64_t update = 1;  ///< the number of this update, from 1
};

/// How an engine runs the rollouts of a batch.
struct ChosenForm {
    RolloutForm form = RolloutForm::steps;  ///< never automatic; always steps on the CPU
    std::string text;                       ///< to be shown: "one kernel a step"
};

struct Model;  // nca/model.hpp

/// Runs automata forward and backward. Made by make_engine(). An engine must not be used by two
/// threads at the same time; two engines are independent. All pointers are to the engine's own
/// memory space. The same seed gives the same bits in every run, with any number of threads.
///
/// On CUDA, advance, forward, backward, loss and adam queue their work on the stream and return
/// before it is done. What such a call reads has to stay as it is until then. The work of one
/// engine's calls runs in their order, whatever streams they are on (docs/cuda.md, also about
/// graphs). On the CPU every function returns when its work is done.
///
/// Functions throw InvalidArgument for a bad argument: a null pointer, another memory space, a size
/// below 1 or different sizes, a rule that is not valid; on CUDA also for states, gradients of
/// states and targets that are not aligned to 16 bytes, as those from allocate() and cudaMalloc
/// are. On CUDA they also throw CudaError, when a call fails or the device has not enough memory.
///
/// An engine that runs on several CPU threads throws Error, before it has changed anything, where
/// the system does not make so many, and in a child process that fork made after its parent had
/// computed on several threads: the child does not have them. To compute in the child, fork before
/// the first rollout, take Device::cpu(1), or start a program. In such a child, one-thread engines,
/// files and pictures work. CUDA does not work in a child of fork once the parent has used it:
/// CudaError.
class NCA_API Engine {
public:
    virtual ~Engine() = default;

    /// Where the engine's memory is: host on the CPU, device on CUDA.
    virtual MemorySpace memory_space() const = 0;
    /// To be shown: "cpu, 2 threads, AVX-512".
    virtual std::string description() const = 0;
    /// What its matrix products are computed in; exact on the CPU.
    virtual Precision precision() const = 0;
    /// The form in which it runs rollouts of a batch of this size by this rule. Throws CudaError
    /// where Device::rollout asks for a form that is not possible.
    virtual ChosenForm rollout_form(int batch, int height, int width,
                                    const Rule& rule = {}) const = 0;

    /// `size` floats of the engine's memory, all zero. Waits until they are. Throws Error where
    /// there is not enough memory.
    virtual Buffer allocate(std::size_t size) = 0;
    /// A batch of grids of zeros. Throws InvalidArgument where a size is below 1 or the whole is
    /// larger than any memory, and what allocate() throws.
    State make_state(int batch, int height, int width);

    /// Copies floats from host memory to the engine's, after the work that is queued, and waits
    /// until the copy is done. The CPU engine throws InvalidArgument where the pointer is null, the
    /// CUDA engine CudaError.
    virtual void copy_from_host(float* destination, std::span<const float> source,
                                Stream stream = nullptr) = 0;
    /// Copies floats from the engine's memory to host memory; otherwise as copy_from_host().
    virtual void copy_to_host(std::span<float> destination, const float* source,
                              Stream stream = nullptr) = 0;

    /// Runs options.steps steps (docs/mathematics.md) and overwrites state by the last one. Keeps
    /// no tape.
    virtual void advance(const Rule& rule, ConstWeightsView weights, StateView state,
                         const RolloutOptions& options, Stream stream = nullptr) = 0;

    /// Runs options.steps steps and returns the tape that backward needs, 16 floats for each cell
    /// and step. It lies in `buffers`, or in memory of the engine's where these are null. state and
    /// weights must stay as they are until the call's work on the stream is done. Throws
    /// InvalidArgument where only one of the buffers is null, or they are not aligned.
    virtual Tape forward(const Rule& rule, ConstWeightsView weights, ConstStateView state,
                         const RolloutOptions& options, const TapeBuffers& buffers,
                         Stream stream = nullptr) = 0;

    /// How many bytes TapeBuffers::rest needs for a rollout of a batch of this size by this rule.
    /// Throws what rollout_form() throws, and InvalidArgument where a size is below 1, steps are
    /// not in 0..2^24 or the whole is larger than any memory.
    virtual std::size_t tape_bytes(const Rule& rule, int batch, int height, int width,
                                   int steps) const = 0;

    /// The tape that forward left in buffers: for who can keep their memory, or a copy of it, and
    /// no Tape. Rule, weights and options have to be those that forward had, the three sizes those
    /// of its state, and the engine one of the same device and precision. Runs nothing. Throws
    /// InvalidArgument where a buffer is null, and what forward throws.
    virtual Tape open_tape(const Rule& rule, ConstWeightsView weights, int batch, int height,
                           int width, const RolloutOptions& options,
                           const TapeBuffers& buffers) = 0;

    /// The gradients of the steps of a tape of this engine (docs/mathematics.md). grad_state
    /// [batch, height, width, channels] holds the gradients of the states where the way back
    /// begins, which are the last ones but for options.from_steps, and is overwritten by those of
    /// the first states. grad_weights is overwritten or added to. Where the weights have no b2,
    /// grad_weights.b2 is ignored and may be null. The tape stays as it is. Throws InvalidArgument
    /// where options have a step out of range, too few from_steps, two gradients of one step, or
    /// gradients of another size.
    virtual void backward(const Tape& tape, const BackwardOptions& options, StateView grad_state,
                          WeightsView grad_weights, Accumulate accumulate,
                          Stream stream = nullptr) = 0;

    /// The loss: the mean squared error of the visible channels over batch, height and width
    /// (docs/mathematics.md). Overwrites
    ///
    /// - loss [batch]: sum of (state - target)^2 / (height * width * 4) of each sample, so that the
    ///   batch's loss is their mean;
    /// - grad_state [batch, height, width, channels]: the gradient of the batch's loss, 0 in hidden
    ///   channels;
    /// - living [batch]: how many cells of each sample have their own alpha above living_threshold.
    virtual void loss(StateView grad_state, float* loss, float* living, ConstStateView state,
                      TargetView target, Stream stream = nullptr) = 0;

    /// One Adam update of weights, first_moments and second_moments by grad_weights. Each has
    /// parameter_count(output_bias) floats, laid out as Weights::all(). Overwrites norms[4] by the
    /// L2 norm of each tensor's gradient (0 where there is no b2), then divides grad_weights by
    /// them where options.normalise_gradients is set. Throws InvalidArgument where options.update
    /// is below 1.
    virtual void adam(float* weights, float* first_moments, float* second_moments,
                      float* grad_weights, float* norms, bool output_bias,
                      const AdamOptions& options, Stream stream = nullptr) = 0;

    /// The same as the other forward, in memory of the engine's.
    Tape forward(const Rule& rule, ConstWeightsView weights, ConstStateView state,
                 const RolloutOptions& options, Stream stream = nullptr) {
        return forward(rule, weights, state, options, TapeBuffers{}, stream);
    }
    /// The same as the other backward, from the tape's last state.
    void backward(const Tape& tape, StateView grad_state, WeightsView grad_weights,
                  Accumulate accumulate, Stream stream = nullptr) {
        backward(tape, BackwardOptions{}, grad_state, grad_weights, accumulate, stream);
    }
    /// The same as the other forward, for a model in host memory. A CUDA engine copies its weights
    /// to the device and waits for the device. Throws InvalidArgument where the model was moved
    /// from.
    Tape forward(const Model& model, ConstStateView state, const RolloutOptions& options,
                 Stream stream = nullptr);
    /// The same as the other advance, for a model in host memory. A CUDA engine copies its weights
    /// to the device and waits for the device. Throws InvalidArgument where the model was moved
    /// from.
    void advance(const Model& model, StateView state, const RolloutOptions& options,
                 Stream stream = nullptr);
};

/// Makes an engine. Throws NotCompiled where a CUDA device is asked for and the library was built
/// without CUDA; CudaError where there is no such device, no code for it, or the precision needs
/// another device; InvalidArgument where an engine on the CPU is to have threads not in 0..1024.
NCA_API std::unique_ptr<Engine> make_engine(const Device& device = Device::automatic());

}  // namespace nca
