// SPDX-License-Identifier: MIT
#pragma once

namespace nca {

// The sizes of the automaton. They are written here only.
inline constexpr int channels = 16;  // RGB, alpha, 12 hidden channels
inline constexpr int alpha_channel = 3;
inline constexpr int visible_channels = 4;                  // RGB and alpha: in loss and pictures
inline constexpr int filter_count = 3;                      // identity, Sobel x, Sobel y
inline constexpr int perception = channels * filter_count;  // p[c * filter_count + k]
inline constexpr int hidden = 128;                          // hidden units of the MLP

// A cell is living where the largest alpha of its 3x3 neighbourhood is above this. A float, so that
// the reference in double compares with the same number as the engines.
inline constexpr float living_threshold = 0.1F;

}  // namespace nca
