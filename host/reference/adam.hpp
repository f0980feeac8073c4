// SPDX-License-Identifier: MIT
#pragma once

// The specification, continued: one update of the weights. First, where the options ask for it, the
// gradients are normalised as in Mordvintsev et al., Distill 2020; then Adam with bias correction,
// Kingma and Ba, "Adam", ICLR 2015.

#include "host/reference/step.hpp"

#include <nca/engine.hpp>

#include <array>
#include <cmath>

namespace nca::reference {

// The L2 norm of each tensor: w1, b1, w2, b2 (0 where there is no b2).
template <class Real>
std::array<Real, 4> tensor_norms(const WeightValues<Real>& values) {
    const std::array<std::size_t, 4> sizes = {w1_size, b1_size, w2_size,
                                              values.output_bias ? b2_size : 0};
    std::array<Real, 4> norms = {};
    std::size_t index = 0;
    for (int tensor = 0; tensor < 4; ++tensor) {
        Real sum = 0;
        for (std::size_t i = 0; i < sizes[tensor]; ++i, ++index) {
            sum += values.all[index] * values.all[index];
        }
        norms[tensor] = std::sqrt(sum);
    }
    return norms;
}

// Replaces g by g / (||g|| + 1e-8), for each tensor.
template <class Real>
void normalise(WeightValues<Real>& gradients) {
    const std::array<Real, 4> norms = tensor_norms(gradients);
    for (std::size_t i = 0; i < gradients.all.size(); ++i) {
        const int tensor = i < w1_size                       ? 0
                           : i < w1_size + b1_size           ? 1
                           : i < w1_size + b1_size + w2_size ? 2
                                                             : 3;
        gradients.all[i] /= norms[tensor] + Real(1e-8);
    }
}

// Updates weights and moments. Overwrites the gradients by the normalised ones where the options
// ask for it.
template <class Real>
void adam(WeightValues<Real>& weights, WeightValues<Real>& first_moments,
          WeightValues<Real>& second_moments, WeightValues<Real>& gradients,
          const AdamOptions& options) {
    if (options.normalise_gradients) normalise(gradients);
    const Real beta1 = options.beta1, beta2 = options.beta2;
    const Real correction1 = 1 - std::pow(beta1, Real(options.update));
    const Real correction2 = 1 - std::pow(beta2, Real(options.update));
    for (std::size_t i = 0; i < weights.all.size(); ++i) {
        const Real g = gradients.all[i];
        Real& m = first_moments.all[i];
        Real& v = second_moments.all[i];
        m = beta1 * m + (1 - beta1) * g;
        v = beta2 * v + (1 - beta2) * g * g;
        weights.all[i] -= Real(options.learning_rate) * (m / correction1) /
                          (std::sqrt(v / correction2) + Real(options.epsilon));
    }
}

}  // namespace nca::reference
