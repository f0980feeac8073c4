// SPDX-License-Identifier: MIT
#include "benchmarks/gpu.hpp"

#include <cuda_runtime.h>

#include <algorithm>

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

// Seconds of the fastest of several runs, by the device's clock.
template <class Work>
double fastest_seconds(Work work) {
    cudaEvent_t begin = nullptr, end = nullptr;
    check(cudaEventCreateWithFlags(&begin, cudaEventDefault), "making an event");
    check(cudaEventCreateWithFlags(&end, cudaEventDefault), "making an event");
    float fastest = 0;
    for (int run = 0; run < 10; ++run) {
        check(cudaEventRecord(begin, nullptr), "timing");
        work();
        check(cudaEventRecord(end, nullptr), "timing");
        check(cudaEventSynchronize(end), "timing");
        float milliseconds = 0;
        check(cudaEventElapsedTime(&milliseconds, begin, end), "timing");
        fastest = run == 0 ? milliseconds : std::min(fastest, milliseconds);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return fastest * 1e-3;
}

class CudaUnfused final : public Unfused {
public:
    CudaUnfused(const Model& model, int batch, int height, int width, int most_steps, bool tf32)
        : rollout_(model.rule, model.weights, batch, height, width, most_steps, tf32),
          result_(std::size_t(batch) * height * width * channels, "the baseline's state"),
          grad_weights_(model.weights.all().size(), "the baseline's gradients") {}

    void forward(const float* state, int steps) override {
        rollout_.forward(result_.data(), state, steps, nullptr);
        wait();
    }
    void forward_backward(const float* state, int steps) override {
        rollout_.forward(result_.data(), state, steps, nullptr);
        // The state stands for the loss's gradient: what it is does not change the work.
        rollout_.backward(result_.data(), grad_weights_.data(), result_.data(), nullptr);
        wait();
    }
    void step(const float* state) override {
        rollout_.step(result_.data(), state, nullptr);
        wait();
    }

    void result(std::span<float> state) const override {
        check(cudaMemcpy(state.data(), result_.data(), state.size_bytes(), cudaMemcpyDeviceToHost),
              "copying from the device");
    }

private:
    static void wait() { check(cudaStreamSynchronize(nullptr), "waiting for the device"); }

    UnfusedRollout rollout_;
    cuda::DeviceArray<float> result_;
    cuda::DeviceArray<float> grad_weights_;
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
    return {2.0 * rounds * chains * threads * blocks / arithmetic_seconds,
            2.0 * count * sizeof(float4) / copy_seconds};
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
