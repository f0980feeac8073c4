// SPDX-License-Identifier: MIT
#include "benchmarks/prediction.hpp"

#include <algorithm>
#include <cmath>

#include "cuda/bands/band_sizes.hpp"
#include "cuda/device/traits.hpp"

namespace nca::bench {
namespace {

using cuda::Traits;

// Cycles of a step in one direction: those of every step, and those that each cell or tile and each
// row of the MLP adds.
struct Pace {
    double fixed;
    double each;
    double row;
};
struct Paces {
    Pace forward;
    Pace backward;
};

// In bands: of the cells and rows of a sample's mean band.
Paces band_paces(Precision precision) {
    if (precision == Precision::fast) return {{2140, 1.5, 56}, {2910, 3.0, 100}};
    return {{2450, 2.0, 93}, {3050, 4.2, 165}};
}

// One kernel a step: of the tiles and rows of the mean multiprocessor. Of today's kernels a sketch
// was measured, in trainings in exact and fast. The shares of forward and back in a step's time,
// and all of precise, are those of the kernels before.
Paces step_paces(Precision precision) {
    switch (precision) {
        case Precision::exact:
            break;
        case Precision::precise:
            return {{6140, 2660, 99}, {22240, 8900, 277}};
        case Precision::fast:
            return {{6000, 2660, 49}, {15790, 9180, 135}};
    }
    return {{17700, 3370, 139}, {44240, 817, 376}};
}

// Warp instructions of a step for 128 cells, as scripts/kernel-table --steps counts them. Exact has
// blocks of eight warps with a tile of so many cells, so that there are eight times those of a
// warp.
constexpr double exact_step_instructions = 8 * 3590;  // kernel-table
constexpr double precise_step_instructions = 3949;    // kernel-table
constexpr double fast_step_instructions = 2077;       // kernel-table
constexpr double counted_cells = 128;
constexpr double schedulers = 4;  // of a multiprocessor; each issues an instruction a cycle

constexpr double launch_seconds = 4e-6;
// What a training iteration in bands takes beside its steps: launches, fire masks, lists, loss,
// sums and Adam.
constexpr double band_iteration_seconds = 38e-6;
// The paces above are of launches on a stream. A launch in a graph takes so much less.
constexpr double saved_by_graph_seconds = 0.8e-6;

double cycles_of(const Pace& pace, double things, double rows) {
    return pace.fixed + pace.each * things + pace.row * rows;
}

// How many waves of clusters run one after the other until all samples are done. Of engines side by
// side each counts the part of the device that it takes.
double waves_of(const Gpu& gpu, const RolloutCase& rollout, int bands) {
    const double samples = rollout.batch;
    // The fewer blocks a cluster has, the more clusters fit, about in proportion.
    const double clusters = gpu.clusters * cuda::most_bands / bands;
    if (rollout.engines_on_device == 1) return std::ceil(samples / clusters);
    return std::max(samples / clusters, 1.0 / rollout.engines_on_device);
}

struct Seconds {
    double forward;
    double backward;
};

// Of all steps.
Seconds seconds_of(const Gpu& gpu, const RolloutCase& rollout) {
    const bool in_bands = rollout.form == RolloutForm::bands;
    const auto tiles_along = [](int cells, int tile) { return std::ceil(double(cells) / tile); };
    const double tiles = rollout.batch * tiles_along(rollout.height, Traits::tile_height) *
                         tiles_along(rollout.width, Traits::tile_width);
    const double cells = double(rollout.height) * rollout.width;
    const int bands = cuda::bands_of(rollout.height);
    const double shares = in_bands ? rollout.batch * bands : gpu.multiprocessors;
    const double things = in_bands ? cells / bands : tiles / shares;
    const Paces paces = in_bands ? band_paces(rollout.precision) : step_paces(rollout.precision);
    const double waves = in_bands ? waves_of(gpu, rollout, bands) : 1;
    const double factor = waves * rollout.steps / gpu.clock;
    return {factor * cycles_of(paces.forward, things, rollout.forward_rows / shares),
            factor * cycles_of(paces.backward, things, rollout.backward_rows / shares)};
}

}  // namespace

double predicted_forward(const Gpu& gpu, const RolloutCase& rollout) {
    // Packing the weights, fire masks, the steps.
    const double launches = rollout.form == RolloutForm::bands ? 3 : 0;
    return seconds_of(gpu, rollout).forward + launches * launch_seconds;
}

double predicted_forward_backward(const Gpu& gpu, const RolloutCase& rollout) {
    // And the loss in two, fire masks, lists, the steps, the gradients' sums.
    const double launches = rollout.form == RolloutForm::bands ? 9 : 0;
    const Seconds seconds = seconds_of(gpu, rollout);
    return seconds.forward + seconds.backward + launches * launch_seconds;
}

double predicted_training(const Gpu& gpu, const RolloutCase& rollout) {
    const Seconds seconds = seconds_of(gpu, rollout);
    const double others = rollout.form == RolloutForm::bands
                              ? band_iteration_seconds
                              : -2 * rollout.steps * saved_by_graph_seconds;
    return seconds.forward + seconds.backward + others;
}

double step_bytes(double cells) { return cells * channels * sizeof(float) * 2; }

double step_instructions(Precision precision) {
    switch (precision) {
        case Precision::exact:
            break;
        case Precision::precise:
            return precise_step_instructions;
        case Precision::fast:
            return fast_step_instructions;
    }
    return exact_step_instructions;
}

double predicted_step(const Gpu& gpu, double cells, Precision precision, double copy_rate) {
    const double issued_a_second = gpu.multiprocessors * schedulers * gpu.clock;
    const double memory = step_bytes(cells) / copy_rate;
    const double issue = step_instructions(precision) * cells / counted_cells / issued_a_second;
    return std::max(memory, issue) + launch_seconds;
}

}  // namespace nca::bench
