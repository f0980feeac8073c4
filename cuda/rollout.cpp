// SPDX-License-Identifier: MIT
#include "cuda/rollout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "cuda/check.hpp"
#include "cuda/tiles.hpp"

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

// All tiles, from the grid's middle outwards, those of all samples in turn.
std::vector<int> tiles_from_the_middle(const Grid& grid) {
    const int down = tiles_down(grid), across = tiles_across(grid), each = down * across;
    const auto distance = [&](int tile) {
        const double y = (tile / across + 0.5) * Traits::tile_height - grid.height / 2.0;
        const double x = (tile % across + 0.5) * Traits::tile_width - grid.width / 2.0;
        return y * y + x * x;
    };
    std::vector<int> within(static_cast<std::size_t>(each));
    std::iota(within.begin(), within.end(), 0);
    std::stable_sort(within.begin(), within.end(),
                     [&](int a, int b) { return distance(a) < distance(b); });
    std::vector<int> order;
    for (const int tile : within) {
        for (int sample = 0; sample < grid.batch; ++sample) order.push_back(sample * each + tile);
    }
    return order;
}

// What forward and training have in common.
RolloutArgs common_args(float* last_state, const PackedModel* model, const Grid& grid,
                        const float* first_state, const TapeMemory* tape, const StepRule& rule,
                        int steps, const ForwardScratch& scratch, const ExchangeScratch& exchange) {
    RolloutArgs args = {};
    for (int i = 0; i < 2; ++i) {
        args.z[i] = scratch.z[i].data();
        args.living_before[i] = scratch.living_before[i].data();
    }
    args.progress = exchange.progress.data();
    args.order = exchange.order.data();
    args.first_state = first_state;
    args.last_state = last_state;
    args.states = tape != nullptr ? tape->states.data() : nullptr;
    args.life = tape != nullptr ? tape->life.data() : nullptr;
    args.model = model;
    args.grid = grid;
    args.rule = rule;
    args.steps = steps;
    return args;
}

void launch_at_once(const RolloutArgs& args, Precision precision, const RolloutPlan& plan,
                    cudaStream_t stream) {
    if (plan.form == RolloutForm::cluster) {
        launch_cluster_rollout(args, precision, plan.cluster, stream);
    } else {
        launch_persistent_rollout(args, precision, plan.blocks, stream);
    }
}

}  // namespace

ExchangeScratch::ExchangeScratch(const Grid& grid, cudaStream_t stream)
    : progress(static_cast<std::size_t>(tile_count(grid)), "the progress of tiles"),
      order(progress.size(), "the order of tiles") {
    const std::vector<int> tiles = tiles_from_the_middle(grid);
    check(cudaMemcpyAsync(order.data(), tiles.data(), tiles.size() * sizeof(int),
                          cudaMemcpyHostToDevice, stream),
          "sending the order of tiles");
    check(cudaMemsetAsync(progress.data(), 0, tiles.size() * sizeof(TileProgress), stream),
          "clearing the progress of tiles");
    check(cudaStreamSynchronize(stream), "sending the order of tiles");
}

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

bool BackwardScratch::fits(const Grid& grid, int blocks) const {
    return grad_z[1].fits(grid.floats()) && grad_p[1].fits(grid.cells() * Traits::perception) &&
           row[1].fits(grid.cells()) && has_partial.fits(static_cast<std::size_t>(blocks));
}

void BackwardScratch::reserve(const Grid& grid, int blocks) {
    const std::string what = "the gradients of a step, " + size_of(grid);
    for (int i = 0; i < 2; ++i) {
        grad_z[i].reserve(grid.floats(), what);
        grad_p[i].reserve(grid.cells() * Traits::perception, what);
        row[i].reserve(grid.cells(), what);
    }
    partial.reserve(static_cast<std::size_t>(blocks), "sums of weight gradients");
    has_partial.reserve(static_cast<std::size_t>(blocks), "sums of weight gradients");
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

void queue_forward_at_once(float* last_state, const PackedModel* model, const Grid& grid,
                           const float* first_state, const TapeMemory* tape, const StepRule& rule,
                           int steps, const ForwardScratch& scratch,
                           const ExchangeScratch& exchange, Precision precision,
                           const RolloutPlan& plan, cudaStream_t stream) {
    launch_at_once(
        common_args(last_state, model, grid, first_state, tape, rule, steps, scratch, exchange),
        precision, plan, stream);
}

void queue_training_at_once(const SingleLaunchTraining& training, const TapeMemory& tape,
                            const StepRule& rule, int steps, const ForwardScratch& forward,
                            const BackwardScratch& backward, const ExchangeScratch& exchange,
                            Precision precision, const RolloutPlan& plan, cudaStream_t stream) {
    const Grid& grid = tape.grid;
    RolloutArgs args = common_args(tape.state(steps), tape.model.data(), grid, training.first_state,
                                   &tape, rule, steps, forward, exchange);
    for (int i = 0; i < 2; ++i) {
        args.grad_p[i] = backward.grad_p[i].data();
        args.row[i] = backward.row[i].data();
    }
    args.control = training.control;
    args.partial = backward.partial.data();
    args.loss_partial = training.loss_partial;
    args.target = training.target;
    args.loss_scale = loss_scale(grid);
    launch_at_once(args, precision, plan, stream);
}

}  // namespace nca::cuda
