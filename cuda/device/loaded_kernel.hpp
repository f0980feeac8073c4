// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

namespace nca::cuda {

// CUDA loads a kernel when it is first wanted, and setting its attributes costs a call of the
// driver: both happen here, once for each kernel and device.

// Loads the kernel on the current device, where that has not happened, and allows it so many bytes
// of shared memory. Throws CudaError where the build has no code for the device, or the device does
// not have that much.
void prepare_kernel(const char* name, const void* kernel, std::size_t shared_bytes);

// The compute capability that the kernel's code was compiled for, 90 for 9.0: that of the device,
// or an older one where the build has nothing newer. It decides what the kernel does, as
// __CUDA_ARCH__ did.
int code_of_kernel(const char* name, const void* kernel);

// While one exists, launches of this thread only load their kernels.
class LoadingOnly {
public:
    LoadingOnly();
    ~LoadingOnly();
    LoadingOnly(const LoadingOnly&) = delete;
    LoadingOnly& operator=(const LoadingOnly&) = delete;

    static bool here();
};

}  // namespace nca::cuda
