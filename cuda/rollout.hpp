// SPDX-License-Identifier: MIT
#pragma once

// Whole rollouts as chains of launches, on memory that is there already. All functions queue work
// and return. The engine and the training loop are made of these.

#include "cuda/device_memory.hpp"
#include "cuda/kernels.hpp"

namespace nca::cuda {

// Which kernels take the steps, one by one.
struct StepKernels {
    Precision precision = Precision::exact;
    int forward_blocks = 0;  // of the forward kernel that the device can hold at once
    // Whether their code waits for the kernel before it, so that they may be launched before that
    // one has ended. Code for devices before 9.0 does not, whatever the device.
    bool waits_for_predecessor = false;
};

// What a rollout needs besides its tape: two of everything that one step writes and the next reads.
struct ForwardScratch {
    DeviceArray<float> z[2];
    DeviceArray<std::uint8_t> living_before[2];

    bool fits(const Grid& grid) const;
    void reserve(const Grid& grid);
};

struct BackwardScratch {
    DeviceArray<float> grad_z[2];
    DeviceArray<float> grad_p[2];
    DeviceArray<std::uint8_t> row[2];
    DeviceArray<PartialGradients> partial;
    DeviceArray<std::uint32_t> has_partial;

    bool fits(const Grid& grid) const;
    void reserve(const Grid& grid);
};

// States and life masks of a number of steps, and the model they were made with.
struct TapeMemory {
    Grid grid;
    int steps = 0;                   // that there is room for
    DeviceArray<float> states;       // [steps + 1, cells, 16] x
    DeviceArray<std::uint8_t> life;  // [steps + 1, cells] the masks that made them; none for step 0
    DeviceArray<PackedModel> model;

    TapeMemory() = default;
    TapeMemory(const Grid& grid, int steps);
    float* state(int step) const { return states.data() + std::size_t(step) * grid.floats(); }
    std::uint8_t* life_of(int step) const { return life.data() + std::size_t(step) * grid.cells(); }
};

// At least one step. Leaves all states and masks on the tape.
void queue_forward(const TapeMemory& tape, const float* first_state, const StepRule& rule,
                   int steps, const ForwardScratch& scratch, const StepKernels& kernels,
                   cudaStream_t stream);

// At least one step. Overwrites state by the last one; it is first_state as well.
void queue_advance(float* state, const PackedModel* model, const Grid& grid, const StepRule& rule,
                   int steps, const ForwardScratch& scratch, const StepKernels& kernels,
                   cudaStream_t stream);

// At least one step. grad_last [cells, 16] is the last state's gradient; grad_first, which may be
// the same memory, receives that of the first state unless it is null.
void queue_backward(float* grad_first, WeightsView grad_weights, const float* grad_last,
                    const TapeMemory& tape, const StepRule& rule, int steps, bool accumulate,
                    const BackwardScratch& scratch, const StepKernels& kernels,
                    cudaStream_t stream);

}  // namespace nca::cuda
