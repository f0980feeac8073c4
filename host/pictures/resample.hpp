// SPDX-License-Identifier: MIT
#pragma once

#include <nca/image.hpp>

namespace nca {

// Resamples to another size with the Catmull-Rom filter, which is widened where pixels are merged.
// Colours are weighted by alpha; beyond an edge its pixels are repeated.
Image resample(const Image& image, int height, int width);

}  // namespace nca
