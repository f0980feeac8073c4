// SPDX-License-Identifier: MIT
#pragma once

// Where a sample is cut into bands (band_rollout.hpp): a step takes as long as its slowest band.

#include <nca/rule.hpp>

#include <span>
#include <vector>

#include "cuda/bands/band_rollout.hpp"

namespace nca::cuda {

// Bands of fewest_band_rows to most_rows rows each. A band costs three for each row and one for
// each living cell. Of the cuts whose costliest band costs least, that whose heights are nearest to
// equal. row_load [height] has the living cells of each row; empty means none. No bands where no
// cut is possible.
BandCut cut_bands(int height, int bands, int most_rows, std::span<const double> row_load);

// The cells of each row that a pattern like the target [height, width, 4] keeps alive: those within
// one cell of an alpha above the threshold.
std::vector<double> row_load_of(std::span<const float> target, int height, int width, Edges edges);

}  // namespace nca::cuda
