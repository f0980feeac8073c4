// SPDX-License-Identifier: MIT
#pragma once

#include <cuda_runtime.h>

namespace nca::cuda {

// Throw CudaError where a call of the CUDA runtime failed; after that the error counts as noticed.
// what says what was tried, for people: "waiting for the device".
void check(cudaError_t error, const char* what);
// The same for what is done with a kernel: says so where the build has no code for this GPU.
void check_kernel(cudaError_t error, const char* kernel);

}  // namespace nca::cuda
