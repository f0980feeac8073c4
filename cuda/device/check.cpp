// SPDX-License-Identifier: MIT
#include "cuda/device/check.hpp"
#include "host/core/throw_error.hpp"

namespace nca::cuda {

void check(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    cudaGetLastError();
    throw_error<CudaError>("{}: CUDA says {} ({})", what, cudaGetErrorString(error),
                           cudaGetErrorName(error));
}

void check_kernel(cudaError_t error, const char* kernel) {
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
        cudaGetLastError();
        int device = 0;
        cudaDeviceProp properties = {};
        check(cudaGetDevice(&device), "asking for the device");
        check(cudaGetDeviceProperties(&properties, device), "asking what the device is");
        throw_error<CudaError>(
            "this build has no code for CUDA device {}, {} of compute capability {}.{}: build with "
            "-DCMAKE_CUDA_ARCHITECTURES={}{} (7.5 or later), or use the CPU engine",
            device, properties.name, properties.major, properties.minor, properties.major,
            properties.minor);
    }
    check(error, kernel);
}

}  // namespace nca::cuda
