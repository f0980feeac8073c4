// SPDX-License-Identifier: MIT
#pragma once

// What bench_step compares the fused kernels with: the same rule, step and gradients by cuBLAS,
// cuRAND and plain kernels between them, in float32, every cell computed. This is how a careful
// engineer would write it without fusing.

#include "cuda/device/device_memory.hpp"
#include "cuda/rule/model.hpp"

#include <nca/model.hpp>

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <curand.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace nca::bench {

// A rollout and its gradients. forward, backward and step queue their work on the stream and
// return. The stream and all pointers must be of the device that was current at construction;
// states are [batch, height, width, 16]. The calls share scratch memory, so that one must end
// before the next begins. They may be captured into a graph; whether its replays draw new fire
// masks is not defined. They throw CudaError where CUDA, cuBLAS or cuRAND refuses.
class UnfusedRollout {
public:
    // tf32: tensor cores may multiply the matrices, with factors of ten bits behind the point.
    // Copies the weights and waits for the device. Throws InvalidArgument where a size is below 1,
    // most_steps below 0, or there are more than 2^24 - 1 cells.
    UnfusedRollout(const Rule& rule, const Weights& weights, int batch, int height, int width,
                   int most_steps, bool tf32);

    // Overwrites last with the state after so many steps from first, 0 to most_steps, and the tape
    // with what backward needs of them.
    void forward(float* last, const float* first, int steps, cudaStream_t stream);

    // Of the last forward: from the gradient of its last state to the gradients of its first state
    // and of the weights, laid out as Weights::all(). Overwrites both; grad_first may be grad_last.
    void backward(float* grad_first, float* grad_weights, const float* grad_last,
                  cudaStream_t stream);

    // One step that leaves nothing on the tape. next must not be now.
    void step(float* next, const float* now, cudaStream_t stream);

    // Laid out as Weights::all(). May be changed between calls.
    float* weights() const { return weights_.data(); }
    // Of the last forward: the tape's state after so many steps.
    const float* state(int step) const { return states_.data() + step * grid_.floats(); }

private:
    struct DestroyCublas {
        void operator()(cublasHandle_t handle) const { cublasDestroy(handle); }
    };
    struct DestroyCurand {
        void operator()(curandGenerator_t generator) const { curandDestroyGenerator(generator); }
    };

    int cells() const { return static_cast<int>(grid_.cells()); }
    long long quads(int values) const { return static_cast<long long>(grid_.cells()) * values / 4; }
    void use(cudaStream_t stream);
    void queue_hidden(const float* state, cudaStream_t stream);
    void queue_step(float* next, std::uint8_t* fire, std::uint8_t* life, const float* now,
                    cudaStream_t stream);
    void queue_step_backward(float* grad_state, WeightsView grad_weights, const float* grad_next,
                             int step, cudaStream_t stream);

    cuda::BatchShape grid_;
    cuda::StepRule rule_;
    float fire_rate_;
    bool output_bias_;
    int most_steps_;
    int steps_ = 0;  // of the last forward

    cuda::DeviceArray<float> weights_;
    cuda::DeviceArray<float> states_;       // [most_steps + 1, cells, 16]
    cuda::DeviceArray<std::uint8_t> fire_;  // [most_steps, cells]
    cuda::DeviceArray<std::uint8_t> life_;  // [most_steps, cells]
    cuda::DeviceArray<float> p_;            // [cells, 48] and grad_p
    cuda::DeviceArray<float> h_;            // [cells, 128] a, and h in its place
    cuda::DeviceArray<float> grad_a_;       // [cells, 128]
    cuda::DeviceArray<float> u_;            // [cells, 16] and grad_u
    cuda::DeviceArray<float> z_;            // [cells, 16] and grad_z
    cuda::DeviceArray<float> uniform_;      // [cells]
    cuda::DeviceArray<float> ones_;         // [cells]
    cuda::DeviceArray<char> workspace_;     // of cuBLAS
    std::unique_ptr<std::remove_pointer_t<cublasHandle_t>, DestroyCublas> cublas_;
    std::unique_ptr<std::remove_pointer_t<curandGenerator_t>, DestroyCurand> curand_;
};

}  // namespace nca::bench
