// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <span>
#include <string>

#include "cuda/kernels.hpp"
#include "host/training_loop.hpp"

namespace nca::cuda {

// A device, what the kernels' launches need to know of it, and how they are to run.
struct CudaDevice {
    int index = 0;
    std::string name;
    int forward_blocks = 0;  // of step_forward_kernel that it can hold at once
    Precision precision = default_precision;
    RolloutForm rollout = RolloutForm::automatic;
};

// Training without the host: everything lives on the device, an iteration is one replayed graph,
// and outcomes come back once a queue. target is [grid, grid, 4] in host memory.
std::unique_ptr<TrainingLoop> make_cuda_training_loop(const CudaDevice& device,
                                                      const TrainingConfig& config,
                                                      std::span<const float> target);

}  // namespace nca::cuda
