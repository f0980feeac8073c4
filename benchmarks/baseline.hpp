// SPDX-License-Identifier: MIT
#pragma once

#include <nca/model.hpp>

#include <memory>
#include <span>

namespace nca::bench {

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
// Whether this build has it: it needs cuBLAS and cuRAND. make_unfused throws NotCompiled otherwise.
bool has_unfused();
std::unique_ptr<Unfused> make_unfused(const Model& model, int batch, int height, int width,
                                      int most_steps, bool tf32);

}  // namespace nca::bench
