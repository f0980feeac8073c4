// SPDX-License-Identifier: MIT
#include "cuda/loaded_kernel.hpp"

#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <utility>

#include "cuda/check.hpp"

namespace nca::cuda {
namespace {

constexpr std::size_t shared_without_asking = 48 * 1024;
constexpr int cluster_without_asking = 8;

struct Allowed {
    std::size_t shared_bytes = shared_without_asking;
    int cluster = cluster_without_asking;
};

std::mutex mutex;
std::map<std::pair<int, const void*>, Allowed> loaded;

thread_local bool loading_only = false;

void set_attribute(const char* name, const void* kernel, cudaFuncAttribute attribute, int value) {
    check_kernel(cudaFuncSetAttribute(kernel, attribute, value), name);
}

}  // namespace

void prepare_kernel(const char* name, const void* kernel, std::size_t shared_bytes, int cluster) {
    int device = 0;
    check(cudaGetDevice(&device), "asking for the current device");
    const std::scoped_lock lock(mutex);
    const std::pair key(device, kernel);
    if (loaded.count(key) == 0) {
        cudaFuncAttributes attributes = {};
        check_kernel(cudaFuncGetAttributes(&attributes, kernel), name);
        loaded[key] = {};
    }
    Allowed& allowed = loaded[key];
    if (shared_bytes > allowed.shared_bytes) {
        set_attribute(name, kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                      static_cast<int>(shared_bytes));
        allowed.shared_bytes = shared_bytes;
    }
    if (cluster > allowed.cluster) {
        set_attribute(name, kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
        allowed.cluster = cluster;
    }
}

int code_of_kernel(const char* name, const void* kernel) {
    cudaFuncAttributes attributes = {};
    check_kernel(cudaFuncGetAttributes(&attributes, kernel), name);
    return attributes.ptxVersion;
}

LoadingOnly::LoadingOnly() { loading_only = true; }
LoadingOnly::~LoadingOnly() { loading_only = false; }
bool LoadingOnly::here() { return loading_only; }

}  // namespace nca::cuda
