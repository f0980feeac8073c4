// SPDX-License-Identifier: MIT
// The states that an iteration with a pool starts from (Distill 2020, experiments 2 and 3).
//
//   rank r of a sample: how many of the batch had a lower loss when they were put into the pool
//   r = batch - 1: the start cell;  r < damaged: its state without circle r;  else: its state
//
// Reads the plan at the training's cursor and the batch's states in the pool, overwrites state
// [batch, height, width, 16]. A block copies 1,024 pieces of 16 bytes of one sample; every thread
// finds the sample's rank for itself, from a batch of losses that lie in the cache. 128 bytes moved
// for each cell, less than one step of the rollout. Definition: ranks and DamageCircle in
// host/iteration/pool.hpp. Test: tests/trainer_test.cpp on every engine.

#include "cuda/device/launch.cuh"
#include "cuda/training/start_cell.cuh"

namespace nca::cuda {
namespace {

constexpr int pieces_per_block = 1024;

struct TakeSamplesArgs {
    float* state;  // [batch, cells of a grid, 16]
    BatchShape grid;
    PoolArgs pool;
    const TrainingControl* control;
    int per_sample;  // blocks
};

// Of equal losses the earlier sample's rank is the lower one.
__device__ int rank_of(const PoolArgs& pool, const int* samples, int sample, int batch) {
    const float own = pool.losses[samples[sample]];
    int rank = 0;
    for (int i = 0; i < batch; ++i) {
        const float other = pool.losses[samples[i]];
        rank += other < own || (other == own && i < sample);
    }
    return rank;
}

__device__ bool covers(const DamageCircle& circle, int y, int x) {
    const float dy = float(y) - circle.y;
    const float dx = float(x) - circle.x;
    // Each operation rounded, as on the host, so that every engine kills the same cells.
    return __fadd_rn(__fmul_rn(dy, dy), __fmul_rn(dx, dx)) <
           __fmul_rn(circle.radius, circle.radius);
}

__global__ void __launch_bounds__(Traits::threads)
    take_samples_kernel(const __grid_constant__ TakeSamplesArgs args) {
    const int pieces = args.grid.height * args.grid.width * Traits::quads;
    const int batch = args.grid.batch;
    const int sample = int(blockIdx.x) / args.per_sample;
    const int first = int(blockIdx.x) % args.per_sample * pieces_per_block;
    const int* samples = args.pool.samples + args.control->cursor * batch;
    const int rank = rank_of(args.pool, samples, sample, batch);
    const bool worst = rank == batch - 1;
    const bool damaged = !worst && rank < args.pool.damaged;
    DamageCircle circle = {};
    if (damaged) circle = args.pool.damage[args.control->cursor * args.pool.damaged + rank];
    const float* from = args.pool.states + std::size_t(samples[sample]) * pieces * 4;
    float* to = args.state + std::size_t(sample) * pieces * 4;
    for (int i = first + int(threadIdx.x); i < first + pieces_per_block && i < pieces;
         i += Traits::threads) {
        const int cell = i / Traits::quads;
        float4 value = zero4();
        if (worst) {
            value = start_state_piece(args.pool.start, i);
        } else if (!damaged || !covers(circle, cell / args.grid.width, cell % args.grid.width)) {
            value = load4(from + std::size_t(i) * 4);
        }
        store4(to + std::size_t(i) * 4, value);
    }
}

}  // namespace

void launch_take_samples(float* state, const BatchShape& grid, const PoolArgs& pool,
                         const TrainingControl* control, cudaStream_t stream) {
    const int pieces = grid.height * grid.width * Traits::quads;
    const int per_sample = (pieces + pieces_per_block - 1) / pieces_per_block;
    const TakeSamplesArgs args = {state, grid, pool, control, per_sample};
    launch(NCA_KERNEL(take_samples_kernel),
           {.blocks = grid.batch * per_sample, .threads = Traits::threads}, stream, args);
}

}  // namespace nca::cuda
