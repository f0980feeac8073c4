// SPDX-License-Identifier: MIT
#include "host/cpu/adam.hpp"

#include "host/core/adam_rates.hpp"

#include <cmath>

namespace nca::cpu {

void adam_update(float* weights, float* first_moments, float* second_moments, float* grad_weights,
                 float* norms, bool output_bias, const AdamOptions& options) {
    const auto [rate, scale2] = adam_rates(options);
    norms[3] = 0;
    int index = 0;
    for (const ParameterTensor& tensor : parameter_tensors(output_bias)) {
        float* grad = grad_weights + tensor.offset;
        double squares = 0;
        for (std::size_t i = 0; i < tensor.size; ++i) squares += double(grad[i]) * grad[i];
        const double norm = std::sqrt(squares);
        norms[index++] = float(norm);
        if (options.normalise_gradients) {
            for (std::size_t i = 0; i < tensor.size; ++i) grad[i] = float(grad[i] / (norm + 1e-8));
        }
        for (std::size_t i = tensor.offset; i < tensor.offset + tensor.size; ++i) {
            const float g = grad_weights[i];
            float& m = first_moments[i];
            float& v = second_moments[i];
            m = options.beta1 * m + (1 - options.beta1) * g;
            v = options.beta2 * v + (1 - options.beta2) * g * g;
            weights[i] -= rate * m / (std::sqrt(v) * scale2 + options.epsilon);
        }
    }
}

}  // namespace nca::cpu
