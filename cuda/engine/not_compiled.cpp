// SPDX-License-Identifier: MIT
// Stands in for the CUDA engine in builds without it.
#include "cuda/engine/cuda_engine.hpp"

#include <nca/error.hpp>

namespace nca::cuda {

bool is_usable(int) { return false; }

std::unique_ptr<Engine> make_cuda_engine(const Device&) {
    throw NotCompiled(
        "this build of libnca_cuda has no CUDA engine: use the CPU engine, or build with CUDA");
}

}  // namespace nca::cuda
