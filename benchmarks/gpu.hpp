// SPDX-License-Identifier: MIT
#pragma once

// What only a build with CUDA can measure. In one without, these throw NotCompiled, which nobody
// sees, because there is no engine that asks.

#include "benchmarks/measure.hpp"

namespace nca::bench {

// What a device is, and its rates of independent float32 multiply-adds and of copying large arrays.
Machine measure_gpu(int device);

// Device memory in use by everybody, in bytes.
double gpu_memory_in_use();

}  // namespace nca::bench
