// SPDX-License-Identifier: MIT
#include "benchmarks/baseline.hpp"

#include <nca/error.hpp>

#include <cuda_runtime.h>

#include "benchmarks/unfused/unfused.hpp"
#include "cuda/device/check.hpp"
#include "cuda/device/device_memory.hpp"

namespace nca::bench {
namespace {

using cuda::check;

// Each rollout is one graph, as our training iteration is, where cuBLAS and cuRAND allow it.
class CudaUnfused final : public Unfused {
public:
    CudaUnfused(const Model& model, int batch, int height, int width, int most_steps, bool tf32)
        : rollout_(model.rule, model.weights, batch, height, width, most_steps, tf32),
          state_(std::size_t(batch) * height * width * channels, "the baseline's state"),
          result_(state_.size(), "the baseline's result"),
          grad_weights_(model.weights.all().size(), "the baseline's gradients") {
        check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
    }
    ~CudaUnfused() override {
        forget();
        cudaStreamDestroy(stream_);
    }
    CudaUnfused(const CudaUnfused&) = delete;
    CudaUnfused& operator=(const CudaUnfused&) = delete;

    void forward(const float* state, int steps) override { run(Kind::forward, state, steps); }
    void forward_backward(const float* state, int steps) override {
        run(Kind::forward_backward, state, steps);
    }
    void step(const float* state) override { run(Kind::step, state, 1); }
    void result(std::span<float> state) const override {
        check(cudaMemcpy(state.data(), result_.data(), state.size_bytes(), cudaMemcpyDeviceToHost),
              "copying from the device");
    }

private:
    enum class Kind { none, forward, forward_backward, step };

    void queue(Kind kind, int steps) {
        if (kind == Kind::step) return rollout_.step(result_.data(), state_.data(), stream_);
        rollout_.forward(result_.data(), state_.data(), steps, stream_);
        // The state stands for the loss's gradient: what it is does not change the work.
        if (kind == Kind::forward_backward) {
            rollout_.backward(result_.data(), grad_weights_.data(), result_.data(), stream_);
        }
    }

    void run(Kind kind, const float* state, int steps) {
        if (kind != kind_ || steps != steps_) {
            check(cudaMemcpyAsync(state_.data(), state, state_.size() * sizeof(float),
                                  cudaMemcpyDeviceToDevice, stream_),
                  "copying the state");
            queue(kind, steps);  // before the capture, because the first call sets the libraries up
            record(kind, steps);
        }
        if (graph_ != nullptr) {
            check(cudaGraphLaunch(graph_, stream_), "starting the baseline");
        } else {
            queue(kind, steps);
        }
        check(cudaStreamSynchronize(stream_), "waiting for the device");
    }

    void record(Kind kind, int steps) {
        forget();
        check(cudaStreamSynchronize(stream_), "waiting for the device");
        check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capturing");
        bool whole = true;
        try {
            queue(kind, steps);
        } catch (const CudaError&) {
            whole = false;  // then without a graph
        }
        cudaGraph_t graph = nullptr;
        whole = cudaStreamEndCapture(stream_, &graph) == cudaSuccess && whole;
        if (whole && cudaGraphInstantiate(&graph_, graph, 0) != cudaSuccess) graph_ = nullptr;
        if (graph != nullptr) cudaGraphDestroy(graph);
        cudaGetLastError();
        kind_ = kind;
        steps_ = steps;
    }

    void forget() {
        if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
        graph_ = nullptr;
    }

    UnfusedRollout rollout_;
    cuda::DeviceArray<float> state_, result_, grad_weights_;
    cudaStream_t stream_ = nullptr;
    cudaGraphExec_t graph_ = nullptr;
    Kind kind_ = Kind::none;
    int steps_ = 0;
};

}  // namespace

bool has_unfused() { return true; }

std::unique_ptr<Unfused> make_unfused(const Model& model, int batch, int height, int width,
                                      int most_steps, bool tf32) {
    return std::make_unique<CudaUnfused>(model, batch, height, width, most_steps, tf32);
}

}  // namespace nca::bench
