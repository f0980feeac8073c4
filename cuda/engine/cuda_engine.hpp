// SPDX-License-Identifier: MIT
#pragma once

#include <nca/engine.hpp>

#include <memory>

namespace nca::cuda {

// Whether there is such a device, with a driver, and this build has code for it.
bool is_usable(int index);

// On the CUDA device of that index, whatever its kind says. Throws NotCompiled in a build without
// CUDA, CudaError where there is no such device or the build has no code for it.
std::unique_ptr<Engine> make_cuda_engine(const Device& asked_for);

}  // namespace nca::cuda
