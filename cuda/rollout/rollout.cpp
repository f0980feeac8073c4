// SPDX-License-Identifier: MIT
#include "cuda/rollout/rollout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "cuda/device/check.hpp"

namespace nca::cuda {
namespace {

std::string size_of(const BatchShape& grid) {
    return fmt::format("{} x {} x {} cells", grid.batch, grid.height, grid.width);
}

void launch_forward(const StepKernels& kernels, const StepForwardArgs& args, bool dependent,
                    cudaStream_t stream) {
    if (kernels.precision == Precision::exact || !args.rule.sobel_filters) {
        launch_step_forward(args, kernels.forward_blocks, dependent, stream);
    } else {
        launch_stream_forward(args, kernels.precision, kernels.stream, dependent, stream);
    }
}

void launch_backward(const StepKernels& kernels, const StepBackwardArgs& args, bool dependent,
                     cudaStream_t stream) {
    if (kernels.precision == Precision::exact) {
        launch_step_backward(args, dependent, stream);
    } else {
        launch_step_backward_tensor(args, kernels.precision, dependent, stream);
    }
}

// Queues the steps from first_state, whose unmasked results alternate between the two z; then the
// last mask. tape may be null: then nothing is kept for the way back. last_state may be
// first_state; the last step writes z there, except where it also reads first_state.
void queue_steps(float* last_state, const PackedModel* model, const BatchShape& grid,
                 const float* first_state, const TapeMemory* tape, const StepRule& rule, int steps,
                 const ForwardScratch& scratch, const StepKernels& kernels, cudaStream_t stream) {
    const bool in_place = steps > 1 || last_state != first_state;
    float* const last_z = in_place ? last_state : scratch.z[0].data();
    for (int step = 0; step < steps; ++step) {
        const int now = step % 2, before = 1 - now;
        const bool first = step == 0, last = step == steps - 1;
        launch_forward(kernels,
                       {.next = last ? last_z : scratch.z[now].data(),
                        .state_out = tape != nullptr ? tape->state(step) : nullptr,
                        .life_out = tape != nullptr && !first ? tape->life_of(step) : nullptr,
                        .living_before_out = scratch.living_before[now].data(),
                        .marks_out = last ? scratch.marks.data() : nullptr,
                        .state = first ? first_state : scratch.z[before].data(),
                        .living_before = first ? nullptr : scratch.living_before[before].data(),
                        .model = model,
                        .grid = grid,
                        .rule = rule,
                        .step = std::uint32_t(step),
                        .first = first},
                       !first && kernels.waits_for_predecessor, stream);
    }
    const int last = (steps - 1) % 2;
    launch_mask_state({.state_out = last_state,
                       .life_out = tape != nullptr ? tape->life_of(steps) : nullptr,
                       .state = last_z,
                       .marks = scratch.marks.data(),
                       .living_before = scratch.living_before[last].data(),
                       .grid = grid,
                       .rule = rule},
                      stream);
}

// Words of a bit for each cell, and bands of all samples.
std::size_t bits_of(const BatchShape& grid) {
    return std::size_t(grid.batch) * grid.height * band_words(grid.width);
}
std::size_t bands_of_batch(const BatchShape& grid, const BandCut& cut) {
    return std::size_t(grid.batch) * cut.bands;
}

// The sizes of what a rollout in bands needs; bits and lists are those of one step.
struct BandSizes {
    std::size_t bits, bands, spilled, lists;

    BandSizes(const BatchShape& grid, const BandCut& cut, Precision precision)
        : bits(bits_of(grid)),
          bands(bands_of_batch(grid, cut)),
          spilled(bands * (cut.most_rows() + 2) * grid.width * Traits::channels),
          lists(bands * band_list_bytes(grid, cut, precision)) {}
};

// Where the parts of TapeBuffers::rest begin, behind the packed model; in bytes.
struct RestOffsets {
    std::size_t life, magnitudes, end;

