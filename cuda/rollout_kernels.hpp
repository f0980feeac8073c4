// SPDX-License-Identifier: MIT
#pragma once

// persistent_rollout.cu, cluster_rollout.cu and update_weights.cu: a training iteration in two
// launches. Like all launchers (kernels.hpp) these queue their kernel and return.

#include "cuda/kernels.hpp"

namespace nca::cuda {

inline constexpr int most_tiles_of_block = 4;
// What a block may have on an A100; Hopper has more.
inline constexpr std::size_t persistent_shared_bytes = 163 * 1024;

inline constexpr int most_tiles_of_cluster_block = 2;
inline constexpr std::size_t cluster_shared_bytes = 227 * 1024;  // what a block may have on Hopper
inline constexpr int largest_cluster = 16;

// How many steps a tile has behind it, counted on from launch to launch. Apart from each other,
// because each is written by one block and read by others all the time.
struct alignas(64) TileProgress {
    std::uint32_t steps;
};

struct RolloutArgs {
    // What blocks exchange through global memory; not used by clusters.
    float* z[2];                     // [cells, 16]
    std::uint8_t* living_before[2];  // [cells]
    float* grad_p[2];                // [cells, 48]
    std::uint8_t* row[2];            // [cells]
    TileProgress* progress;          // [tiles] all equal before and after
    // [tiles] which tiles are dealt out in turn: to all blocks, or those of a sample to its
    // cluster.
    const int* order;
    const float* first_state;  // [cells, 16]
    float* last_state;         // [cells, 16] x after the last step; may be first_state
    float* states;             // [steps + 1, cells, 16] x, all but the last; or null
    std::uint8_t* life;        // [steps + 1, cells] the masks that made them; or null
    const PackedModel* model;
    const TrainingControl* control;  // whose plan has the key; null: the model has
    // Training only; partial is null otherwise.
    PartialGradients* partial;  // [blocks] overwritten
    LossPartial* loss_partial;  // [tiles] overwritten
    const float* target;        // [height, width, 4]
    float loss_scale;           // 2 / (height * width * 4 * batch)
    Grid grid;
    StepRule rule;
    int steps;  // at least one
};
void launch_persistent_rollout(const RolloutArgs& args, Precision precision, int blocks,
                               cudaStream_t stream);
// How many of its blocks one multiprocessor of the current device holds, and what one needs.
int resident_persistent_blocks(Precision precision);
std::size_t persistent_rollout_shared_bytes();

// A cluster of that many blocks for each sample, and a partial gradient for each block.
void launch_cluster_rollout(const RolloutArgs& args, Precision precision, int cluster,
                            cudaStream_t stream);
// How many clusters of that many blocks the current device holds at once; 0 where it cannot have
// them.
int active_rollout_clusters(Precision precision, int cluster);
std::size_t cluster_rollout_shared_bytes();

struct alignas(64) BlockArrival {
    std::uint32_t barriers;
};

struct UpdateWeightsArgs {
    AdamArgs adam;                    // control is not null; squares is not used
    const PartialGradients* partial;  // [partials]
    int partials;
    const LossPartial* loss_partial;  // [batch, tiles of a sample]
    float* loss;                      // [batch] overwritten
    float* living;                    // [batch] overwritten
    double* squares;                  // [update_slices] scratch
    BlockArrival* arrivals;           // [update_slices + 1] all equal before and after
    TensorWeights* packed;            // receives the new weights
    Grid grid;
    bool close;  // the iteration, too: put_samples does not come behind it
};
// The gradients' sums, the verdicts, Adam's update and the packed weights, in one launch.
inline constexpr int update_slices = (partial_floats + Traits::warp_size - 1) / Traits::warp_size;
void launch_update_weights(const UpdateWeightsArgs& args, int blocks, cudaStream_t stream);
int resident_update_blocks();

}  // namespace nca::cuda
