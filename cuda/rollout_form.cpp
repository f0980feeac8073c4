// SPDX-License-Identifier: MIT
#include "cuda/rollout_form.hpp"

#include <nca/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "cuda/rollout_kernels.hpp"
#include "cuda/tiles.hpp"

namespace nca::cuda {
namespace {

int tiles_along(int cells, int tile) { return (cells + tile - 1) / tile; }

// Of the last tile along a side.
int last_extent(int cells, int tile) { return cells - (tiles_along(cells, tile) - 1) * tile; }

std::string tiles_of_block(int most) {
    return fmt::format("{} of {}x{} cells",
                       most == 1 ? "one tile" : fmt::format("up to {} tiles", most),
                       Traits::tile_height, Traits::tile_width);
}

// Why a grid cannot have any form but steps; empty where it can.
std::string common_obstacle(const Device& asked_for, const Grid& grid) {
    if (asked_for.precision == Precision::exact) return "the precision is exact";
    if (!has_close_neighbours(grid)) {
        return fmt::format("a grid of {}x{} leaves tiles of {}x{} cells that are one cell thin",
                           grid.height, grid.width, Traits::tile_height, Traits::tile_width);
    }
    return {};
}

std::string persistent_obstacle(const DeviceLimits& limits, const Grid& grid) {
    if (limits.persistent_blocks == 0) {
        return fmt::format(
            "{} has no room for blocks of {} KiB of shared memory that wait for each other",
            limits.name, (persistent_rollout_shared_bytes() + 1023) / 1024);
    }
    const int most = limits.persistent_blocks * most_tiles_of_block;
    if (tile_count(grid) > most) {
        return fmt::format("{} tiles are more than the {} that fit on {}", tile_count(grid), most,
                           limits.name);
    }
    return {};
}

RolloutPlan persistent_plan(const DeviceLimits& limits, int sharers, const Grid& grid) {
    const int tiles = tile_count(grid);
    const int share = limits.persistent_blocks / std::max(sharers, 1);
    const int fewest = tiles_along(tiles, most_tiles_of_block);
    const int blocks = std::min(tiles, std::max(share, fewest));
    return {.form = RolloutForm::persistent,
            .blocks = blocks,
            .text = fmt::format("persistent rollout, {} blocks of {}", blocks,
                                tiles_of_block(tiles_along(tiles, blocks)))};
}

// The size of cluster with the least work one after the other: waves of clusters, times the tiles
// of a block. Of equal ones the larger: its blocks have fewer tiles. 0 where none will do.
int best_cluster(const DeviceLimits& limits, const Grid& grid) {
    const int tiles = tile_count(grid) / grid.batch;
    int best = 0, least = 0;
    for (int size = 1; size <= std::min(largest_cluster, tiles); ++size) {
        const int each = tiles_along(tiles, size), active = limits.active_clusters[size];
        if (each > most_tiles_of_cluster_block || active == 0) continue;
        const int work = tiles_along(grid.batch, active) * each;
        if (best == 0 || work <= least) best = size, least = work;
    }
    return best;
}

std::string version(int code) { return fmt::format("{}.{}", code / 10, code % 10); }

// Throws CudaError, which says what else there is, where the device or this build's code for it
// lacks what came with a compute capability.
void require_code(const DeviceLimits& limits, int since, std::string_view what,
                  std::string_view otherwise) {
    if (limits.code >= since) return;
    if (limits.compute_capability < since) {
        throw CudaError(fmt::format("{} needs compute capability {} or later, {} has {}: {}", what,
                                    version(since), limits.name, version(limits.compute_capability),
                                    otherwise));
    }
    throw CudaError(
        fmt::format("{} needs code for compute capability {} or later, and this build's newest for "
                    "{} is for {}: "
                    "build with -DCMAKE_CUDA_ARCHITECTURES={}, or {}",
                    what, version(since), limits.name, version(limits.code),
                    limits.compute_capability, otherwise));
}

RolloutPlan cluster_plan(const DeviceLimits& limits, const Grid& grid) {
    require_code(limits, 90, "the cluster rollout", "leave the form to the engine");
    const int cluster = best_cluster(limits, grid), each = tile_count(grid) / grid.batch;
    if (cluster == 0) {
        throw CudaError(fmt::format(
            "the cluster rollout cannot be had here: {} tiles of a sample, {} on each of at most "
            "{} blocks, do not fit the clusters of {}; leave the form to the engine",
            each, most_tiles_of_cluster_block, largest_cluster, limits.name));
    }
    return {.form = RolloutForm::cluster,
            .blocks = grid.batch * cluster,
            .cluster = cluster,
            .text = fmt::format("cluster rollout, {} clusters of {} blocks of {}", grid.batch,
                                cluster, tiles_of_block(tiles_along(each, cluster)))};
}

}  // namespace

bool has_close_neighbours(const Grid& grid) {
    const auto close = [](int cells, int tile) {
        return cells <= tile || last_extent(cells, tile) >= 2;
    };
    return close(grid.height, Traits::tile_height) && close(grid.width, Traits::tile_width);
}

RolloutPlan plan_rollout(const DeviceLimits& limits, const Device& asked_for, const Grid& grid) {
    if (asked_for.rollout == RolloutForm::steps) return {.text = "one kernel a step"};
    std::string why_not = common_obstacle(asked_for, grid);
    if (why_not.empty() && asked_for.rollout == RolloutForm::cluster) {
        return cluster_plan(limits, grid);
    }
    if (why_not.empty()) why_not = persistent_obstacle(limits, grid);
    if (why_not.empty()) return persistent_plan(limits, asked_for.sharers, grid);
    if (asked_for.rollout == RolloutForm::automatic) {
        return {.text = fmt::format("one kernel a step: {}", why_not)};
    }
    throw CudaError(fmt::format(
        "a rollout in one launch cannot be had here: {}; leave the form to the engine", why_not));
}

void check_precision(const DeviceLimits& limits, Precision precision) {
    if (precision == Precision::exact) return;
    require_code(limits, 80, fmt::format("precision {}, for its tensor cores,", name(precision)),
                 "use --precision exact");
}

}  // namespace nca::cuda
