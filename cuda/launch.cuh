// SPDX-License-Identifier: MIT
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "cuda/check.hpp"
#include "cuda/traits.hpp"

namespace nca::cuda {

// A kernel and its name, for errors and for the record of what the tests have run.
#define NCA_KERNEL(kernel) #kernel, kernel

struct LaunchShape {
    int blocks = 1;
    int threads = 1;
    std::size_t shared_bytes = 0;
    // May begin while the kernel before it on the stream still runs, because it calls
    // wait_for_predecessor before it touches anything that one writes.
    bool dependent = false;
};

inline int blocks_for(long long work, long long most_blocks) {
    return static_cast<int>(std::clamp(work, 1LL, std::max(most_blocks, 1LL)));
}

// For kernels in which a thread takes every so many elements: enough blocks to fill any GPU.
inline int elementwise_blocks(long long elements) {
    return blocks_for((elements + Traits::threads - 1) / Traits::threads, 4096);
}

// More than 48 KiB of shared memory have to be asked for, once for each kernel and device.
template <class... Parameters>
void allow_shared_bytes(const char* name, void (*kernel)(Parameters...), std::size_t bytes) {
    constexpr std::size_t always_allowed = 48 * 1024;
    if (bytes <= always_allowed) return;
    check_kernel(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(bytes)),
                 name);
}

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape,
            cudaStream_t stream, Arguments&&... arguments) {
#ifdef NCA_CUDA_EXECUTOR
    executor::name_next_launch(name);
#endif
    allow_shared_bytes(name, kernel, shape.shared_bytes);
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = shape.dependent ? 1 : 0;
    check_kernel(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), name);
}

template <class... Parameters>
int resident_blocks(const char* name, void (*kernel)(Parameters...), int threads,
                    std::size_t shared_bytes) {
    allow_shared_bytes(name, kernel, shared_bytes);
    int blocks = 0;
    check_kernel(
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared_bytes),
        name);
    return blocks;
}

}  // namespace nca::cuda
