// SPDX-License-Identifier: MIT
#pragma once

// What only a build with CUDA can measure. In one without, these throw NotCompiled, which nobody
// sees, because there is no engine that asks.

#include "benchmarks/measure.hpp"

#include <nca/model.hpp>

#include <memory>
#include <span>

namespace nca::bench {

// What a device is, and its rates of independent float32 multiply-adds and of copying large arrays.
Machine measure_gpu(int device);

// Device memory in use by everybody, in bytes.
double gpu_memory_in_use();

// The same rollout with cuBLAS and cuRAND, one operation after the other and nothing skipped: what
// our kernels are held against. Float32, or with TF32 products.
class Unfused {
public:
    virtual ~Unfused() = default;
    // Each waits. state is [batch, height, width, channels] in device memory, and taken to be the
    // same in calls of one kind in a row.
    virtual void forward(const float* state, int steps) = 0;
    virtual void forward_backward(const float* state, int steps) = 0;
    virtual void step(const float* state) = 0;  // keeps no tape
    // The state that the last of these ended with, on the host.
    virtual void result(std::span<float> state) const = 0;
};
std::unique_ptr<Unfused> make_unfused(const Model& model, int batch, int height, int width,
                                      int most_steps, bool tf32);

}  // namespace nca::bench
