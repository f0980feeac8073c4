// SPDX-License-Identifier: MIT
#pragma once

#include <nca/model.hpp>

#include <memory>
#include <span>

namespace nca::bench {

// A rollout with cuBLAS and cuRAND, one operation after the other, nothing skipped. Our kernels are
// compared with it. Float32, or with TF32 products.
class Unfused {
public:
    virtual ~Unfused() = default;
    // Each waits for the device. state is [batch, height, width, channels] in device memory. In
    // calls of one kind in a row it has to be the same: only the first of them copies it.
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
