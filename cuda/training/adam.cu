// SPDX-License-Identifier: MIT
// Engine::adam, in two launches: the L2 norm of each tensor, then the update.
//
//   g  = grad / (norm + 1e-8)              where gradients are normalised
//   m  = beta1 m + (1 - beta1) g
//   v  = beta2 v + (1 - beta2) g^2
//   w -= rate m / (sqrt(v) scale2 + epsilon)
//
// with rate and scale2 from the host, which has the bias corrections in double. In training the
// update also copies the weights that the iteration ran with, sets the anchor where the plan says
// so, and does nothing where the iteration has failed.
//
// Reads and writes 33 KiB each of weights, moments and gradients.
// Reference: host/reference/adam.hpp. Test: tests/engine_test.cpp, tests/trainer_test.cpp.

#include "cuda/device/launch.cuh"
#include "cuda/training/adam.cuh"

namespace nca::cuda {
namespace {

struct SharedStorage {
    double sums[Traits::threads];
};

__global__ void __launch_bounds__(Traits::threads)
    tensor_norms_kernel(const __grid_constant__ AdamArgs args) {
    auto& shared = shared_storage<SharedStorage>();
    const int thread = int(threadIdx.x), tensor = int(blockIdx.x);
    const Span span = tensor_span(tensor, args.output_bias);
    double sum = 0;
    for (int i = span.begin + thread; i < span.end; i += Traits::threads) {
        sum += double(args.grad_weights[i]) * args.grad_weights[i];
    }
    shared.sums[thread] = sum;
    for (int half = Traits::threads / 2; half > 0; half /= 2) {
        __syncthreads();  // the sums of the round before are written
        if (thread < half) shared.sums[thread] += shared.sums[thread + half];
    }
    if (thread != 0) return;
    args.squares[tensor] = shared.sums[0];
    args.norms[tensor] = float(sqrt(shared.sums[0]));
}

__global__ void __launch_bounds__(Traits::threads)
    adam_kernel(const __grid_constant__ AdamArgs args) {
    const int i = int(blockIdx.x) * Traits::threads + int(threadIdx.x);
    const bool training = args.control != nullptr;
    if (training && !judge_gradient(*args.control, args.squares, i == 0)) return;
    const int count = tensor_span(tensors - 1, args.output_bias).end;
    if (i >= count) return;
    if (training) keep_copies(args, i, count);
    const AdamRates rates = training ? args.control->plans[args.control->cursor].rates : args.rates;
    int tensor = 0;
    while (i >= tensor_span(tensor, args.output_bias).end) ++tensor;
    update_weight(args, rates, i, args.squares[tensor]);
}

}  // namespace

void launch_adam(const AdamArgs& args, cudaStream_t stream) {
    launch(NCA_KERNEL(tensor_norms_kernel),
           {.blocks = tensors, .threads = Traits::threads, .shared_bytes = sizeof(SharedStorage)},
           stream, args);
    const auto count = int(parameter_count(args.output_bias));
    launch(NCA_KERNEL(adam_kernel),
           {.blocks = (count + Traits::threads - 1) / Traits::threads, .threads = Traits::threads},
           stream, args);
}

}  // namespace nca::cuda
