// SPDX-License-Identifier: MIT
#pragma once

namespace nca {

// The sizes of the automaton. They are written here only.

/// The numbers of a cell: red, green, blue, alpha and 12 hidden channels.
inline constexpr int channels = 16;
/// The index of alpha among the channels.
inline constexpr int alpha_channel = 3;
/// The first channels, red, green, blue and alpha: those in the loss and in pictures.
inline constexpr int visible_channels = 4;
/// The filters of perception: identity, Sobel x, Sobel y.
inline constexpr int filter_count = 3;
/// The numbers that a cell sees. Filter k of channel c is p[c * filter_count + k].
inline constexpr int perception = channels * filter_count;
/// The hidden units of the MLP.
inline constexpr int hidden = 128;

/// A cell is living where the largest alpha of its 3x3 neighbourhood is above this. A float, so
/// that the reference in double compares with the same number as the engines.
inline constexpr float living_threshold = 0.1F;

}  // namespace nca
