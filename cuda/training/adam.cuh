// SPDX-License-Identifier: MIT
#pragma once

// Adam's update of one weight, and what belongs to it in training. adam.cu has the formulas.

#include "cuda/device/device.cuh"
#include "cuda/training/training_kernels.hpp"
#include "cuda/training/verdicts.cuh"

namespace nca::cuda {

struct Span {
    int begin;
    int end;
};

__device__ inline Span tensor_span(int tensor, bool output_bias) {
    constexpr int b1 = int(w1_size), w2 = b1 + int(b1_size), b2 = w2 + int(w2_size);
    const int end = b2 + (output_bias ? int(b2_size) : 0);
    return tensor == 0   ? Span{0, b1}
           : tensor == 1 ? Span{b1, w2}
           : tensor == 2 ? Span{w2, b2}
                         : Span{b2, end};
}

// In training: copies the weights that the iteration ran with, and the anchor where the plan says
// so.
__device__ inline void keep_copies(const AdamArgs& args, int i, int count) {
    args.good[i] = args.weights[i];
    if (args.control->plans[args.control->cursor].set_anchor == 0) return;
    args.anchor[i] = args.weights[i];
    args.anchor[count + i] = args.first_moments[i];
    args.anchor[2 * count + i] = args.second_moments[i];
}

// The update of the i-th weight; squares is the square of its tensor's norm. Returns the weight.
__device__ inline float update_weight(const AdamArgs& args, const AdamRates& rates, int i,
                                      double squares) {
    float g = args.grad_weights[i];
    if (args.normalise) {
        g = float(g / (sqrt(squares) + 1e-8));
        args.grad_weights[i] = g;
    }
    const float m = args.beta1 * args.first_moments[i] + (1 - args.beta1) * g;
    const float v = args.beta2 * args.second_moments[i] + (1 - args.beta2) * g * g;
    const float w = args.weights[i] - rates.rate * m / (sqrtf(v) * rates.scale2 + args.epsilon);
    args.first_moments[i] = m;
    args.second_moments[i] = v;
    args.weights[i] = w;
    if (args.control != nullptr && !isfinite(w)) args.control->bad_weight = 1;
    return w;
}

}  // namespace nca::cuda
