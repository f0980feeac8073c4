// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <span>

#include "cuda/rollout/rollout.hpp"
#include "cuda/rollout/rollout_form.hpp"
#include "host/iteration/training_loop.hpp"

namespace nca::cuda {

// A device, what was asked of it, and what the kernels' launches need to know of it.
struct CudaDevice {
    Device asked_for;
    DeviceLimits limits;
    StepKernels kernels;

    int index() const { return asked_for.index; }
};

// Training without the host: everything lives on the device, an iteration is one replayed graph,
// and outcomes come back once a queue. target is [grid, grid, 4] in host memory.
std::unique_ptr<TrainingLoop> make_cuda_training_loop(const CudaDevice& device,
                                                      const TrainingConfig& config,
                                                      std::span<const float> target);

}  // namespace nca::cuda
