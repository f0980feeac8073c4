// SPDX-License-Identifier: MIT
#pragma once

#include <nca/error.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "cuda/device/check.hpp"
#include "cuda/device/device.cuh"
#include "cuda/device/loaded_kernel.hpp"
#include "cuda/device/traits.hpp"

namespace nca::cuda {

// A kernel and its name, for errors.
#define NCA_KERNEL(kernel) #kernel, kernel

struct LaunchShape {
    int blocks = 1;
    int threads = 1;
    std::size_t shared_bytes = 0;
    // The kernel may begin while the one before it on the stream still runs: it calls
    // wait_for_predecessor before it touches anything that the other writes. Only code for 9.0 and
    // later waits there: see StepKernels::waits_for_predecessor.
    bool dependent = false;
    // All blocks are resident at once, because they wait for each other.
    bool cooperative = false;
    int cluster = 0;  // blocks of a cluster, at most 8; 0: there are none
};

inline int blocks_for(long long work, long long most_blocks) {
    return int(std::clamp(work, 1LL, std::max(most_blocks, 1LL)));
}

// For kernels whose threads each take every n-th element: enough blocks to fill any GPU.
inline int elementwise_blocks(long long elements) {
    return blocks_for((elements + Traits::threads - 1) / Traits::threads, 4096);
}

template <class... Parameters>
const void* handle_of(void (*kernel)(Parameters...)) {
    return reinterpret_cast<const void*>(kernel);
}

// A launch's configuration with the attributes that it points to.
class LaunchConfig {
public:
    LaunchConfig(const LaunchShape& shape, cudaStream_t stream) {
        if (shape.dependent) {
            add(cudaLaunchAttributeProgrammaticStreamSerialization)
                .programmaticStreamSerializationAllowed = 1;
        }
        if (shape.cooperative) add(cudaLaunchAttributeCooperative).cooperative = 1;
        if (shape.cluster > 0) {
            auto& dimension = add(cudaLaunchAttributeClusterDimension).clusterDim;
            dimension.x = unsigned(shape.cluster);
            dimension.y = dimension.z = 1;
        }
        config_.gridDim = dim3(unsigned(shape.blocks));
        config_.blockDim = dim3(unsigned(shape.threads));
        config_.dynamicSmemBytes = shape.shared_bytes;
        config_.stream = stream;
        config_.attrs = attributes_;
    }
    LaunchConfig(const LaunchConfig&) = delete;
    LaunchConfig& operator=(const LaunchConfig&) = delete;

    const cudaLaunchConfig_t* get() const { return &config_; }

private:
    cudaLaunchAttributeValue& add(cudaLaunchAttributeID id) {
        cudaLaunchAttribute& attribute = attributes_[config_.numAttrs++];
        attribute.id = id;
        return attribute.val;
    }

    cudaLaunchAttribute attributes_[3] = {};
    cudaLaunchConfig_t config_ = {};
};

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape,
            cudaStream_t stream, Arguments&&... arguments) {
    prepare_kernel(name, handle_of(kernel), shape.shared_bytes);
    if (LoadingOnly::here()) return;
    const LaunchConfig config(shape, stream);
    check_kernel(cudaLaunchKernelEx(config.get(), kernel, std::forward<Arguments>(arguments)...),
                 name);
}

// How many clusters of the shape's size the current device holds at once; 0 where it cannot have
// any.
template <class... Parameters>
int active_clusters(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape) {
    try {
        prepare_kernel(name, handle_of(kernel), shape.shared_bytes);
    } catch (const CudaError&) {
        return 0;
    }
    const LaunchConfig config(shape, nullptr);
    int clusters = 0;
    if (cudaOccupancyMaxActiveClusters(&clusters, kernel, config.get()) == cudaSuccess) {
        return clusters;
    }
    cudaGetLastError();  // noticed
    return 0;
}

template <class... Parameters>
int resident_blocks(const char* name, void (*kernel)(Parameters...), int threads,
                    std::size_t shared_bytes) {
    prepare_kernel(name, handle_of(kernel), shared_bytes);
    int blocks = 0;
    check_kernel(
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared_bytes),
        name);
    return blocks;
}

}  // namespace nca::cuda
