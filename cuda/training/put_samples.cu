// SPDX-License-Identifier: MIT
// Puts the last states of a good iteration into the pool, in the place of those that it took from
// there. A sample that died or whose loss exploded becomes the start cell.
//
// Reads state [batch, height, width, 16], the batch's losses and living cells; overwrites the
// plan's samples in the pool and their losses, and counts in the iteration's outcome how many are
// the start cell now. Changes nothing where the iteration failed. Samples differ from each other,
// so no two blocks write the same place. A block copies 1,024 pieces of 16 bytes of one sample; 128
// bytes moved for each cell. Test: tests/trainer_test.cpp on every engine.

#include "cuda/device/launch.cuh"
#include "cuda/training/start_cell.cuh"

namespace nca::cuda {
namespace {

constexpr int pieces_per_block = 1024;

struct PutSamplesArgs {
    PoolArgs pool;
    const float* state;   // [batch, cells of a grid, 16]
    const float* loss;    // [batch]
    const float* living;  // [batch]
    BatchShape grid;
    TrainingControl* control;
    int per_sample;  // blocks
};

__device__ bool survived(const PutSamplesArgs& args, int sample) {
    return args.living[sample] > 0 && args.loss[sample] <= exploded_loss;
}

// The sample that began the rollout as the start cell counts, too.
__device__ int count_reset(const PutSamplesArgs& args) {
    int reset = 1;
    for (int sample = 0; sample < args.grid.batch; ++sample) reset += !survived(args, sample);
    return reset;
}

__global__ void __launch_bounds__(Traits::threads)
    put_samples_kernel(const __grid_constant__ PutSamplesArgs args) {
    const int cursor = args.control->cursor;
    IterationOutcome& outcome = args.control->outcomes[cursor];
    if (outcome.verdict != Verdict::good || args.control->bad_weight != 0) return;
    const int thread = int(threadIdx.x);
    const int pieces = args.grid.height * args.grid.width * Traits::quads;
    const int sample = int(blockIdx.x) / args.per_sample;
    const int first = int(blockIdx.x) % args.per_sample * pieces_per_block;
    const int index = args.pool.samples[cursor * args.grid.batch + sample];
    const bool keep = survived(args, sample);
    const float* from = args.state + std::size_t(sample) * pieces * 4;
    float* to = args.pool.states + std::size_t(index) * pieces * 4;
    for (int i = first + thread; i < first + pieces_per_block && i < pieces; i += Traits::threads) {
        store4(to + std::size_t(i) * 4,
               keep ? load4(from + std::size_t(i) * 4) : start_state_piece(args.pool.start, i));
    }
    if (thread == 0 && first == 0) {
        args.pool.losses[index] = keep ? args.loss[sample] : args.pool.start_loss;
    }
    if (thread == 0 && blockIdx.x == 0) outcome.reset = count_reset(args);
}

}  // namespace

void launch_put_samples(const PoolArgs& pool, const float* state, const float* loss,
                        const float* living, const BatchShape& grid, TrainingControl* control,
                        cudaStream_t stream) {
    const int pieces = grid.height * grid.width * Traits::quads;
    const int per_sample = (pieces + pieces_per_block - 1) / pieces_per_block;
    const PutSamplesArgs args = {pool, state, loss, living, grid, control, per_sample};
    launch(NCA_KERNEL(put_samples_kernel),
           {.blocks = grid.batch * per_sample, .threads = Traits::threads}, stream, args);
}

}  // namespace nca::cuda
