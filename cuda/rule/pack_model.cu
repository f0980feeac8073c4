// SPDX-License-Identifier: MIT
// The weights in the order in which the step kernels read them, with
//
//   u0 = W2 relu(b1) + b2
//
// the update of an empty cell. In `exact` the code that computes every other row computes u0, too,
// for p = 0, so that skipping such rows changes no bit.
//
// For tensor cores the weights lie as operands of their products as well: as float32, 90 KiB, and
// as a streamed step multiplies them, 34 KiB.
//
// Once a rollout; reads 33 KiB of weights. The key of the fire masks goes along, so that the step
// kernels of a replayed graph find it in memory.
// Test: tests/engine_test.cpp.

#include "cuda/device/launch.cuh"
#include "cuda/rule/mlp_forward.cuh"
#include "cuda/rule/operands.cuh"
#include "cuda/rule/pack_tensor.cuh"
#include "cuda/rule/rule_kernels.hpp"

namespace nca::cuda {
namespace {

struct PackModelArgs {
    PackedModel* model;
    ConstWeightsView weights;  // w1 [128, 48], b1 [128], w2 [16, 128], b2 [16] or null
    StepRule rule;
    FireKey key;
    const TrainingControl* control;  // or null
};

struct SharedStorage {
    alignas(16) float scratch[mlp_forward_scratch];
    std::uint32_t largest[2];
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

// Weights, key and u0.
__device__ void pack_exact(const PackModelArgs& args, SharedStorage& shared, int thread) {
    pack_weights(args, thread);
    if (thread == 0) args.model->key = key_of(args);
    for (int i = thread; i < mlp_forward_scratch; i += Traits::threads) shared.scratch[i] = 0;
    __syncthreads();  // the block sees all that it has packed
    if (thread >= Traits::warp_size) return;
    const float4 u = mlp_forward_rows(args.model->forward, shared.scratch, thread);
    if (forward_row_of(thread) == 0) store4(args.model->u0 + forward_quad_of(thread) * 4, u);
}

// Packs one of the model's tensors. `before`: how many parameters the tensors in front of it have.
// Returns that number for the tensor behind it.
__device__ int pack_tensor(TensorWeights& packed, int before, const float* tensor, std::size_t size,
                           int thread) {
    const int end = int(size);
    for (int i = thread; i < end; i += Traits::threads) store_packed(packed, before + i, tensor[i]);
    return before + end;
}

__device__ void pack_tensors(const PackModelArgs& args, int thread) {
    TensorWeights& packed = args.model->tensor;
    const ConstWeightsView& weights = args.weights;
    if (weights.b2 == nullptr && thread < Traits::channels) packed.b2[thread] = 0;
    int before = pack_tensor(packed, 0, weights.w1, w1_size, thread);
    before = pack_tensor(packed, before, weights.b1, b1_size, thread);
    before = pack_tensor(packed, before, weights.w2, w2_size, thread);
    if (weights.b2 != nullptr) pack_tensor(packed, before, weights.b2, b2_size, thread);
}

// W1 for the three things that a streamed step perceives of a channel: the cell, and Sobel x and y
// with corners of 1.
__device__ float w1_of(const PackModelArgs& args, int hidden, int channel, int perceived) {
    float sum = 0;
    for (int k = 0; k < filter_count; ++k) {
        const FilterParts parts = parts_of_filter(args.rule.filters[k]);
        const float part = perceived == 0 ? parts.cell : perceived == 1 ? parts.x : parts.y;
        const int index =
            hidden * Traits::perception + model_index_of_perception(k * Traits::channels + channel);
        sum += part * args.weights.w1[index];
    }
    return sum;
}

// The scales of stream_forward.cu: of a', of W1 and W2.
struct StreamScales {
    float f, w1, w2;
};

// scratch [2] in shared memory. Has barriers.
template <int parts>
__device__ StreamScales stream_scales(const PackModelArgs& args, std::uint32_t* scratch,
                                      int thread) {
    if (thread < 2) scratch[thread] = 0;
    __syncthreads();  // scratch is zero
    const float largest_cell = parts == 1 ? 65504.0F : 64.0F;
    if (thread < Traits::hidden) {
        float sum = 0, w2 = 0;
        for (int channel = 0; channel < Traits::channels; ++channel) {
            for (int i = 0; i < filter_count; ++i) {
                const float most = i == 0 ? 1 : 8;  // times the largest cell
                sum += most * fabsf(w1_of(args, thread, channel, i));
            }
            w2 = fmaxf(w2, fabsf(args.weights.w2[channel * Traits::hidden + thread]));
        }
        const float bound = largest_cell * sum + fabsf(args.weights.b1[thread]);
        atomicMax(scratch, __float_as_uint(bound));
        atomicMax(scratch + 1, __float_as_uint(w2));
    }
    __syncthreads();  // all have theirs
    // Tiny weights are not scaled up without limit.
    constexpr std::uint32_t least = 110;
    const std::uint32_t magnitude = scratch[0] >> 23;
    const float f = operand_scale(magnitude > least ? magnitude : least);
    // `fast` multiplies an eighth of each cell.
    return {f, parts == 1 ? 8 * f : f, scale_to(__uint_as_float(scratch[1]), 2)};
}

// The i-th weight that a lane has of an operand B of W1 or W2, times its scale.
__device__ float stream_weight(const PackModelArgs& args, const StreamScales& scales, int block,
                               int b, int lane, int i) {
    const int column = lane / 4, quad = lane % 4;
    if (b < 6) {
        const int hidden = block * 16 + b / filter_count * 8 + column;
        return scales.w1 * w1_of(args, hidden, quad * 4 + i, b % filter_count);
    }
    const int channel = column / 2 * 4 + (b - 6) * 2 + column % 2;
    return scales.w2 * args.weights.w2[channel * Traits::hidden + block * 16 + b_k(lane, i)];
}

template <int parts>
__device__ void pack_stream(const PackModelArgs& args, std::uint32_t* scratch, int thread) {
    StreamWeights& packed = args.model->stream;
    const ConstWeightsView& weights = args.weights;
    const StreamScales scales = stream_scales<parts>(args, scratch, thread);
    for (int i = thread; i < StreamWeights::blocks * 8 * 32; i += Traits::threads) {
        const int lane = i % 32, b = i / 32 % 8, block = i / 256;
        const auto weight = [&](int j) { return stream_weight(args, scales, block, b, lane, j); };
        std::uint32_t low[parts], high[parts];
        make_parts<parts>(low, weight(0), weight(1));
        make_parts<parts>(high, weight(2), weight(3));
        for (int part = 0; part < parts; ++part) {
            std::uint32_t* const to = packed.operands[part][block][b / 2][lane] + b % 2 * 2;
            to[0] = low[part], to[1] = high[part];
        }
    }
    if (thread < Traits::hidden) {
        const float b1 = scales.f * weights.b1[thread];
        float* const to = packed.b1[thread / 16][thread / 8 % 2][thread % 8 / 2];
        to[thread % 2] = to[thread % 2 + 2] = b1;
    }
    if (thread < Traits::channels) {
        const float b2 = weights.b2 != nullptr ? weights.b2[thread] : 0.0F;
        float* const to = packed.b2[0][thread % 4 / 2][thread / 4] + thread % 2;
        constexpr int copy = 32;
        to[0] = to[2] = to[copy] = to[copy + 2] = scales.f * scales.w2 * b2;
        float u0 = b2;
        for (int j = 0; j < Traits::hidden; ++j) {
            u0 += weights.w2[thread * Traits::hidden + j] * fmaxf(weights.b1[j], 0.0F);
        }
        packed.u0[thread] = args.rule.step_size * u0;
    }
    if (thread == 0) packed.u_factor = args.rule.step_size / scales.f / scales.w2;
}

// Block 0 packs what float32 arithmetic needs; block 1, where operands have parts, what tensor
// cores need.
template <int parts>
__global__ void __launch_bounds__(Traits::threads)
    pack_model_kernel(const __grid_constant__ PackModelArgs args) {
    auto& shared = shared_storage<SharedStorage>();
    const int thread = int(threadIdx.x);
    if (blockIdx.x == 0) {
        pack_exact(args, shared, thread);
    } else if constexpr (parts > 0) {
        pack_tensors(args, thread);
        pack_stream<parts>(args, shared.largest, thread);
    }
}

}  // namespace

void launch_pack_model(PackedModel* model, ConstWeightsView weights, const StepRule& rule,
                       const FireKey& key, const TrainingControl* control, Precision precision,
                       cudaStream_t stream) {
    const bool exact = precision == Precision::exact;
    launch("pack_model_kernel",
           exact                          ? pack_model_kernel<0>
           : precision == Precision::fast ? pack_model_kernel<1>
                                          : pack_model_kernel<2>,
           {.blocks = exact ? 1 : 2,
            .threads = Traits::threads,
            .shared_bytes = sizeof(SharedStorage)},
           stream, PackModelArgs{model, weights, rule, key, control});
}

}  // namespace nca::cuda
