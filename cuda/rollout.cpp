// SPDX-License-Identifier: MIT
#include "cuda/rollout.hpp"

#include <fmt/format.h>

#include "cuda/check.hpp"

namespace nca::cuda {
namespace {

std::string size_of(const Grid& grid) {
    return fmt::format("{} x {} x {} cells", grid.batch, grid.height, grid.width);
}

void launch_forward(const StepKernels& kernels, const StepForwardArgs& args, bool dependent,
                    cudaStream_t stream) {
    if (kernels.precision == Precision::exact) {
        launch_step_forward(args, kernels.forward_blocks, dependent, stream);
    } else {
        launch_step_forward_tensor(args, kernels.precision, kernels.forward_blocks, dependent,
                                   stream);
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

// steps steps from first_state, whose unmasked results alternate between the two z; then the last
// mask. tape is null where nobody goes back.
void queue_steps(float* last_state, const PackedModel* model, const Grid& grid,
                 const float* first_state, const TapeMemory* tape, const StepRule& rule, int steps,
                 const ForwardScratch& scratch, const StepKernels& kernels, cudaStream_t stream) {
    for (int step = 0; step < steps; ++step) {
        const int now = step % 2, before = 1 - now;
        const bool first = step == 0;
        launch_forward(kernels,
                       {.next = scratch.z[now].data(),
                        .state_out = tape != nullptr ? tape->state(step) : nullptr,
                        .life_out = tape != nullptr && !first ? tape->life_of(step) : nullptr,
                        .living_before_out = scratch.living_before[now].data(),
                        .state = first ? first_state : scratch.z[before].data(),
                        .living_before = first ? nullptr : scratch.living_before[before].data(),
                        .model = model,
                        .grid = grid,
                        .rule = rule,
                        .step = static_cast<std::uint32_t>(step),
                        .first = first},
                       !first && kernels.waits_for_predecessor, stream);
    }
    const int last = (steps - 1) % 2;
    launch_mask_state({.state_out = last_state,
                       .life_out = tape != nullptr ? tape->life_of(steps) : nullptr,
                       .state = scratch.z[last].data(),
                       .living_before = scratch.living_before[last].data(),
                       .grid = grid,
                       .rule = rule},
                      stream);
}

}  // namespace

bool ForwardScratch::fits(const Grid& grid) const {
    return z[1].fits(grid.floats()) && living_before[1].fits(grid.cells());
}

void ForwardScratch::reserve(const Grid& grid) {
    const std::string what = "the states of a step, " + size_of(grid);
    for (int i = 0; i < 2; ++i) {
        z[i].reserve(grid.floats(), what);
        living_before[i].reserve(grid.cells(), what);
    }
}

bool BackwardScratch::fits(const Grid& grid) const {
    return grad_z[1].fits(grid.floats()) && grad_p[1].fits(grid.cells() * Traits::perception) &&
           row[1].fits(grid.cells()) &&
           has_partial.fits(static_cast<std::size_t>(backward_blocks(grid)));
}

void BackwardScratch::reserve(const Grid& grid) {
    const auto blocks = static_cast<std::size_t>(backward_blocks(grid));
    const std::string what = "the gradients of a step, " + size_of(grid);
    for (int i = 0; i < 2; ++i) {
        grad_z[i].reserve(grid.floats(), what);
        grad_p[i].reserve(grid.cells() * Traits::perception, what);
        row[i].reserve(grid.cells(), what);
    }
    partial.reserve(blocks, "sums of weight gradients");
    has_partial.reserve(blocks, "sums of weight gradients");
}

TapeMemory::TapeMemory(const Grid& tape_grid, int tape_steps)
    : grid(tape_grid),
      steps(tape_steps),
      states((std::size_t(steps) + 1) * grid.floats(),
             fmt::format("the tape, {} steps of {}", steps, size_of(grid))),
      life((std::size_t(steps) + 1) * grid.cells(), "the tape's life masks"),
      model(1, "the packed weights") {}

void queue_forward(const TapeMemory& tape, const float* first_state, const StepRule& rule,
                   int steps, const ForwardScratch& scratch, const StepKernels& kernels,
                   cudaStream_t stream) {
    queue_steps(tape.state(steps), tape.model.data(), tape.grid, first_state, &tape, rule, steps,
                scratch, kernels, stream);
}

void queue_advance(float* state, const PackedModel* model, const Grid& grid, const StepRule& rule,
                   int steps, const ForwardScratch& scratch, const StepKernels& kernels,
                   cudaStream_t stream) {
    queue_steps(state, model, grid, state, nullptr, rule, steps, scratch, kernels, stream);
}

void queue_backward(float* grad_first, WeightsView grad_weights, const float* grad_last,
                    const TapeMemory& tape, const StepRule& rule, int steps, bool accumulate,
                    const BackwardScratch& scratch, const StepKernels& kernels,
                    cudaStream_t stream) {
    const Grid& grid = tape.grid;
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
                         .grad = last ? grad_last : scratch.grad_z[after].data(),
                         .grad_p = last ? nullptr : scratch.grad_p[after].data(),
                         .row = last ? nullptr : scratch.row[after].data(),
                         .state = tape.state(step),
                         .life = step > 0 ? tape.life_of(step) : nullptr,
                         .next_life = tape.life_of(step + 1),
                         .model = tape.model.data(),
                         .grid = grid,
                         .rule = rule,
                         .step = static_cast<std::uint32_t>(step)},
                        !last && kernels.waits_for_predecessor, stream);
    }
    launch_reduce_gradients(grad_weights, scratch.partial.data(), scratch.has_partial.data(),
                            blocks, accumulate, stream);
    if (grad_first != nullptr) {
        launch_gather_gradient(grad_first, scratch.grad_z[0].data(), scratch.grad_p[0].data(),
                               scratch.row[0].data(), grid, rule, stream);
    }
}

}  // namespace nca::cuda
