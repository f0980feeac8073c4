// SPDX-License-Identifier: MIT
#include "benchmarks/gpu.hpp"

#include <nca/error.hpp>

#include <cuda_runtime.h>

#include "benchmarks/device_timing.cuh"
#include "cuda/device/check.hpp"
#include "cuda/device/device_memory.hpp"
#include "cuda/device/launch.cuh"

namespace nca::bench {
namespace {

using cuda::check;

// Sixteen independent chains of multiply-adds in each thread. Their sum is written, so that the
// compiler leaves none out.
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
    int kilohertz = 0;
    check(cudaDeviceGetAttribute(&kilohertz, cudaDevAttrClockRate, device),
          "asking what the device is");
    return {.arithmetic = 2.0 * rounds * chains * threads * blocks / arithmetic_seconds,
            .bandwidth = gpu_copy_rate(device, std::size_t{1} << 30),  // more than any cache
            .multiprocessors = properties.multiProcessorCount,
            .clock = kilohertz * 1e3};
}

double gpu_copy_rate(int device, std::size_t bytes) {
    const cuda::DeviceGuard guard(device);
    cuda::DeviceArray<char> from(bytes, "a benchmark"), to(bytes, "a benchmark");
    check(cudaMemsetAsync(from.data(), 0, bytes, nullptr), "clearing memory");
    const double seconds = fastest_seconds([&] {
        check(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, nullptr),
              "copying on the device");
    });
    return 2.0 * static_cast<double>(bytes) / seconds;
}

double gpu_memory_in_use() {
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for free device memory");
    return static_cast<double>(total - free);
}

}  // namespace nca::bench
