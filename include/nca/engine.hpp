// SPDX-License-Identifier: MIT
#pragma once

#include <nca/device.hpp>
#include <nca/export.hpp>
#include <nca/random.hpp>
#include <nca/rule.hpp>
#include <nca/state.hpp>
#include <nca/weights.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

struct CUstream_st;

namespace nca {

// The stream that CUDA work is queued on; cudaStream_t is this type. The CPU engine ignores it.
using Stream = CUstream_st*;

// Whether backward adds to the weight gradients or replaces them.
enum class Accumulate : bool { no, yes };

struct RolloutOptions {
    int steps = 1;  // 0 to 2^24
    FireKey key;
};

// What forward remembers for backward: the states of all steps, and a copy of rule and weights.
// Move-only. Its memory goes back to the engine for the next rollout when it is destroyed.
class NCA_API Tape {
public:
    // The engine's own part.
    class Storage {
    public:
        virtual ~Storage() = default;
        virtual int steps() const = 0;
        virtual ConstStateView state(int step) const = 0;
    };

    Tape() = default;
    explicit Tape(std::unique_ptr<Storage> storage) : storage_(std::move(storage)) {}

    explicit operator bool() const { return storage_ != nullptr; }
    // These throw InvalidArgument where the tape is empty or has no such step.
    int steps() const;
    // The state after so many steps, in the engine's memory; 0 is the state that forward was given.
    ConstStateView state(int step) const;
    ConstStateView last() const { return state(steps()); }
    Storage* storage() const { return storage_.get(); }

private:
    std::unique_ptr<Storage> storage_;
};

// The target as the loss sees it, [height, width, visible_channels] in engine memory.
struct TargetView {
    const float* data = nullptr;
    int height = 0;
    int width = 0;
};

// Adam's settings for one update. Kingma and Ba, "Adam", 2015, with bias correction.
struct AdamOptions {
    float learning_rate = 2e-3F;
    float beta1 = 0.9F;
    float beta2 = 0.999F;
    float epsilon = 1e-8F;
    bool normalise_gradients = false;  // divide each tensor by its L2 norm + 1e-8 first
    std::int64_t update = 1;           // counts from 1
};

// How an engine runs the rollouts of a batch.
struct ChosenForm {
    RolloutForm form = RolloutForm::steps;  // never automatic; the CPU engine has steps alone
    std::string text;                       // for people: "one kernel a step"
};

struct Model;  // nca/model.hpp

// Runs automata forward and backward. Made by make_engine. One engine may be used from one thread
// at a time; two engines are independent. All pointers are in the engine's own memory space. With
// one seed the results are the same bits in every run, whatever the number of threads.
class NCA_API Engine {
public:
    virtual ~Engine() = default;

    virtual MemorySpace memory_space() const = 0;
    // For people: "cpu, 2 threads, AVX-512".
    virtual std::string description() const = 0;
    // What its matrix products are computed in: on the CPU always exact.
    virtual Precision precision() const = 0;
    // The form that forward and backward take for such a batch.
    virtual ChosenForm rollout_form(int batch, int height, int width,
                                    const Rule& rule = {}) const = 0;

    // Zeroed memory of the engine, in floats. Throws Error naming the bytes wanted when there is
    // not enough.
    virtual Buffer allocate(std::size_t size) = 0;
    State make_state(int batch, int height, int width);

    // Copies; both wait until the copy is done.
    virtual void copy_from_host(float* destination, std::span<const float> source,
                                Stream stream = nullptr) = 0;
    virtual void copy_to_host(std::span<float> destination, const float* source,
                              Stream stream = nullptr) = 0;

    // Runs options.steps steps in place and remembers nothing. Asynchronous on CUDA.
    virtual void advance(const Rule& rule, ConstWeightsView weights, StateView state,
                         const RolloutOptions& options, Stream stream = nullptr) = 0;

    // Runs options.steps steps and remembers what backward needs: 16 floats per cell and step.
    // Neither state nor weights need to outlive the call's work on the stream.
    virtual Tape forward(const Rule& rule, ConstWeightsView weights, ConstStateView state,
                         const RolloutOptions& options, Stream stream = nullptr) = 0;

    // Back through all steps of the tape (design of the formulae: docs/mathematics.md).
    // grad_state [batch, height, width, channels] holds the gradient of the tape's last state and
    // is overwritten by the gradient of its first; grad_weights is added to or overwritten. Where
    // the weights have no b2, grad_weights.b2 is ignored and may be null. Asynchronous on CUDA.
    virtual void backward(const Tape& tape, StateView grad_state, WeightsView grad_weights,
                          Accumulate accumulate, Stream stream = nullptr) = 0;

    // Mean squared error of the visible channels over batch, height and width, and its gradient:
    // loss[sample] = sum of (state - target)^2 / (height * width * 4), so that the batch's loss is
    // their mean; grad_state is overwritten (hidden channels get 0) by the gradient of that mean;
    // living[sample] counts cells with alpha above living_threshold. Overwrites all three.
    virtual void loss(StateView grad_state, float* loss, float* living, ConstStateView state,
                      TargetView target, Stream stream = nullptr) = 0;

    // One Adam update of weights, first_moments and second_moments ([parameter_count] floats each,
    // laid out as Weights::all()) from grad_weights, which is overwritten by its normalised value
    // where the options ask for it. norms[4] receives each tensor's L2 norm before that.
    virtual void adam(float* weights, float* first_moments, float* second_moments,
                      float* grad_weights, float* norms, bool output_bias,
                      const AdamOptions& options, Stream stream = nullptr) = 0;

    // The same for a model in host memory; a CUDA engine uploads its weights first.
    Tape forward(const Model& model, ConstStateView state, const RolloutOptions& options,
                 Stream stream = nullptr);
    void advance(const Model& model, StateView state, const RolloutOptions& options,
                 Stream stream = nullptr);
};

// Throws NotCompiled when a CUDA device is asked for and the library was built without CUDA,
// CudaError when there is no such device, InvalidArgument for a negative number of threads.
NCA_API std::unique_ptr<Engine> make_engine(const Device& device = Device::automatic());

}  // namespace nca
