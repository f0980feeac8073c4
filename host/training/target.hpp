// SPDX-License-Identifier: MIT
#pragma once

#include <nca/image.hpp>
#include <nca/training_config.hpp>

#include <algorithm>
#include <vector>

namespace nca {

inline int longer_side(const Image& image) { return std::max(image.height, image.width); }

// How many cells each side of a pixel gets in a target of this size; 0 where that is no whole
// number.
inline int whole_factor(const Image& image, int target_size) {
    return target_size % longer_side(image) == 0 ? target_size / longer_side(image) : 0;
}

// make_target() as it was in version 0.2.0, which always used the Catmull-Rom filter.
std::vector<float> make_filtered_target(const Image& image, const TrainingConfig& config);

}  // namespace nca
