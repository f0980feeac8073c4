// SPDX-License-Identifier: MIT
#pragma once

#include <nca/engine.hpp>

#include <cmath>

namespace nca {

// The factors of an Adam update, the same for every engine:
// weight -= rate * m / (sqrt(v) * scale2 + epsilon).
struct AdamRates {
    float rate = 0;    // learning_rate / (1 - beta1^update)
    float scale2 = 0;  // 1 / sqrt(1 - beta2^update)
};

inline AdamRates adam_rates(const AdamOptions& options) {
    // In double: in float32 the difference has few correct digits while update is small.
    const double correction1 = 1 - std::pow(double(options.beta1), double(options.update));
    const double correction2 = 1 - std::pow(double(options.beta2), double(options.update));
    return {float(options.learning_rate / correction1), float(1 / std::sqrt(correction2))};
}

}  // namespace nca
