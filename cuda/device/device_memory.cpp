// SPDX-License-Identifier: MIT
#include "cuda/device/device_memory.hpp"

#include <algorithm>

#include "cuda/device/check.hpp"
#include "host/core/throw_error.hpp"

namespace nca::cuda {

void* allocate(std::size_t count, std::size_t element_bytes, std::string_view what) {
    const bool overflows = count > SIZE_MAX / element_bytes;
    const std::size_t bytes =
        overflows ? SIZE_MAX : std::max<std::size_t>(count * element_bytes, 1);
    void* memory = nullptr;
    const cudaError_t error = overflows ? cudaErrorMemoryAllocation : cudaMalloc(&memory, bytes);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        std::size_t free = 0, total = 0;
        check(cudaMemGetInfo(&free, &total), "asking for free device memory");
        throw_error<CudaError>(
            "no device memory for {} bytes of {}: {} of {} are free; use a smaller batch or grid, "
            "or fewer steps",
            bytes, what, free, total);
    }
    if (error == cudaErrorStreamCaptureUnsupported) {
        cudaGetLastError();
        throw_error<CudaError>(
            "{} need {} more bytes of device memory, which CUDA does not give while a graph is "
            "captured: make a call of this size before the capture",
            what, bytes);
    }
    check(error, "asking for device memory");
    return memory;
}

DeviceGuard::DeviceGuard(int index) {
    check(cudaGetDevice(&before_), "asking for the current device");
    changed_ = before_ != index;
    if (changed_) check(cudaSetDevice(index), "choosing the device");
}

DeviceGuard::~DeviceGuard() {
    if (changed_ && cudaSetDevice(before_) != cudaSuccess) cudaGetLastError();
}

}  // namespace nca::cuda
