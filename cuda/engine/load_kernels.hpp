// SPDX-License-Identifier: MIT
#pragma once

#include "cuda/training/cuda_training_loop.hpp"

namespace nca::cuda {

// Loads every kernel that an engine may launch on the current device, so that nothing is loaded
// while a graph is captured, be it the training's or the caller's.
void load_kernels(const CudaDevice& device);

}  // namespace nca::cuda
