// SPDX-License-Identifier: MIT
// The weights in the order in which the step kernels read them, with
//
//   u0 = W2 relu(b1) + b2
//
// the update of a cell that fires among zeros. u0 comes out of the very code that computes every
// other row, for p = 0, so that skipping such rows changes no bit.
//
// For tensor cores the weights lie as operands of their products, 90 KiB, and u0 comes out of their
// code.
//
// One block, once a rollout: reads 33 KiB of weights, overwrites 41 KiB of model. The key of the
// fire masks goes along, so that the step kernels of a replayed graph find it in memory.
// Test: tests/engine_test.cpp.

#include "cuda/kernels.hpp"
#include "cuda/launch.cuh"
#include "cuda/mlp_forward.cuh"
#include "cuda/pack_tensor.cuh"
#include "cuda/tensor_mlp.cuh"

namespace nca::cuda {
namespace {

struct PackModelArgs {
    PackedModel* model;
    ConstWeightsView weights;  // w1 [128, 48], b1 [128], w2 [16, 128], b2 [16] or null
    FireKey key;
    const TrainingControl* control;  // or null
};

struct SharedStorage {
    alignas(16) float scratch[mlp_forward_scratch];
};

__device__ void pack_weights(const PackModelArgs& args, int thread) {
    PackedModel& model = *args.model;
    for (int i = thread; i < Traits::perception * Traits::hidden; i += Traits::threads) {
        const int k = i / Traits::hidden, j = i % Traits::hidden;
        model.forward.w1[i] =
            args.weights.w1[j * Traits::perception + model_index_of_perception(k)];
    }
    for (int i = thread; i < Traits::hidden * Traits::channels; i += Traits::threads) {
        const int row = i / Traits::channels, c = i % Traits::channels;
        model.forward.w2[i] = args.weights.w2[c * Traits::hidden + hidden_unit_of_row(row)];
        model.w2[i] = args.weights.w2[i];
    }
    if (thread < Traits::hidden) model.forward.b1[thread] = args.weights.b1[thread];
    if (thread < Traits::channels) {
        model.forward.b2[thread] = args.weights.b2 != nullptr ? args.weights.b2[thread] : 0.0F;
    }
}

__device__ FireKey key_of(const PackModelArgs& args) {
    return args.control != nullptr ? args.control->plans[args.control->cursor].key : args.key;
}

__global__ void __launch_bounds__(Traits::threads)
    pack_model_kernel(const __grid_constant__ PackModelArgs args) {
    auto& shared = shared_storage<SharedStorage>();
    const int thread = static_cast<int>(threadIdx.x);
    pack_weights(args, thread);
    if (thread == 0) args.model->key = key_of(args);
    for (int i = thread; i < mlp_forward_scratch; i += Traits::threads) shared.scratch[i] = 0;
    __syncthreads();  // the block sees all that it has packed
    if (thread >= Traits::warp_size) return;
    const float4 u = mlp_forward_rows(args.model->forward, shared.scratch, thread);
    if (forward_row_of(thread) == 0) store4(args.model->u0 + forward_quad_of(thread) * 4, u);
}

// One of the model's tensors; before is how many parameters those in front of it have. Returns how
// many there are with it.
__device__ int pack_tensor(TensorWeights& packed, int before, const float* tensor, std::size_t size,
                           int thread) {
    const int end = static_cast<int>(size);
    for (int i = thread; i < end; i += Traits::threads) store_packed(packed, before + i, tensor[i]);
    return before + end;
}

template <class Arithmetic>
__global__ void __launch_bounds__(Traits::threads)
    pack_tensor_model_kernel(const __grid_constant__ PackModelArgs args) {
    auto& rows = shared_storage<ForwardRows, Traits::tensor_shared_bytes>();
    const int thread = static_cast<int>(threadIdx.x);
    TensorWeights& packed = args.model->tensor;
    const ConstWeightsView& weights = args.weights;
    if (weights.b2 == nullptr && thread < Traits::channels) packed.b2[thread] = 0;
    int before = pack_tensor(packed, 0, weights.w1, w1_size, thread);
    before = pack_tensor(packed, before, weights.b1, b1_size, thread);
    before = pack_tensor(packed, before, weights.w2, w2_size, thread);
    if (weights.b2 != nullptr) pack_tensor(packed, before, weights.b2, b2_size, thread);
    if (thread == 0) args.model->key = key_of(args);
    __syncthreads();  // the block sees all that it has packed
    const auto own = load_forward_operands<Arithmetic>(packed, thread / Traits::warp_size,
                                                       thread % Traits::warp_size);
    compute_u0<Arithmetic>(args.model->u0, rows, own, packed, thread);
}

}  // namespace

void launch_pack_model(PackedModel* model, ConstWeightsView weights, const FireKey& key,
                       const TrainingControl* control, Precision precision, cudaStream_t stream) {
    const PackModelArgs args = {model, weights, key, control};
    if (precision == Precision::exact) {
        launch(NCA_KERNEL(pack_model_kernel),
               {.threads = Traits::threads, .shared_bytes = sizeof(SharedStorage)}, stream, args);
        return;
    }
    with_arithmetic(precision, [&](auto arithmetic) {
        launch("pack_tensor_model_kernel", pack_tensor_model_kernel<decltype(arithmetic)>,
               {.threads = Traits::threads, .shared_bytes = sizeof(ForwardRows)}, stream, args);
    });
}

}  // namespace nca::cuda
