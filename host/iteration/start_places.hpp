// SPDX-License-Identifier: MIT
#pragma once

#include "host/core/grid.hpp"

#include <nca/training_config.hpp>

#include <vector>

namespace nca {

// The start cells of a training, the one in the middle where none are named.
inline std::vector<Place> start_places(const TrainingConfig& config) {
    const int grid = config.grid();
    return config.start_cells.empty() ? std::vector<Place>{middle_of({grid, grid})}
                                      : config.start_cells;
}

}  // namespace nca
