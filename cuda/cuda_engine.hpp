// SPDX-License-Identifier: MIT
#pragma once

#include <nca/engine.hpp>

#include <memory>

namespace nca::cuda {

// How many CUDA devices this build can use; 0 where it was built without CUDA.
int device_count();

// Throws NotCompiled in a build without CUDA, CudaError where there is no such device or the build
// has no code for it.
std::unique_ptr<Engine> make_cuda_engine(int index);

}  // namespace nca::cuda
