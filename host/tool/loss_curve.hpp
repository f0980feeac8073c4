// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

// The loss of a run as a drawing for a page.
namespace nca::tool {

struct LossPoint {
    std::int64_t iteration = 0;
    double loss = 0;

    bool operator==(const LossPoint&) const = default;
};

// At most so many of the points, in order, first and last among them: the lowest and the highest of
// each of equally many neighbours, so that no spike is lost. most >= 4.
std::vector<LossPoint> thin_out(std::span<const LossPoint> points, std::size_t most);

// At at most so many of the points the median of the last 51 losses there.
std::vector<LossPoint> running_medians(std::span<const LossPoint> points, std::size_t most);

// An HTML element with an SVG inside: the losses on a logarithmic scale as polylines in units of
// (iteration, log10 of the loss), about 1000 points for any number, and a mark at each recovery.
// Iterations ascend, losses are positive and finite. The text around it is HTML and no part of the
// drawing, so that it keeps its size on a small screen.
std::string loss_curve(std::span<const LossPoint> points, std::span<const std::int64_t> recoveries);

}  // namespace nca::tool
