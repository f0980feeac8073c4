// SPDX-License-Identifier: MIT
// After how many steps of a rollout each sample's way back begins: integers [batch] on the device.
// And where the gradients lie that come in after each step: pointers [steps + 1].
//
// put takes them from the launch's arguments, so that the host's memory is not read later, as
// a copy in a captured graph would. plan_steps takes those of the training's plan at its cursor.
// Tests: tests/engine_test.cpp, tests/band_test.cpp, tests/trainer_test.cpp.

#include "cuda/device/launch.cuh"
#include "cuda/rule/rule_kernels.hpp"

#include <algorithm>

namespace nca::cuda {
namespace {

template <class T>
struct PutArgs {
    static constexpr int most = 2048 / sizeof(T);  // of one launch
    T* to;
    int count;
    T values[most];
};

template <class T>
__global__ void __launch_bounds__(Traits::threads)
    put_kernel(const __grid_constant__ PutArgs<T> args) {
    for (int i = int(threadIdx.x); i < args.count; i += Traits::threads) {
        args.to[i] = args.values[i];
    }
}

template <class T>
void launch_put(T* to, std::span<const T> values, cudaStream_t stream) {
    for (std::size_t first = 0; first < values.size(); first += PutArgs<T>::most) {
        PutArgs<T> args = {.to = to + first, .count = 0, .values = {}};
        const auto here = values.subspan(first);
        args.count = int(std::min(here.size(), std::size_t{PutArgs<T>::most}));
        std::copy_n(here.begin(), args.count, args.values);
        launch("put_kernel", put_kernel<T>, {.threads = Traits::threads}, stream, args);
    }
}

__global__ void __launch_bounds__(Traits::threads)
    plan_steps_kernel(int* to, const int* of_plans, int batch, const TrainingControl* control) {
    const int* const from = of_plans + control->cursor * batch;
    for (int i = int(threadIdx.x); i < batch; i += Traits::threads) to[i] = from[i];
}

}  // namespace

void launch_put_steps(int* to, std::span<const int> steps, cudaStream_t stream) {
    launch_put(to, steps, stream);
}

void launch_put_pointers(const float** to, std::span<const float* const> pointers,
                         cudaStream_t stream) {
    launch_put(to, pointers, stream);
}

void launch_plan_steps(int* to, const int* of_plans, int batch, const TrainingControl* control,
                       cudaStream_t stream) {
    launch(NCA_KERNEL(plan_steps_kernel), {.threads = Traits::threads}, stream, to, of_plans, batch,
           control);
}

}  // namespace nca::cuda
