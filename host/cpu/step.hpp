// SPDX-License-Identifier: MIT
#pragma once

#include "host/cpu/bit_grid.hpp"
#include "host/cpu/fire.hpp"
#include "host/cpu/kernels.hpp"

#include <nca/rule.hpp>

#include <cstdint>
#include <memory>
#include <vector>

// One step of one sample, forward and backward. A step has two phases, and each phase is run for
// every band of the grid. The bands of a phase may run in parallel, in any order and on any thread:
// the results are the same. A phase begins when the phase before it is done for all bands of the
// sample.
namespace nca::cpu {

// About how many rows a band has. A band is what one thread computes at a time, and the gradients
// of the weights are summed for each band first. So that sums do not depend on the number of
// threads, the bands depend only on the grid's height.
inline constexpr int band_rows = 24;

// The bands of a grid. Band b has rows top(b) .. bottom(b) - 1.
struct Bands {
    int height;

    int count() const { return (height + band_rows - 1) / band_rows; }
    int top(int band) const { return int(std::int64_t(height) * band / count()); }
    int bottom(int band) const { return top(band + 1); }
};

// The state of one sample before or after a step.
struct Slot {
    float* state;      // [height, width, channels]
    BitGrid may_live;  // cells without their bit are all zero; after a step it is the life mask
};

inline float* cell_at(float* grid, int width, int y, int x) {
    return grid + (std::ptrdiff_t(y) * width + x) * channels;
}

// What all steps of a rollout share.
struct RolloutConstants {
    // Keeps a reference to packed.
    RolloutConstants(const Rule& rule, const PackedWeights& packed, const FireKey& key);

    // Which of the wanted cells of a grid fire, for the cells of word w of row y of a BitGrid.
    std::uint64_t fired(int step, int sample, const BitGrid& grid, int y, int w,
                        std::uint64_t wanted) const {
        return fire.word(step, sample,
                         std::uint32_t(y) * std::uint32_t(grid.width) + std::uint32_t(w) * 64,
                         wanted);
    }

    const PackedWeights& weights;
    Stencil stencil;
    FireMask fire;
    Edges edges;
    bool needs_living_before;  // Life::pre_and_post
    float step_size;
    float empty_step[channels];  // step_size * u0: what an empty cell becomes where it fires
    bool empty_step_lives;       // the alpha of empty_step is above living_threshold
};

// The matrices of one chunk of rows. Each thread has its own.
struct alignas(64) Scratch {
    float p[chunk_rows * perception];
    float h[chunk_rows * hidden];
    float grad_h[chunk_rows * hidden];
    float u[chunk_rows * channels];  // grad_u in backward
};

// --- forward -----------------------------------------------------------------------------------

// What a phase of a forward step tells the next phase, or the next step, about one sample.
class ForwardWork {
public:
    ForwardWork(int height, int width);

    BitGrid alpha_before;   // cells of x with alpha above living_threshold
    BitGrid alpha_after;    // cells of z with alpha above living_threshold
    BitGrid living_before;  // living(x), only for Life::pre_and_post
    BitGrid written;        // cells of z that the first phase wrote

private:
    std::vector<std::uint64_t> bits_;
};

// Before the first step: sets slot.may_live and work.alpha_before from slot.state, in rows top ..
// bottom - 1.
void scan_state(const Slot& slot, ForwardWork& work, int top, int bottom);

// First phase: writes z into next.state in rows top .. bottom - 1, except the empty cells that
// fired.
void update_band(const Slot& next, const Slot& now, ForwardWork& work, Scratch& scratch,
                 const RolloutConstants& rollout, int step, int sample, int top, int bottom);

// Second phase: writes the empty cells that fired and live, clears the cells that do not live, and
// sets next.may_live. The rows of next are then complete.
void mask_band(const Slot& next, const Slot& now, ForwardWork& work,
               const RolloutConstants& rollout, int step, int sample, int top, int bottom);

// --- backward ----------------------------------------------------------------------------------

// The rows of one sample in a backward step, band after band and in the order of the grid: the
// cells that fired, live after the step and, after step 0, were not empty.
class BackwardWork {
public:
    BackwardWork(int height, int width);

    BitGrid may_be_nonzero;  // cells without their bit have a gradient of zero
    BitGrid row_cells;       // cells that have a row in this step
    // Where the rows of a band begin in cells and grad_p. Each band has room for all its cells and
    // the shared row, padded to whole tiles.
    std::ptrdiff_t row_start(int band) const;
    std::unique_ptr<Place[]> cells;                    // [rows]
    std::unique_ptr<float[], void (*)(void*)> grad_p;  // [rows, perception], 64-byte aligned
    // Row y of the grid has rows row_begin[y] .. row_end[y] - 1, counted from row_start.
    std::vector<int> row_begin;
    std::vector<int> row_end;

private:
    Bands bands_;
    int width_;
    std::vector<std::uint64_t> bits_;
};

// First phase: multiplies grad_state by the life mask of the step, gathers the rows of the band,
// adds their part to the gradients of the weights, and writes their grad_p into work.
void backward_rows(float* grad_state, PackedGradients& gradients, BackwardWork& work,
                   Scratch& scratch, const RolloutConstants& rollout, const Slot& now,
                   const Slot& next, int step, int sample, int band);

// Second phase: grad_state += perceive^T(grad_p), in the cells of the band.
void backward_stencil(float* grad_state, BackwardWork& work, const RolloutConstants& rollout,
                      const Slot& next, int band);

}  // namespace nca::cpu
