// SPDX-License-Identifier: MIT
// The end of a training iteration: settles its verdict and moves the cursor to the next plan. One
// thread. Test: tests/trainer_test.cpp.

#include "cuda/device.cuh"
#include "cuda/kernels.hpp"
#include "cuda/launch.cuh"

namespace nca::cuda {
namespace {

__global__ void close_iteration_kernel(TrainingControl* control) {
    IterationOutcome& outcome = control->outcomes[control->cursor];
    if (outcome.verdict == Verdict::good && control->bad_weight != 0) {
        outcome.verdict = Verdict::weight_not_finite;
    }
    if (outcome.verdict != Verdict::good) control->failed = 1;
    control->bad_weight = 0;
    ++control->cursor;
}

}  // namespace

void launch_close_iteration(TrainingControl* control, cudaStream_t stream) {
    launch(NCA_KERNEL(close_iteration_kernel), {}, stream, control);
}

}  // namespace nca::cuda
