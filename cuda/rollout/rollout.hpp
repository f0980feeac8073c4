// SPDX-License-Identifier: MIT
#pragma once

// Whole rollouts as chains of launches, on memory that the caller has. All functions queue work
// and return. The engine and the training loop are made of these.

#include <nca/engine.hpp>

#include "cuda/bands/band_rollout.hpp"
#include "cuda/device/device_memory.hpp"
#include "cuda/rule/rule_kernels.hpp"
#include "cuda/step/step_kernels.hpp"

namespace nca::cuda {

// How a rollout by steps runs.
struct StepKernels {
    Precision precision = Precision::exact;
    int forward_blocks = 0;  // of the forward kernel that the device can hold at once
    // Whether their code waits for the kernel before it, so that they may be launched before that
    // one has ended. Code for devices before 9.0 does not, whatever the device.
    bool waits_for_predecessor = false;
    StreamLimits stream = {};
};

// What a rollout needs besides its tape: two of everything that one step writes and the next reads.
struct ForwardScratch {
    DeviceArray<float> z[2];
    DeviceArray<std::uint8_t> living_before[2];
    DeviceArray<std::uint8_t> marks;  // of the last step

    bool fits(const BatchShape& grid) const;
    void reserve(const BatchShape& grid);
};

struct BackwardScratch {
    DeviceArray<float> grad_z[2];
    DeviceArray<float> grad_p[2];
    DeviceArray<std::uint8_t> row[2];
    DeviceArray<PartialGradients> partial;
    DeviceArray<std::uint32_t> has_partial;

    bool fits(const BatchShape& grid) const;
    void reserve(const BatchShape& grid);
};

// What a rollout in bands needs besides its tape.
struct BandScratch {
    DeviceArray<std::uint32_t> fire;  // [steps, batch, height, words]
    DeviceArray<float> spill;         // [batch, bands, most rows + 2, width, 16]
    // The way back only.
    DeviceArray<unsigned char> lists;       // [steps, batch, bands, band_list_bytes]
    DeviceArray<PartialGradients> partial;  // [batch, bands]
    DeviceArray<LossPartial> losses;        // [batch, bands]

    // steps: of one rollout, or most_advanced_steps of one that leaves no tape.
    bool fits(const BatchShape& grid, const BandCut& cut, Precision precision, int steps,
              bool back) const;
    void reserve(const BatchShape& grid, const BandCut& cut, Precision precision, int steps,
                 bool back);
};

// States and life masks of a number of steps, and the model they were made with.
struct TapeMemory {
    BatchShape grid;
    int steps = 0;            // that there is room for
    BandCut cut;              // of steps in bands; no bands: one kernel a step
    float* states = nullptr;  // [steps + 1, cells, 16] x
    // All else lies in one piece of memory, TapeBuffers::rest.
    PackedModel* model = nullptr;
    // The masks that made the states, none for step 0: one kernel a step leaves a byte for each
    // cell, bands leave bits and of each band how large its hidden units became.
    std::uint8_t* life = nullptr;         // [steps + 1, cells]
    std::uint32_t* life_bits = nullptr;   // [steps + 1, batch, height, words]
    std::uint32_t* magnitudes = nullptr;  // [steps, batch, bands]

    // In memory of its own, or in buffers of the caller's.
    TapeMemory(const BatchShape& grid, int steps, const BandCut& cut);
    TapeMemory(const BatchShape& grid, int steps, const BandCut& cut, const TapeBuffers& buffers);
    bool has_own_memory() const { return own_states_.data() != nullptr; }
    bool in_bands() const { return cut.bands > 0; }
    float* state(int step) const { return states + std::size_t(step) * grid.floats(); }
    std::uint8_t* life_of(int step) const { return life + std::size_t(step) * grid.cells(); }

    // Of what does not lie in states.
    static std::size_t rest_bytes(const BatchShape& grid, int steps, const BandCut& cut);

private:
    DeviceArray<float> own_states_;
    DeviceArray<std::byte> own_rest_;
};

// At least one step. Leaves all states and masks on the tape.
void queue_forward(const TapeMemory& tape, const float* first_state, const StepRule& rule,
                   int steps, const ForwardScratch& scratch, const StepKernels& kernels,
                   cudaStream_t stream);

// At least one step. Overwrites state, the first one, by the last one.
void queue_advance(float* state, const PackedModel* model, const BatchShape& grid,
                   const StepRule& rule, int steps, const ForwardScratch& scratch,
                   const StepKernels& kernels, cudaStream_t stream);

// Where the way back begins and what comes into it; null: nothing.
struct WayBack {
    const float* grad_last;  // [cells, 16] of the states where it begins
    const int* from_steps;   // [batch] after how many steps it begins; null: the last
    // [steps + 1] gradients [cells, 16] of the states after so many steps, that are added; or null.
    // One kernel a step takes the table from host memory, bands from the device's.
    const float* const* step_gradients;
};

// At least one step. grad_first, which may be grad_last, receives the gradient of the first states
// unless it is null.
void queue_backward(float* grad_first, WeightsView grad_weights, const WayBack& way,
                    const TapeMemory& tape, const StepRule& rule, int steps, bool accumulate,
                    const BackwardScratch& scratch, const StepKernels& kernels,
                    cudaStream_t stream);

// The same in bands, on a tape with room for them.
void queue_forward_in_bands(const TapeMemory& tape, const float* first_state, const StepRule& rule,
                            int steps, const BandScratch& scratch, Precision precision,
                            cudaStream_t stream);

// Longer rollouts take so many steps at a time, so that the memory for fire bits has a limit.
inline constexpr int most_advanced_steps = 256;
void queue_advance_in_bands(float* state, const PackedModel* model, const BatchShape& grid,
                            const BandCut& cut, const StepRule& rule, int steps,
                            const BandScratch& scratch, Precision precision, cudaStream_t stream);

void queue_backward_in_bands(float* grad_first, WeightsView grad_weights, const WayBack& way,
                             const TapeMemory& tape, const StepRule& rule, int steps,
                             bool accumulate, const BandScratch& scratch, Precision precision,
                             cudaStream_t stream);

// What a rollout in bands needs besides in training.
struct BandTraining {
    const float* first_state;  // [cells, 16]
    const float* target;       // [height, width, 4]
    const int* from_steps;     // [batch] after how many steps the loss is; null: the last
    const TrainingControl* control;
};
// Forward, loss and back. Leaves the bands' partial gradients and losses in the scratch, for
// launch_update_weights, and all states on the tape.
void queue_training_in_bands(const BandTraining& training, const TapeMemory& tape,
                             const StepRule& rule, int steps, const BandScratch& scratch,
                             Precision precision, cudaStream_t stream);

}  // namespace nca::cuda
