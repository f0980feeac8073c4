// SPDX-License-Identifier: MIT
#include <nca/simulator.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "host/core/checks.hpp"
#include "host/core/throw_error.hpp"
#include "host/trained_starts.hpp"

namespace nca {
namespace {

constexpr int largest_side = 16384;
constexpr std::int64_t most_cells = std::int64_t{1} << 26;  // 4 GiB of state

void check_size(int height, int width) {
    if (height < 1 || height > largest_side || width < 1 || width > largest_side) {
        throw_error<InvalidArgument>("a grid of {}x{} cells: each side has to be in 1..{}", height,
                                     width, largest_side);
    }
    if (std::int64_t{height} * width > most_cells) {
        throw_error<InvalidArgument>(
            "a grid of {}x{} cells: at most {} cells fit, take a smaller one", height, width,
            most_cells);
    }
}

// A view of a state's copy in host memory.
ConstStateView host_view(const std::vector<float>& values, ConstStateView state) {
    return {values.data(), state.batch, state.height, state.width, MemorySpace::host};
}

// Overwrites columns left .. right - 1 of row y by zeros. The columns are inside the grid; zeros
// has at least as many floats as a row of it.
void erase_run(Engine& engine, StateView state, const std::vector<float>& zeros, int y, int left,
               int right) {
    const std::size_t cells = std::size_t(right - left);
    engine.copy_from_host(state.cell(0, y, left), std::span(zeros).first(cells * channels));
}

}  // namespace

Simulator::Simulator(Model model, const SimulatorOptions& options)
    : model_(std::move(model)), seed_(options.seed) {
    check_size(options.height, options.width);
    model_.rule.validate();
    check_weights(model_.weights);
    engine_ = make_engine(options.device);
    const std::span<const float> weights = model_.weights.all();
    weights_ = engine_->allocate(weights.size());
    engine_->copy_from_host(weights_.data(), weights);
    state_ = engine_->make_state(1, options.height, options.width);
}

void Simulator::plant_seed(int y, int x) {
    const StateView state = state_.view();
    if (y < 0 || y >= state.height || x < 0 || x >= state.width) {
        throw_error<InvalidArgument>(
            "start cell at ({}, {}): outside the grid of {}x{} cells, whose rows and columns count "
            "from 0",
            y, x, state.height, state.width);
    }
    engine().copy_from_host(state.cell(0, y, x), model_.rule.start_values());
}

void Simulator::plant_seed() {
    const GridSize grid{state_.view().height, state_.view().width};
    const std::vector<Place> starts = trained_starts(model_.history, grid);
    for (const Place& start : starts) {
        if (contains(grid, start)) continue;
        throw_error<InvalidArgument>(
            "a start cell of the model's training would be at ({}, {}): outside the grid of {}x{} "
            "cells; take a larger grid, or name the start cell",
            start.y, start.x, grid.height, grid.width);
    }
    for (const Place& start : starts) plant_seed(start.y, start.x);
}

void Simulator::step(int steps) {
    if (steps < 0) throw_error<InvalidArgument>("{} steps: expected 0 or more", steps);
    // The first step is part of the key, so that one call of step(3) and three calls of step(1)
    // draw the same fire masks. It starts again at 0 after 2^32 steps.
    Engine& engine = this->engine();
    const FireKey key{.seed = seed_, .first_step = std::uint32_t(steps_done_)};
    const ConstWeightsView weights =
        view_parameters<const float>(weights_.data(), model_.weights.has_output_bias());
    engine.advance(model_.rule, weights, state_.view(), {.steps = steps, .key = key});
    steps_done_ += steps;
}

void Simulator::erase_circle(double y, double x, double radius) {
    if (!std::isfinite(y) || !std::isfinite(x) || !std::isfinite(radius) || radius < 0) {
        throw_error<InvalidArgument>(
            "a circle of radius {} around ({}, {}): expected finite numbers and a radius of 0 or "
            "more",
            radius, y, x);
    }
    const StateView state = state_.view();
    const std::vector<float> zeros(std::size_t(state.width) * channels);
    // The columns that may be within the radius, and as many more as rounding may bring in.
    constexpr double epsilon = std::numeric_limits<double>::epsilon();
    const double margin = 1 + (std::abs(x) + radius) * epsilon;
    const auto column_at = [&](double place) {
        return int(std::clamp<double>(place, 0, state.width));
    };
    const int first = column_at(std::floor(x - radius - margin));
    const int last = column_at(std::ceil(x + radius + margin) + 1);
    for (int row = 0; row < state.height; ++row) {
        const double distance = row - y;
        if (std::abs(distance) > radius) continue;
        // The cells of a row that are within the radius have no gap between them.
        const auto inside = [&](int column) { return std::hypot(distance, column - x) <= radius; };
        int left = first;
        while (left < last && !inside(left)) ++left;
        int right = last;
        while (left < right && !inside(right - 1)) --right;
        if (left < right) erase_run(engine(), state, zeros, row, left, right);
    }
}

void Simulator::erase_rectangle(int top, int left, int bottom, int right) {
    const StateView state = state_.view();
    left = std::max(left, 0);
    right = std::min(right, state.width);
    if (left >= right) return;
    const std::vector<float> zeros(std::size_t(state.width) * channels);
    for (int row = std::max(top, 0); row < std::min(bottom, state.height); ++row) {
        erase_run(engine(), state, zeros, row, left, right);
    }
}

Engine& Simulator::engine() const {
    if (!engine_) throw InvalidArgument("the simulator has no engine: was it moved from?");
    return *engine_;
}

std::vector<float> Simulator::download() const {
    const ConstStateView state = state_.view();
    std::vector<float> values(state.size());
    engine().copy_to_host(values, state.data);
    return values;
}

StateCheck Simulator::check() const {
    const std::vector<float> values = download();
    return check_state(host_view(values, state_.view()));
}

Image Simulator::picture() const {
    const std::vector<float> values = download();
    return nca::picture(model_.rule, host_view(values, state_.view()));
}

}  // namespace nca
