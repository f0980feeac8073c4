// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

// Draws the loss of a run for a page.
namespace nca::tool {

struct LossPoint {
    std::int64_t iteration = 0;
    double loss = 0;

    bool operator==(const LossPoint&) const = default;
};

// At most `most` (4 or more) of the points, in order: the first, the last, and the lowest and the
// highest of each group of neighbours, so that no spike is lost.
std::vector<LossPoint> thin_out(std::span<const LossPoint> points, std::size_t most);

// The median of the last 51 losses at each of at most `most` points, evenly spread.
std::vector<LossPoint> running_medians(std::span<const LossPoint> points, std::size_t most);

// An HTML element with an SVG inside. The SVG shows the losses on a logarithmic scale, as polylines
// of (iteration, log10 of the loss) with at most about 1000 points, and a mark at each recovery.
// points: iterations ascend, losses are positive and finite. The labels are HTML outside the SVG,
// so that they keep their size on a small screen.
std::string loss_curve(std::span<const LossPoint> points, std::span<const std::int64_t> recoveries);

}  // namespace nca::tool
