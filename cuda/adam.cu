// SPDX-License-Identifier: MIT
// Engine::adam, in two launches: the L2 norm of each tensor, then the update.
//
//   g  = grad / (norm + 1e-8)              where gradients are normalised
//   m  = beta1 m + (1 - beta1) g
//   v  = beta2 v + (1 - beta2) g^2
//   w -= rate m / (sqrt(v) scale2 + epsilon)
//
// with rate and scale2 from the host, which has the bias corrections in double. In training the
// update also keeps the weights that have just been tried, sets the anchor where the plan says so,
// and does nothing at all where the iteration has failed.
//
// Reads and writes 33 KiB each of weights, moments and gradients.
// Reference: host/reference/adam.hpp. Test: tests/engine_test.cpp, tests/trainer_test.cpp.

#include "cuda/device.cuh"
#include "cuda/kernels.hpp"
#include "cuda/launch.cuh"

namespace nca::cuda {
namespace {

constexpr int tensors = 4;  // w1, b1, w2, b2, as in Weights::all()

struct Span {
    int begin;
    int end;
};

__device__ Span tensor_span(int tensor, bool output_bias) {
    constexpr int b1 = static_cast<int>(w1_size), w2 = b1 + static_cast<int>(b1_size),
                  b2 = w2 + static_cast<int>(w2_size);
    const int end = b2 + (output_bias ? static_cast<int>(b2_size) : 0);
    return tensor == 0   ? Span{0, b1}
           : tensor == 1 ? Span{b1, w2}
           : tensor == 2 ? Span{w2, b2}
                         : Span{b2, end};
}

struct SharedStorage {
    double sums[Traits::threads];
};

__global__ void __launch_bounds__(Traits::threads)
    tensor_norms_kernel(const __grid_constant__ AdamArgs args) {
    auto& shared = shared_storage<SharedStorage>();
    const int thread = static_cast<int>(threadIdx.x), tensor = static_cast<int>(blockIdx.x);
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
    args.norms[tensor] = static_cast<float>(sqrt(shared.sums[0]));
}

// Says to the host how the iteration went; true where the update may be made.
__device__ bool judge_gradient(const AdamArgs& args, bool first_thread) {
    TrainingControl& control = *args.control;
    if (control.failed != 0) return false;
    double sum = 0;
    for (int tensor = 0; tensor < tensors; ++tensor) sum += args.squares[tensor];
    const double norm = sqrt(sum);
    const bool good = norm <= exploded_gradient;
    if (first_thread) {
        IterationOutcome& outcome = control.outcomes[control.cursor];
        outcome.gradient_norm = norm;
        if (!good) outcome.verdict = Verdict::gradient_exploded;
    }
    return good;
}

__device__ void keep_copies(const AdamArgs& args, int i, int count) {
    args.good[i] = args.weights[i];
    if (args.control->plans[args.control->cursor].set_anchor == 0) return;
    args.anchor[i] = args.weights[i];
    args.anchor[count + i] = args.first_moments[i];
    args.anchor[2 * count + i] = args.second_moments[i];
}

__global__ void __launch_bounds__(Traits::threads)
    adam_kernel(const __grid_constant__ AdamArgs args) {
    const int i = static_cast<int>(blockIdx.x) * Traits::threads + static_cast<int>(threadIdx.x);
    const bool training = args.control != nullptr;
    if (training && !judge_gradient(args, i == 0)) return;
    const int count = tensor_span(tensors - 1, args.output_bias).end;
    if (i >= count) return;
    if (training) keep_copies(args, i, count);
    const AdamRates rates = training ? args.control->plans[args.control->cursor].rates : args.rates;

    float g = args.grad_weights[i];
    if (args.normalise) {
        int tensor = 0;
        while (i >= tensor_span(tensor, args.output_bias).end) ++tensor;
        g = static_cast<float>(g / (sqrt(args.squares[tensor]) + 1e-8));
        args.grad_weights[i] = g;
    }
    const float m = args.beta1 * args.first_moments[i] + (1 - args.beta1) * g;
    const float v = args.beta2 * args.second_moments[i] + (1 - args.beta2) * g * g;
    const float w = args.weights[i] - rates.rate * m / (sqrtf(v) * rates.scale2 + args.epsilon);
    args.first_moments[i] = m;
    args.second_moments[i] = v;
    args.weights[i] = w;
    if (training && !isfinite(w)) args.control->bad_weight = 1;
}

}  // namespace

void launch_adam(const AdamArgs& args, cudaStream_t stream) {
    launch(NCA_KERNEL(tensor_norms_kernel),
           {.blocks = tensors, .threads = Traits::threads, .shared_bytes = sizeof(SharedStorage)},
           stream, args);
    const auto count = static_cast<int>(parameter_count(args.output_bias));
    launch(NCA_KERNEL(adam_kernel),
           {.blocks = (count + Traits::threads - 1) / Traits::threads, .threads = Traits::threads},
           stream, args);
}

}  // namespace nca::cuda
