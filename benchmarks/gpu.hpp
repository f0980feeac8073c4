// SPDX-License-Identifier: MIT
#pragma once

// What only a build with CUDA can measure. In a build without CUDA these throw NotCompiled; nothing
// calls them there.

#include "benchmarks/measure.hpp"

#include <cstddef>

namespace nca::bench {

// What a device is, and its rates of independent float32 multiply-adds and of copying 1 GiB.
Machine measure_gpu(int device);

// The rate of cudaMemcpyAsync from so many bytes of the device's memory to as many others, in bytes
// a second, those read and those written.
double gpu_copy_rate(int device, std::size_t bytes);

// Device memory in use by everybody, in bytes.
double gpu_memory_in_use();

}  // namespace nca::bench
