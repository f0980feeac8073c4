// SPDX-License-Identifier: MIT
#include "cuda/rollout/rollout_form.hpp"

#include <fmt/format.h>

#include <cstdint>

#include "cuda/bands/band_cut.hpp"
#include "cuda/rollout/rollout.hpp"
#include "cuda/rule/model.hpp"
#include "host/core/throw_error.hpp"

namespace nca::cuda {
namespace {

std::string version(int code) { return fmt::format("{}.{}", code / 10, code % 10); }

// What the device, or this build's code for it, lacks of a compute capability; empty where it lacks
// nothing.
std::string missing_code(const DeviceLimits& limits, int since) {
    if (limits.code >= since) return {};
    if (limits.compute_capability < since) {
        return fmt::format("compute capability {} or later, {} has {}", version(since), limits.name,
                           version(limits.compute_capability));
    }
    return fmt::format(
        "code for compute capability {} or later, and this build's newest for {} is for {} "
        "(build with -DCMAKE_CUDA_ARCHITECTURES={})",
        version(since), limits.name, version(limits.code), limits.compute_capability);
}

// Why a rollout cannot run in bands whatever the grid; empty where it can.
std::string common_obstacle(const DeviceLimits& limits, Precision precision, const Rule& rule) {
    if (precision == Precision::exact) return "the precision is exact";
    const std::string missing = missing_code(limits, 90);
    if (!missing.empty()) return fmt::format("bands need {}", missing);
    if (limits.band_clusters == 0) {
        return fmt::format("{} holds no cluster of {} blocks", limits.name, most_bands);
    }
    if (!has_plain_filters(rule)) {
        return "bands need filters that are the cell itself, and Sobel x and y times one number";
    }
    return {};
}

// Of all samples. A launch counts the rows of all its steps in 32 bits.
constexpr int most_rows_in_bands = (1 << 24) - 1;
static_assert(most_advanced_steps <= 256);

// The best cut that a block's shared memory has room for; without bands where there is none.
BandCut cut_that_fits(const BatchShape& grid, Precision precision,
                      std::span<const double> row_load) {
    const int bands = bands_of(grid.height);
    if (bands == 0 || grid.width > most_band_width) return {};
    if (std::int64_t{grid.batch} * grid.height > most_rows_in_bands) return {};
    const int fewest = (grid.height + bands - 1) / bands;
    for (int most_rows = most_band_rows; most_rows >= fewest; --most_rows) {
        const BandCut cut = cut_bands(grid.height, bands, most_rows, row_load);
        if (cut.bands == 0) continue;
        if (band_forward_fits(grid, cut, precision) && band_backward_fits(grid, cut, precision)) {
            return cut;
        }
    }
    return {};
}

// Why a grid has no cut.
std::string grid_obstacle(const BatchShape& grid) {
    const std::string cells = fmt::format("{}x{} cells", grid.height, grid.width);
    if (grid.height < fewest_band_rows) {
        return fmt::format("a band has at least {} rows, and {} have fewer rows", fewest_band_rows,
                           cells);
    }
    if (grid.width > most_band_width) {
        return fmt::format("a band has at most {} columns, and {} have more columns",
                           most_band_width, cells);
    }
    if (std::int64_t{grid.batch} * grid.height > most_rows_in_bands) {
        return fmt::format(
            "all samples of bands have at most {} rows, and {} times {} have more rows",
            most_rows_in_bands, grid.batch, cells);
    }
    if (grid.height > most_bands * most_band_rows) {
        return fmt::format("{} bands have at most {} rows, and {} have more rows", most_bands,
                           most_bands * most_band_rows, cells);
    }
    return fmt::format("{} do not fit the shared memory of {} blocks", cells,
                       bands_of(grid.height));
}

std::string text_of(const DeviceLimits& limits, const BatchShape& grid, const BandCut& cut) {
    // Where clusters have fewer blocks, more of them fit; how many is not known.
    const bool has_waves = cut.bands == most_bands && grid.batch > limits.band_clusters;
    const std::string waves =
        has_waves ? fmt::format(", {} samples at a time", limits.band_clusters) : "";
    return fmt::format("bands: {} to a sample, a block each{}", cut.bands, waves);
}

}  // namespace

RolloutPlan plan_rollout(const DeviceLimits& limits, const Device& asked_for,
                         const BatchShape& grid, const Rule& rule,
                         std::span<const double> row_load) {
    const Precision precision = asked_for.precision.value_or(Precision::exact);
    // Steps back are in the precision that is asked for.
    const std::string steps = precision == Precision::exact || has_sobel_filters(rule)
                                  ? "one kernel a step"
                                  : "one kernel a step, forward in exact";
    if (asked_for.rollout == RolloutForm::steps) return {.cut = {}, .text = steps};
    std::string why_not = common_obstacle(limits, precision, rule);
    BandCut cut;
    if (why_not.empty()) {
        cut = cut_that_fits(grid, precision, row_load);
        if (cut.bands == 0) why_not = grid_obstacle(grid);
    }
    if (why_not.empty()) {
        return {.form = RolloutForm::bands, .cut = cut, .text = text_of(limits, grid, cut)};
    }
    if (asked_for.rollout == RolloutForm::bands) {
        throw_error<CudaError>(
            "no rollout in bands is possible here: {}; use RolloutForm::automatic", why_not);
    }
    return {.cut = {}, .text = fmt::format("{}: {}", steps, why_not)};
}

Precision default_precision(const DeviceLimits& limits, RolloutForm asked_for) {
    if (asked_for == RolloutForm::steps) return Precision::exact;
    const bool in_bands = asked_for == RolloutForm::bands || limits.band_clusters > 0;
    return in_bands ? Precision::precise : Precision::exact;
}

void check_precision(const DeviceLimits& limits, Precision precision) {
    if (precision == Precision::exact) return;
    const std::string missing = missing_code(limits, 80);
    if (missing.empty()) return;
    throw_error<CudaError>("precision {} uses tensor cores, which need {}: use exact",
                           name(precision), missing);
}

}  // namespace nca::cuda
