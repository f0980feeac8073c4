// SPDX-License-Identifier: MIT
#pragma once

#include "host/cpu/bit_grid.hpp"
#include "host/cpu/fire.hpp"
#include "host/cpu/kernels.hpp"

#include <nca/rule.hpp>

#include <cstdint>
#include <memory>
#include <vector>

// One step of one sample, forward and backward, in two phases over bands of rows. Phases of all
// bands may run in parallel; between the phases, and between steps, all bands of the sample must be
// done. What a band computes does not depend on who computes it or when.
namespace nca::cpu {

// A grid is cut into bands of about so many rows. A band is the unit of parallel work and of summed
// weight gradients, so the cut depends on the height alone.
inline constexpr int band_rows = 24;

struct Bands {
    int height;

    int count() const { return (height + band_rows - 1) / band_rows; }
    int top(int band) const { return int(std::int64_t(height) * band / count()); }
    int bottom(int band) const { return top(band + 1); }
};

// One sample at one step. Cells whose bit in may_live is clear are all zero; after a step the bits
// are its life mask.
struct Slot {
    float* state;  // [height, width, channels]
    BitGrid may_live;
};

// What all steps of a rollout share.
struct RolloutConstants {
    RolloutConstants(const Rule& rule, const PackedWeights& weights, const FireKey& key);

    const PackedWeights& weights;
    Stencil stencil;
    FireMask fire;
    Edges edges;
    bool needs_life_before;  // Life::pre_and_post
    float step_size;
    float empty_step[channels];  // step_size * u0: what a fired cell among zeros moves by
    bool empty_step_lives;       // its alpha is above the threshold
};

// Matrices of one chunk of rows; one for each thread.
struct alignas(64) Scratch {
    float p[chunk_rows * perception];
    float h[chunk_rows * hidden];
    float grad_h[chunk_rows * hidden];
    float u[chunk_rows * channels];  // going back: grad_u
};

// --- forward -----------------------------------------------------------------------------------

// What the two phases of a step, and two steps in a row, tell each other about one sample.
class ForwardWork {
public:
    ForwardWork(int height, int width);

    // The grids below, for one step after the other.
    BitGrid alpha_before;  // alpha of x above the threshold
    BitGrid alpha_after;   // alpha of z above the threshold
    BitGrid life_before;   // living(x), where the rule asks for it
    BitGrid written;       // cells of z that the first phase wrote

private:
    std::vector<std::uint64_t> bits_;
};

// Sets may_live and alpha_before from a state that came from outside, rows top .. bottom - 1.
void scan_state(const Slot& slot, ForwardWork& work, int top, int bottom);

// First phase: z into next.state, for rows top .. bottom - 1.
void update_band(const Slot& next, const Slot& now, ForwardWork& work, Scratch& scratch,
                 const RolloutConstants& rollout, int step, int sample, int top, int bottom);

// Second phase: kills what does not live; next is complete.
void mask_band(const Slot& next, const Slot& now, ForwardWork& work,
               const RolloutConstants& rollout, int step, int sample, int top, int bottom);

// --- backward ----------------------------------------------------------------------------------

// The rows of one sample at one step: the cells that fired and live after it, band after band.
class BackwardWork {
public:
    BackwardWork(int height, int width);

    BitGrid may_be_nonzero;  // cells where the gradient of the state may be other than zero
    BitGrid row_cells;       // cells that are rows of this step
    // Rows of band b start at row_start(b); each band has room for all its cells and one more,
    // padded to whole tiles.
    std::ptrdiff_t row_start(int band) const;
    std::unique_ptr<Place[]> cells;
    std::unique_ptr<float[], void (*)(void*)> grad_p;  // [rows, perception], 64-byte aligned
    std::vector<int> row_begin;  // of grid row y, counted from the band's first row
    std::vector<int> row_end;

private:
    Bands bands_;
    int width_;
    std::vector<std::uint64_t> bits_;
};

// First phase: masks grad_state by the life after the step, gathers the rows of the band, adds
// their weight gradients to gradients, and leaves grad_p in work.
void backward_rows(float* grad_state, PackedGradients& gradients, BackwardWork& work,
                   Scratch& scratch, const RolloutConstants& rollout, const Slot& now,
                   const Slot& next, int step, int sample, int band);

// Second phase: grad_state += perceive^T(grad_p), on the band's own cells.
void backward_stencil(float* grad_state, BackwardWork& work, const RolloutConstants& rollout,
                      const Slot& next, int band);

}  // namespace nca::cpu
