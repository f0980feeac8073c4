// SPDX-License-Identifier: MIT
#pragma once

#include "host/core/grid.hpp"

#include <nca/model.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

namespace nca {

// Where the start cells that a model was trained with lie on such a grid: as far from its middle as
// in training, turned about it by `degrees`, counterclockwise like the picture that
// Rule::rotated(degrees) grows, and rounded to the nearest cell. They may be outside the grid. The
// cell in the middle where the history has none.
inline std::vector<Place> trained_starts(const TrainingHistory& history, const GridSize& grid,
                                         double degrees = 0) {
    const Place middle = middle_of(grid);
    const Place trained = middle_of({history.height, history.width});
    const double angle = std::fmod(degrees, 360.0) * std::numbers::pi / 180.0;
    const double cosine = std::cos(angle);
    const double sine = std::sin(angle);
    // The history of a model that was made in memory may hold any place.
    const auto nearest = [](double value) {
        return int(std::clamp<double>(std::round(value), std::numeric_limits<int>::min(),
                                      std::numeric_limits<int>::max()));
    };
    std::vector<Place> starts;
    for (const Place& cell : history.start_cells) {
        const double right = double(cell.x) - trained.x;
        const double down = double(cell.y) - trained.y;
        starts.push_back({nearest(middle.y - sine * right + cosine * down),
                          nearest(middle.x + cosine * right + sine * down)});
    }
    if (starts.empty()) starts.push_back(middle);
    return starts;
}

}  // namespace nca