    RestOffsets(const BatchShape& grid, int steps, const BandCut& cut) {
        const auto aligned = [](std::size_t bytes) { return (bytes + 255) / 256 * 256; };
        const auto each = std::size_t(steps);
        const std::size_t word = sizeof(std::uint32_t);
        life = aligned(sizeof(PackedModel));
        const bool in_bands = cut.bands > 0;
        const std::size_t of_state = in_bands ? bits_of(grid) * word : grid.cells();
        magnitudes = aligned(life + (each + 1) * of_state);
        end = magnitudes + (in_bands ? each * bands_of_batch(grid, cut) * word : 0);
    }
};

// What the launches forward and back have in common where there is a tape.
BandRollout on_tape(const TapeMemory& tape, const StepRule& rule, int steps,
                    const BandScratch& scratch) {
    return {.grid = tape.grid,
            .rule = rule,
            .cut = tape.cut,
            .steps = steps,
            .model = tape.model,
            .fire = scratch.fire.data(),
            .spill = scratch.spill.data(),
            .states = tape.states,
            .life = tape.life_bits,
            .magnitude = tape.magnitudes,
            .lists = scratch.lists.data(),
            .partial = scratch.partial.data()};
}

}  // namespace

bool ForwardScratch::fits(const BatchShape& grid) const {
    return z[1].fits(grid.floats()) && marks.fits(grid.cells());
}

void ForwardScratch::reserve(const BatchShape& grid) {
    const std::string what = "the states of a step, " + size_of(grid);
    for (int i = 0; i < 2; ++i) {
        z[i].reserve(grid.floats(), what);
        living_before[i].reserve(grid.cells(), what);
    }
    marks.reserve(grid.cells(), what);
}

bool BackwardScratch::fits(const BatchShape& grid) const {
    return grad_z[1].fits(grid.floats()) && grad_p[1].fits(grid.cells() * Traits::perception) &&
           row[1].fits(grid.cells()) && has_partial.fits(std::size_t(backward_blocks(grid)));
}

void BackwardScratch::reserve(const BatchShape& grid) {
    const auto blocks = std::size_t(backward_blocks(grid));
    const std::string what = "the gradients of a step, " + size_of(grid);
    for (int i = 0; i < 2; ++i) {
        grad_z[i].reserve(grid.floats(), what);
        grad_p[i].reserve(grid.cells() * Traits::perception, what);
        row[i].reserve(grid.cells(), what);
    }
    partial.reserve(blocks, "sums of weight gradients");
    has_partial.reserve(blocks, "sums of weight gradients");
}

bool BandScratch::fits(const BatchShape& grid, const BandCut& cut, Precision precision, int steps,
                       bool back) const {
    const BandSizes sizes(grid, cut, precision);
    return fire.fits(sizes.bits * steps) && spill.fits(sizes.spilled) &&
           (!back || (lists.fits(sizes.lists * steps) && losses.fits(sizes.bands)));
}

void BandScratch::reserve(const BatchShape& grid, const BandCut& cut, Precision precision,
                          int steps, bool back) {
    const BandSizes sizes(grid, cut, precision);
    fire.reserve(sizes.bits * steps,
                 fmt::format("who fires, {} steps of {}", steps, size_of(grid)));
    spill.reserve(sizes.spilled, "cells that bands have no room for, " + size_of(grid));
    if (!back) return;
    lists.reserve(sizes.lists * steps,
                  fmt::format("lists of cells, {} steps of {}", steps, size_of(grid)));
    partial.reserve(sizes.bands, "sums of weight gradients");
    losses.reserve(sizes.bands, "sums of the loss");
}

TapeMemory::TapeMemory(const BatchShape& tape_grid, int tape_steps, const BandCut& tape_cut,
                       const TapeBuffers& buffers)
    : grid(tape_grid), steps(tape_steps), cut(tape_cut), states(buffers.states) {
    const RestOffsets offsets(grid, steps, cut);
    model = reinterpret_cast<PackedModel*>(buffers.rest);
    std::byte* const masks = buffers.rest + offsets.life;
    if (in_bands()) {
        life_bits = reinterpret_cast<std::uint32_t*>(masks);
        magnitudes = reinterpret_cast<std::uint32_t*>(buffers.rest + offsets.magnitudes);
    } else {
        life = reinterpret_cast<std::uint8_t*>(masks);
    }
}

TapeMemory::TapeMemory(const BatchShape& tape_grid, int tape_steps, const BandCut& tape_cut) {
    DeviceArray<float> own_states(
        (std::size_t(tape_steps) + 1) * tape_grid.floats(),
        fmt::format("the tape, {} steps of {}", tape_steps, size_of(tape_grid)));
    DeviceArray<std::byte> own_rest(rest_bytes(tape_grid, tape_steps, tape_cut),
                                    "the tape's life masks");
    *this = TapeMemory(tape_grid, tape_steps, tape_cut,
                       {.states = own_states.data(), .rest = own_rest.data()});
    own_states_ = std::move(own_states);
    own_rest_ = std::move(own_rest);
}

std::size_t TapeMemory::rest_bytes(const BatchShape& grid, int steps, const BandCut& cut) {
    return RestOffsets(grid, steps, cut).end;
}

void queue_forward(const TapeMemory& tape, const float* first_state, const StepRule& rule,
                   int steps, const ForwardScratch& scratch, const StepKernels& kernels,
                   cudaStream_t stream) {
    queue_steps(tape.state(steps), tape.model, tape.grid, first_state, &tape, rule, steps, scratch,
                kernels, stream);
}

void queue_advance(float* state, const PackedModel* model, const BatchShape& grid,
                   const StepRule& rule, int steps, const ForwardScratch& scratch,
                   const StepKernels& kernels, cudaStream_t stream) {
    queue_steps(state, model, grid, state, nullptr, rule, steps, scratch, kernels, stream);
}

void queue_backward(float* grad_first, WeightsView grad_weights, const WayBack& way,
                    const TapeMemory& tape, const StepRule& rule, int steps, bool accumulate,
                    const BackwardScratch& scratch, const StepKernels& kernels,
                    cudaStream_t stream) {
    const BatchShape& grid = tape.grid;
    const auto added = [&](int state) {
        return way.step_gradients != nullptr ? way.step_gradients[state] : nullptr;
    };
    const int blocks = backward_blocks(grid);
    check(cudaMemsetAsync(scratch.has_partial.data(), 0, blocks * sizeof(std::uint32_t), stream),
          "clearing the sums of weight gradients");
    for (int step = steps - 1; step >= 0; --step) {
        const int now = step % 2, after = 1 - now;
        const bool last = step == steps - 1;
        launch_backward(kernels,
                        {.grad_z_out = scratch.grad_z[now].data(),
                         .grad_p_out = scratch.grad_p[now].data(),
                         .row_out = scratch.row[now].data(),
                         .partial = scratch.partial.data(),
                         .has_partial = scratch.has_partial.data(),
                         .grad_last = way.grad_last,
                         .from_steps = way.from_steps,
                         .grad = last ? way.grad_last : scratch.grad_z[after].data(),
                         .grad_p = last ? nullptr : scratch.grad_p[after].data(),
                         .row = last ? nullptr : scratch.row[after].data(),
                         .added = added(step + 1),
                         .state = tape.state(step),
                         .life_before = step > 0 ? tape.life_of(step) : nullptr,
                         .life_after = tape.life_of(step + 1),
                         .model = tape.model,
                         .grid = grid,
                         .rule = rule,
                         .step = std::uint32_t(step)},
                        !last && kernels.waits_for_predecessor, stream);
    }
    launch_reduce_gradients(grad_weights, scratch.partial.data(), scratch.has_partial.data(),
                            blocks, accumulate, stream);
    if (grad_first != nullptr) {
        launch_gather_gradient(grad_first, scratch.grad_z[0].data(), scratch.grad_p[0].data(),
                               scratch.row[0].data(), added(0), grid, rule, stream);
    }
}

void queue_forward_in_bands(const TapeMemory& tape, const float* first_state, const StepRule& rule,
                            int steps, const BandScratch& scratch, Precision precision,
                            cudaStream_t stream) {
    BandRollout rollout = on_tape(tape, rule, steps, scratch);
    rollout.first_state = first_state;
    launch_band_fire(rollout, stream);
    launch_band_forward(rollout, precision, stream);
}

void queue_advance_in_bands(float* state, const PackedModel* model, const BatchShape& grid,
                            const BandCut& cut, const StepRule& rule, int steps,
                            const BandScratch& scratch, Precision precision, cudaStream_t stream) {
    BandRollout rollout = {.grid = grid,
                           .rule = rule,
                           .cut = cut,
                           .model = model,
                           .fire = scratch.fire.data(),
                           .spill = scratch.spill.data(),
                           .first_state = state,
                           .last_state = state};
    for (int done = 0; done < steps; done += rollout.steps) {
        rollout.first_step = done;
        rollout.steps = std::min(steps - done, most_advanced_steps);
        launch_band_fire(rollout, stream);
        launch_band_forward(rollout, precision, stream);
    }
}

void queue_backward_in_bands(float* grad_first, WeightsView grad_weights, const WayBack& way,
                             const TapeMemory& tape, const StepRule& rule, int steps,
                             bool accumulate, const BandScratch& scratch, Precision precision,
                             cudaStream_t stream) {
    BandRollout rollout = on_tape(tape, rule, steps, scratch);
    rollout.from_steps = way.from_steps;
    rollout.grad_last = way.grad_last;
    rollout.step_gradients = way.step_gradients;
    rollout.grad_first = grad_first;
    launch_band_fire(rollout, stream);  // another rollout may have used the scratch
    launch_band_lists(rollout, precision, stream);
    launch_band_backward(rollout, precision, stream);
    launch_reduce_gradients(grad_weights, scratch.partial.data(), nullptr,
                            int(bands_of_batch(tape.grid, tape.cut)), accumulate, stream);
}

void queue_training_in_bands(const BandTraining& training, const TapeMemory& tape,
                             const StepRule& rule, int steps, const BandScratch& scratch,
                             Precision precision, cudaStream_t stream) {
    BandRollout rollout = on_tape(tape, rule, steps, scratch);
    rollout.control = training.control;
    rollout.first_state = training.first_state;
    rollout.target = training.target;
    rollout.loss_scale = loss_scale(tape.grid);
    rollout.loss = scratch.losses.data();
    rollout.from_steps = training.from_steps;
    launch_band_fire(rollout, stream);
    launch_band_forward(rollout, precision, stream);
    launch_band_lists(rollout, precision, stream);
    launch_band_backward(rollout, precision, stream);
}

}  // namespace nca::cuda
