// SPDX-License-Identifier: MIT
#include "benchmarks/gpu.hpp"

#include <nca/error.hpp>

#include <cuda_runtime.h>

#include "benchmarks/device_timing.cuh"
#include "benchmarks/unfused/unfused.hpp"
#include "cuda/check.hpp"
#include "cuda/device_memory.hpp"
#include "cuda/launch.cuh"

namespace nca::bench {
namespace {

using cuda::check;

// Sixteen independent chains of multiply-adds in each thread; what they make is written so that it
// has to be computed.
__global__ void multiply_add_kernel(float* out, int rounds) {
    constexpr int chains = 16;
    float values[chains];
    for (int i = 0; i < chains; ++i) values[i] = static_cast<float>(threadIdx.x + i);
    const float a = 0.999F + 1e-6F * static_cast<float>(blockIdx.x);
    for (int round = 0; round < rounds; ++round) {
#pragma unroll
        for (int i = 0; i < chains; ++i) values[i] = values[i] * a + 0.5F;
    }
    float sum = 0;
    for (int i = 0; i < chains; ++i) sum += values[i];
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

__global__ void copy_kernel(float4* to, const float4* from, std::size_t count) {
    const std::size_t stride = std::size_t(gridDim.x) * blockDim.x;
    for (std::size_t i = std::size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
         i += stride) {
        to[i] = from[i];
    }
}

// As our training iteration is one graph, so are these rollouts, where cuBLAS and cuRAND allow it.
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
            queue(kind, steps);  // whatever the libraries set up at their first call
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

Machine measure_gpu(int device) {
    const cuda::DeviceGuard guard(device);
    cudaDeviceProp properties = {};
    check(cudaGetDeviceProperties(&properties, device), "asking what the device is");
    constexpr int threads = 256, rounds = 4096, chains = 16;
    const int blocks = properties.multiProcessorCount * 8;
    cuda::DeviceArray<float> out(std::size_t(blocks) * threads, "a benchmark");
    const double arithmetic_seconds = fastest_seconds([&] {
        cuda::launch(NCA_KERNEL(multiply_add_kernel), {.blocks = blocks, .threads = threads},
                     nullptr, out.data(), rounds);
    });
    constexpr std::size_t count = std::size_t{64} << 20;  // 1 GiB, more than any cache
    cuda::DeviceArray<float4> from(count, "a benchmark"), to(count, "a benchmark");
    check(cudaMemsetAsync(from.data(), 0, count * sizeof(float4), nullptr), "clearing memory");
    const double copy_seconds = fastest_seconds([&] {
        cuda::launch(NCA_KERNEL(copy_kernel), {.blocks = blocks, .threads = threads}, nullptr,
                     to.data(), static_cast<const float4*>(from.data()), count);
    });
    int kilohertz = 0;
    check(cudaDeviceGetAttribute(&kilohertz, cudaDevAttrClockRate, device),
          "asking what the device is");
    return {.arithmetic = 2.0 * rounds * chains * threads * blocks / arithmetic_seconds,
            .bandwidth = 2.0 * count * sizeof(float4) / copy_seconds,
            .multiprocessors = properties.multiProcessorCount,
            .clock = kilohertz * 1e3};
}

double gpu_memory_in_use() {
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for free device memory");
    return static_cast<double>(total - free);
}

std::unique_ptr<Unfused> make_unfused(const Model& model, int batch, int height, int width,
                                      int most_steps, bool tf32) {
    return std::make_unique<CudaUnfused>(model, batch, height, width, most_steps, tf32);
}

}  // namespace nca::bench
