// SPDX-License-Identifier: MIT
#include "cuda/device/loaded_kernel.hpp"

#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <utility>

#include "cuda/device/check.hpp"

namespace nca::cuda {
namespace {

constexpr std::size_t shared_without_asking = 48 * 1024;

std::mutex mutex;
// The bytes of shared memory that each loaded kernel may have.
std::map<std::pair<int, const void*>, std::size_t> loaded;

thread_local bool loading_only = false;

}  // namespace

void prepare_kernel(const char* name, const void* kernel, std::size_t shared_bytes) {
    int device = 0;
    check(cudaGetDevice(&device), "asking for the current device");
    const std::scoped_lock lock(mutex);
    const std::pair key(device, kernel);
    if (!loaded.contains(key)) {
        cudaFuncAttributes attributes = {};
        check_kernel(cudaFuncGetAttributes(&attributes, kernel), name);
        loaded[key] = shared_without_asking;
    }
    std::size_t& allowed = loaded[key];
    if (shared_bytes <= allowed) return;
    check_kernel(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      int(shared_bytes)),
                 name);
    allowed = shared_bytes;
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
