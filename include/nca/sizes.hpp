// SPDX-License-Identifier: MIT
#pragma once

namespace nca {

// The one place where the sizes of the automaton are written.
inline constexpr int channels = 16;                         // RGB, alpha, 12 hidden channels
inline constexpr int alpha_channel = 3;                     //
inline constexpr int visible_channels = 4;                  // what the loss and pictures see
inline constexpr int filter_count = 3;                      // identity, Sobel x, Sobel y
inline constexpr int perception = channels * filter_count;  // 48, p[c * 3 + k]
inline constexpr int hidden = 128;

// A cell is living where the largest alpha of its 3x3 neighbourhood is above this. A float in every
// precision, so that the double reference draws the line exactly where the engines do.
inline constexpr float living_threshold = 0.1F;

}  // namespace nca
