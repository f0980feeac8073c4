// SPDX-License-Identifier: MIT
#include "benchmarks/prediction.hpp"

#include <nca/error.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>

#include "cuda/traits.hpp"

namespace nca::bench {
namespace {

using cuda::Traits;

constexpr int limits = 6;

// Seconds that are spent on each limit, by Limit.
using Parts = std::array<double, limits>;

Parts operator*(double factor, Parts parts) {
    for (double& part : parts) part *= factor;
    return parts;
}
Parts operator+(Parts a, const Parts& b) {
    for (int i = 0; i < limits; ++i) a[i] += b[i];
    return a;
}
Parts waiting(double seconds) { return {seconds}; }

Prediction sum_of(const Parts& parts) {
    Prediction result;
    for (const double part : parts) result.seconds += part;
    result.limit = static_cast<Limit>(std::max_element(parts.begin(), parts.end()) - parts.begin());
    return result;
}

// What one direction of a step is made of, counted from the kernels' text.
struct Direction {
    double operations;    // of a row
    double roundings;     // of a row: values that become operands
    double shared_bytes;  // of a row: read and written
    double chain;         // products of 16 k that follow each other, for 64 rows
    double barriers;      // of a step, and for each 64 rows
    double chunk_barriers;
    double l2_bytes;    // of a tile; where a rollout is one launch about two thirds of it
    double tape_bytes;  // of a cell, in the device's memory
};

constexpr double cell_bytes = Traits::channels * sizeof(float);
constexpr double halo_bytes = Traits::halo_cells * cell_bytes;
constexpr double tile_bytes = Traits::tile_cells * cell_bytes;
constexpr double p_bytes = Traits::perception * sizeof(float);
constexpr double hidden_bytes = Traits::hidden * sizeof(float);

// tensor_forward.cuh. A row's nine neighbours are read, p is written and read by the warps of four
// quarters, each of which leaves a u that is read once. Two groups of 16 rows a warp, three blocks
// of k and then two.
constexpr Direction forward = {
    .operations = 2.0 * (Traits::perception * Traits::hidden + Traits::hidden * Traits::channels),
    .roundings = 4.0 * Traits::perception + Traits::hidden,
    .shared_bytes = 9 * cell_bytes + p_bytes + 4 * p_bytes + 2 * 4 * cell_bytes,
    .chain = 2 * (3 + 2),
    .barriers = 6,
    .chunk_barriers = 2,
    .l2_bytes = halo_bytes + 2 * tile_bytes,  // z read, z and x written
    .tape_bytes = cell_bytes};

// tensor_backward.cuh. Perception as before; p and grad_u are written once and read twice by each
// of eight warps, grad_a written once and read by two, all of W1 read for 16 rows. Four groups of
// 16 rows, three blocks of k each, and eight blocks for grad_p.
constexpr Direction backward = {
    .operations =
        2.0 * (3 * Traits::perception * Traits::hidden + 2 * Traits::hidden * Traits::channels),
    .roundings = 2.0 * 8 * (Traits::perception + Traits::channels) + 2 * Traits::hidden +
                 2 * Traits::hidden + Traits::perception * Traits::hidden / 16,
    .shared_bytes = 9 * cell_bytes + 17 * (p_bytes + cell_bytes) + 3 * hidden_bytes +
                    p_bytes * Traits::hidden / 16,
    .chain = 4 * 3 + 8,
    .barriers = 7,
    .chunk_barriers = 3,
    .l2_bytes = halo_bytes + 2 * 0.5 * 3 * tile_bytes,  // x read; grad_p of half the cells, twice
    .tape_bytes = cell_bytes};

double products_of(Precision precision) { return precision == Precision::precise ? 3 : 1; }

// The scarcest thing that a multiprocessor has for so many rows in chunks, and what its tiles move.
Parts work_of(const Rates& rates, const RolloutCase& rollout, const Direction& direction,
              double rows, double tiles) {
    const bool exact = rollout.precision == Precision::exact;
    const double products = products_of(rollout.precision);
    const double chunks = std::ceil(rows / 64);
    const double padded = exact ? rows : std::ceil(rows / 16) * 16;
    const double tensor_rate = rates.tf32_operations;
    const double per_block = 2 * products;  // mma.sync for 16 k
    const double values = products > 1 ? 2 : 1;
    Parts cycles = {};
    const auto of = [&](Limit limit) -> double& { return cycles[static_cast<int>(limit)]; };
    if (exact) {
        of(Limit::multiply_adds) = padded * direction.operations / rates.multiply_adds;
    } else {
        of(Limit::latency) = chunks * direction.chain * per_block * rates.mma_cycles;
        of(Limit::tensor_cores) = padded * products * direction.operations / tensor_rate;
        of(Limit::roundings) = padded * values * direction.roundings / rates.roundings;
        of(Limit::shared_memory) = padded * direction.shared_bytes / rates.shared_bytes;
    }
    const double all_tape =
        double(rollout.batch) * rollout.height * rollout.width * direction.tape_bytes;
    of(Limit::bandwidth) = std::max(tiles * direction.l2_bytes / rates.l2_bytes,
                                    all_tape / rates.bandwidth * rates.clock);
    const auto most = std::max_element(cycles.begin(), cycles.end());
    Parts seconds = {};
    seconds[most - cycles.begin()] = *most / rates.clock;
    return seconds;
}

// How a rollout lies on the device.
struct Layout {
    double blocks;        // of one rollout
    double tiles;         // of a block
    double rows_forward;  // of the block that has most
    double rows_backward;
    double side_by_side = 1;  // rollouts that run at the same time
};

Layout layout_of(const Rates& rates, const RolloutCase& rollout) {
    const double tiles = double(rollout.batch) *
                         std::ceil(double(rollout.height) / Traits::tile_height) *
                         std::ceil(double(rollout.width) / Traits::tile_width);
    Layout layout = {};
    layout.blocks = std::min<double>(tiles, rates.multiprocessors);
    if (rollout.sharers > 1) {
        if (rollout.form != RolloutForm::steps) {
            constexpr double most_tiles = 4;
            const double share = std::floor(double(rates.multiprocessors) / rollout.sharers);
            layout.blocks = std::min(tiles, std::max(share, std::ceil(tiles / most_tiles)));
        }
        layout.side_by_side = std::clamp(std::floor(rates.multiprocessors / layout.blocks), 1.0,
                                         1.0 * rollout.sharers);
    }
    layout.tiles = std::ceil(tiles / layout.blocks);
    // Living tiles are dealt out evenly; the fullest of so many draws has two deviations more than
    // the mean.
    const double fire = rollout.fire_rate;
    const auto fullest = [&](double rows) {
        const double full = std::max(fire * Traits::tile_cells, 1.0);
        const double living = std::clamp(std::ceil(rows / full / layout.blocks), 1.0, layout.tiles);
        const double mean = std::min(rows, living * full);
        return mean + 2 * std::sqrt(mean * (1 - fire));
    };
    layout.rows_forward = fullest(rollout.forward_rows);
    layout.rows_backward = fullest(rollout.backward_rows);
    return layout;
}

// One direction of a step, with what it waits for before and between its phases.
Parts step_of(const Rates& rates, const RolloutCase& rollout, const Direction& direction,
              const Layout& layout, double rows, double exchange) {
    const double barriers =
        direction.barriers + direction.chunk_barriers * std::max(1.0, std::ceil(rows / 64));
    return waiting(exchange + barriers * rates.barrier_cycles / rates.clock) +
           work_of(rates, rollout, direction, rows, layout.tiles);
}

double exchange_of(const Rates& rates, RolloutForm form, double launch) {
    return form == RolloutForm::steps ? launch : rates.cluster_seconds;
}

Parts forward_parts(const Rates& rates, const RolloutCase& rollout, double launch) {
    const Layout layout = layout_of(rates, rollout);
    return rollout.steps * step_of(rates, rollout, forward, layout, layout.rows_forward,
                                   exchange_of(rates, rollout.form, launch));
}

Parts backward_parts(const Rates& rates, const RolloutCase& rollout, double launch) {
    const Layout layout = layout_of(rates, rollout);
    return rollout.steps * step_of(rates, rollout, backward, layout, layout.rows_backward,
                                   exchange_of(rates, rollout.form, launch));
}

// Reading the blocks' sums of weight gradients, 33 KiB each.
Parts reduction(const Rates& rates, double blocks) {
    constexpr double bytes = 33 * 1024;
    return waiting(blocks * bytes / (rates.l2_bytes * rates.multiprocessors) / rates.clock);
}

}  // namespace

std::string_view name(Limit limit) {
    switch (limit) {
        case Limit::latency:
            return "latency";
        case Limit::tensor_cores:
            return "tensor cores";
        case Limit::roundings:
            return "roundings";
        case Limit::multiply_adds:
            return "FFMA";
        case Limit::shared_memory:
            return "shared memory";
        case Limit::bandwidth:
            break;
    }
    return "bandwidth";
}

void read_rates(Rates& rates, const std::string& path) {
    std::ifstream file(path);
    if (!file) throw IoError("cannot read " + path);
    try {
        const auto report = nlohmann::json::parse(file);
        const std::pair<const char*, double*> measured[] = {
            {"tf32_operations", &rates.tf32_operations},
            {"fp16_operations", &rates.fp16_operations},
            {"roundings", &rates.roundings},
            {"shared_bytes", &rates.shared_bytes},
            {"mma_cycles", &rates.mma_cycles},
            {"flag_seconds", &rates.flag_seconds},
            {"cluster_seconds", &rates.cluster_seconds},
            {"grid_barrier_seconds", &rates.grid_barrier_seconds},
            {"launch_seconds", &rates.launch_seconds},
            {"node_seconds", &rates.node_seconds},
            {"dependent_node_seconds", &rates.dependent_node_seconds}};
        for (const auto& [key, value] : measured) {
            // What a device lacks is null.
            const auto& rate = report.at("rates").at(key);
            if (rate.is_number() && rate.get<double>() > 0) *value = rate.get<double>();
        }
    } catch (const nlohmann::json::exception& error) {
        throw FormatError(
            fmt::format("{}: expected what rates --json writes: {}", path, error.what()));
    }
}

Prediction predict_forward(const Rates& rates, const RolloutCase& rollout) {
    // The packing kernel, and the last mask where it is one of its own; not in a graph.
    const double launches = rollout.form == RolloutForm::steps ? 2 : 1;
    return sum_of(waiting(launches * rates.launch_seconds) +
                  forward_parts(rates, rollout, rates.launch_seconds));
}

Prediction predict_forward_backward(const Rates& rates, const RolloutCase& rollout) {
    RolloutCase back = rollout;
    back.form = RolloutForm::steps;
    const double launches = (rollout.form == RolloutForm::steps ? 2 : 1) + 4;  // loss, reduction
    return sum_of(waiting(launches * rates.launch_seconds) +
                  forward_parts(rates, rollout, rates.launch_seconds) +
                  backward_parts(rates, back, rates.launch_seconds));
}

Prediction predict_training(const Rates& rates, const RolloutCase& rollout) {
    const double launch = rates.dependent_node_seconds;
    const Layout layout = layout_of(rates, rollout);
    Parts parts = forward_parts(rates, rollout, launch) + backward_parts(rates, rollout, launch) +
                  reduction(rates, layout.blocks);
    if (rollout.form == RolloutForm::steps) {
        constexpr int others = 8;  // packing, the last mask, loss, sums, norms, Adam, the cursor
        parts = parts + waiting(others * rates.node_seconds);
    } else {
        parts = parts + waiting(2 * rates.node_seconds + 2 * rates.grid_barrier_seconds);
    }
    return sum_of((1 / layout.side_by_side) * parts);
}

Prediction predict_large_step(const Rates& rates, const RolloutCase& rollout) {
    // Every multiprocessor has its share of the rows; a state is read and written.
    const double cells = double(rollout.batch) * rollout.height * rollout.width;
    const double share = cells / rates.multiprocessors;
    Direction step = forward;
    step.tape_bytes = 2 * cell_bytes;
    step.chain = 0;
    step.l2_bytes = halo_bytes + tile_bytes;
    return sum_of(waiting(rates.launch_seconds) + work_of(rates, rollout, step,
                                                          share * rollout.fire_rate,
                                                          share / Traits::tile_cells));
}

}  // namespace nca::bench
