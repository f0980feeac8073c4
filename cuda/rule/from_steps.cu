// SPDX-License-Identifier: MIT
// After how many steps of a rollout each sample's way back begins: integers [batch] on the device.
//
// put_steps takes them from the launch's arguments, so that the host's memory is not read later, as
// a copy in a captured graph would. plan_steps takes those of the training's plan at its cursor.
// Tests: tests/engine_test.cpp, tests/band_test.cpp, tests/trainer_test.cpp.

#include "cuda/device/launch.cuh"
#include "cuda/rule/rule_kernels.hpp"

#include <algorithm>

namespace nca::cuda {
namespace {

struct PutStepsArgs {
    static constexpr int most = 512;  // of one launch
    int* to;
    int count;
    int steps[most];
};

__global__ void __launch_bounds__(Traits::threads)
    put_steps_kernel(const __grid_constant__ PutStepsArgs args) {
    for (int i = int(threadIdx.x); i < args.count; i += Traits::threads) args.to[i] = args.steps[i];
}

__global__ void __launch_bounds__(Traits::threads)
    plan_steps_kernel(int* to, const int* of_plans, int batch, const TrainingControl* control) {
    const int* const from = of_plans + control->cursor * batch;
    for (int i = int(threadIdx.x); i < batch; i += Traits::threads) to[i] = from[i];
}

}  // namespace

void launch_put_steps(int* to, std::span<const int> steps, cudaStream_t stream) {
    for (std::size_t first = 0; first < steps.size(); first += PutStepsArgs::most) {
        PutStepsArgs args = {.to = to + first, .count = 0, .steps = {}};
        const auto here = steps.subspan(first);
        args.count = int(std::min(here.size(), std::size_t{PutStepsArgs::most}));
        std::copy_n(here.begin(), args.count, args.steps);
        launch(NCA_KERNEL(put_steps_kernel), {.threads = Traits::threads}, stream, args);
    }
}

void launch_plan_steps(int* to, const int* of_plans, int batch, const TrainingControl* control,
                       cudaStream_t stream) {
    launch(NCA_KERNEL(plan_steps_kernel), {.threads = Traits::threads}, stream, to, of_plans, batch,
           control);
}

}  // namespace nca::cuda
