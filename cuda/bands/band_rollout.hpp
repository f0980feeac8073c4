// SPDX-License-Identifier: MIT
#pragma once

// A rollout in bands: a cluster of blocks for each sample, and in each block a band of its rows,
// for all steps. docs/cuda.md has a picture. Functions that begin with launch_ queue their
// kernel on the stream and return. Compute capability 9.0 and later.

#include <nca/device.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "cuda/bands/band_sizes.hpp"
#include "cuda/rule/model.hpp"
#include "cuda/rule/training_control.hpp"

namespace nca::cuda {

// Where a sample is cut: band i has the rows from first_row[i] to first_row[i + 1].
struct BandCut {
    int bands = 0;
    int first_row[most_bands + 1] = {};

    bool operator==(const BandCut&) const = default;
    NCA_HOST_DEVICE int rows(int band) const { return first_row[band + 1] - first_row[band]; }
    NCA_HOST_DEVICE int most_rows() const {
        int most = 0;
        for (int band = 0; band < bands; ++band) most = rows(band) > most ? rows(band) : most;
        return most;
    }
};

// A row of bits, one a cell: two words up to 64 columns, four up to 128.
inline int band_words(int width) { return width <= 64 ? 2 : 4; }

// Everything that the launches of one rollout are told. Pointers that the comment calls optional
// may be null.
struct BandRollout {
    BatchShape grid;
    StepRule rule;
    BandCut cut;
    int steps = 0;       // at least one
    int first_step = 0;  // of the rollout, for the fire bits

    const PackedModel* model = nullptr;
    const TrainingControl* control = nullptr;  // optional: its plan has the key; else the model has
    std::uint32_t* fire = nullptr;             // [steps, batch, height, words] scratch
    // [batch, bands, most rows + 2, width, 16] scratch, used where a band has more cells to compute
    // than there is room for
    float* spill = nullptr;

    const float* first_state = nullptr;  // [cells, 16]
    float* last_state = nullptr;         // [cells, 16] overwritten; may be first_state; optional
    // The tape; optional where there is no way back.
    float* states = nullptr;             // [steps + 1, cells, 16]
    std::uint32_t* life = nullptr;       // [steps + 1, batch, height, words], bits
    std::uint32_t* magnitude = nullptr;  // [steps, batch, bands] exponents of the largest a

    // The way back.
    unsigned char* lists = nullptr;    // [steps, batch, bands, band_list_bytes] scratch
    const int* from_steps = nullptr;   // [batch] after how many steps it begins; optional: all
    const float* grad_last = nullptr;  // [cells, 16] of these states; null: the loss's gradient
    // [steps + 1] gradients of the states after so many steps, that are added: [cells, 16], or null
    // where there is none; optional
    const float* const* step_gradients = nullptr;
    const float* target = nullptr;        // [height, width, 4], for the loss
    float loss_scale = 0;                 // 2 / (height * width * 4 * batch)
    LossPartial* loss = nullptr;          // [batch, bands] overwritten, for the loss
    float* grad_first = nullptr;          // [cells, 16] overwritten; may be grad_last; optional
    PartialGradients* partial = nullptr;  // [batch, bands] overwritten
};

// Bytes of the lists of one band and step.
std::size_t band_list_bytes(const BatchShape& grid, const BandCut& cut, Precision precision);

// Whether such bands fit a block's shared memory, forward and back.
bool band_forward_fits(const BatchShape& grid, const BandCut& cut, Precision precision);
bool band_backward_fits(const BatchShape& grid, const BandCut& cut, Precision precision);

// band_lists.cu: which cells fire in which step. Comes first.
void launch_band_fire(const BandRollout& rollout, cudaStream_t stream);
// band_forward.cu: all steps forward.
void launch_band_forward(const BandRollout& rollout, Precision precision, cudaStream_t stream);
// band_lists.cu: which cells the way back computes, of all steps.
void launch_band_lists(const BandRollout& rollout, Precision precision, cudaStream_t stream);
// band_backward.cu: all steps back, and the loss where there is no grad_last.
void launch_band_backward(const BandRollout& rollout, Precision precision, cudaStream_t stream);

// How many clusters of most_bands blocks with all of a block's shared memory the current device
// holds at once; 0 where it has none.
int active_band_clusters(Precision precision);

}  // namespace nca::cuda
