// SPDX-License-Identifier: MIT
#pragma once

// The sizes of rollouts in bands (band_rollout.hpp), without CUDA.

#include <algorithm>
#include <cstddef>

namespace nca::cuda {

inline constexpr int most_bands = 8;         // what every device of 9.0 launches as a cluster
inline constexpr int fewest_band_rows = 3;   // a step's life is known from three rows beyond
inline constexpr int most_band_rows = 26;    // these and three beyond on each side: a lane each
inline constexpr int most_band_width = 128;  // four words of bits
inline constexpr std::size_t most_band_shared_bytes = 227 * 1024;

// How many bands a grid of that height has; 0 where it has too few rows for one.
inline int bands_of(int height) { return std::min(most_bands, height / fewest_band_rows); }

}  // namespace nca::cuda
