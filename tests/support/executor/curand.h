// SPDX-License-Identifier: MIT
#pragma once

// Replaces cuRAND's header of this name on the executor. It has the few functions that this project
// calls, with CUDA 13's signatures and values. The numbers are not cuRAND's, but have the same
// distribution.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

enum curandStatus {
    CURAND_STATUS_SUCCESS = 0,
    CURAND_STATUS_NOT_INITIALIZED = 101,
    CURAND_STATUS_TYPE_ERROR = 103,
    CURAND_STATUS_LAUNCH_FAILURE = 201,
    CURAND_STATUS_INITIALIZATION_FAILED = 203
};
using curandStatus_t = curandStatus;
enum curandRngType { CURAND_RNG_PSEUDO_PHILOX4_32_10 = 161 };
using curandRngType_t = curandRngType;

struct curandGenerator_st {
    cudaStream_t stream = nullptr;
    std::uint64_t seed = 0;
    std::uint64_t offset = 0;  // of the next number
};
using curandGenerator_t = curandGenerator_st*;

namespace nca::executor {

// SplitMix64's output function.
inline std::uint64_t scramble(std::uint64_t x) {
    x *= 0x9e3779b97f4a7c15U;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9U;
    x = (x ^ x >> 27) * 0x94d049bb133111ebU;
    return x ^ x >> 31;
}

// Uniform in (0, 1], from 32 bits, as in cuRAND.
inline void uniform_kernel(float* output, std::size_t count, std::uint64_t seed,
                           std::uint64_t offset) {
    for (std::size_t i = threadIdx.x; i < count; i += blockDim.x) {
        const auto bits = static_cast<std::uint32_t>(scramble(scramble(seed) + offset + i) >> 32);
        output[i] = static_cast<float>(bits) * 0x1p-32F + 0x1p-33F;
    }
}

}  // namespace nca::executor

inline curandStatus_t curandCreateGenerator(curandGenerator_t* generator,
                                            curandRngType_t rng_type) {
    if (rng_type != CURAND_RNG_PSEUDO_PHILOX4_32_10) return CURAND_STATUS_TYPE_ERROR;
    int device = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return CURAND_STATUS_INITIALIZATION_FAILED;
    *generator = new curandGenerator_st;
    return CURAND_STATUS_SUCCESS;
}

inline curandStatus_t curandDestroyGenerator(curandGenerator_t generator) {
    if (generator == nullptr) return CURAND_STATUS_NOT_INITIALIZED;
    delete generator;
    return CURAND_STATUS_SUCCESS;
}

inline curandStatus_t curandSetStream(curandGenerator_t generator, cudaStream_t stream) {
    if (generator == nullptr) return CURAND_STATUS_NOT_INITIALIZED;
    generator->stream = stream;
    return CURAND_STATUS_SUCCESS;
}

inline curandStatus_t curandSetPseudoRandomGeneratorSeed(curandGenerator_t generator,
                                                         unsigned long long seed) {
    if (generator == nullptr) return CURAND_STATUS_NOT_INITIALIZED;
    generator->seed = seed;
    return CURAND_STATUS_SUCCESS;
}

inline curandStatus_t curandGenerateSeeds(curandGenerator_t generator) {
    return generator == nullptr ? CURAND_STATUS_NOT_INITIALIZED : CURAND_STATUS_SUCCESS;
}

inline curandStatus_t curandGenerateUniform(curandGenerator_t generator, float* outputPtr,
                                            std::size_t num) {
    if (generator == nullptr) return CURAND_STATUS_NOT_INITIALIZED;
    if (num == 0) return CURAND_STATUS_SUCCESS;
    cudaLaunchConfig_t config = {};
    config.blockDim = dim3(64);
    config.gridDim = dim3(1);
    config.stream = generator->stream;
    const cudaError_t error = cudaLaunchKernelEx(&config, nca::executor::uniform_kernel, outputPtr,
                                                 num, generator->seed, generator->offset);
    generator->offset += num;
    return error == cudaSuccess ? CURAND_STATUS_SUCCESS : CURAND_STATUS_LAUNCH_FAILURE;
}
