// SPDX-License-Identifier: MIT
#pragma once

#include <nca/engine.hpp>

namespace nca::cpu {

// Engine::adam on host memory.
void adam_update(float* weights, float* first_moments, float* second_moments, float* grad_weights,
                 float* norms, bool output_bias, const AdamOptions& options);

}  // namespace nca::cpu
