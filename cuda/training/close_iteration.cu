// SPDX-License-Identifier: MIT
// The end of a training iteration: settles its verdict and moves the cursor to the next plan. One
// thread. Test: tests/trainer_test.cpp.

#include "cuda/device/launch.cuh"
#include "cuda/training/training_kernels.hpp"
#include "cuda/training/verdicts.cuh"

namespace nca::cuda {
namespace {

__global__ void close_iteration_kernel(TrainingControl* control) { close_iteration(*control); }

}  // namespace

void launch_close_iteration(TrainingControl* control, cudaStream_t stream) {
    launch(NCA_KERNEL(close_iteration_kernel), {}, stream, control);
}

}  // namespace nca::cuda
