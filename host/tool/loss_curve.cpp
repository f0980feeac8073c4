// SPDX-License-Identifier: MIT
#include "host/tool/loss_curve.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace nca::tool {
namespace {

constexpr std::size_t most_points = 1000;
constexpr std::size_t most_medians = 250;
constexpr std::size_t most_marks = 100;
constexpr std::size_t median_window = 51;  // as in scripts/plot-loss
constexpr double side = 1000;              // height and width of the drawing, in its own units

// Part of an axis.
struct Range {
    double low = 0;
    double high = 0;

    double size() const { return high - low; }
    // 0 at the low end, 1 at the high end.
    double share(double value) const { return (value - low) / size(); }
};

Range iterations_of(std::span<const LossPoint> points) {
    const auto first = double(points.front().iteration);
    return {first, std::max(double(points.back().iteration), first + 1)};
}

// The range of the losses' log10. Single losses far above all medians, such as those of failed
// iterations, are cut off.
Range losses_of(std::span<const LossPoint> points, std::span<const LossPoint> medians) {
    const auto lower = [](const LossPoint& a, const LossPoint& b) { return a.loss < b.loss; };
    const auto [least, most] = std::minmax_element(points.begin(), points.end(), lower);
    const double median = std::max_element(medians.begin(), medians.end(), lower)->loss;
    const double low = std::log10(least->loss);
    const double high = std::min(std::log10(most->loss), std::log10(median) + 0.5);
    const double margin = std::max(0.05 * (high - low), 0.05);
    return {low - margin, high + margin};
}

// About five ticks in the range: whole multiples of 1, 2 or 5 times a power of ten.
std::vector<double> ticks(const Range& range) {
    double step = std::pow(10, std::max(0.0, std::floor(std::log10(range.size() / 5))));
    for (const double factor : {2.0, 2.5, 2.0}) step *= range.size() / step > 6 ? factor : 1;
    std::vector<double> result;
    for (double i = std::ceil(range.low / step); i * step <= range.high; ++i) {
        result.push_back(i * step);
    }
    return result;
}

// Ticks at log10 of round numbers in the range: powers of ten, in a shorter range also 2 and 5
// times these, in a very short one all multiples up to 9.
std::vector<double> logarithmic_ticks(const Range& range) {
    std::vector<double> result;
    for (double power = std::floor(range.low); power <= range.high; ++power) {
        for (int multiple = 1; multiple < 10; ++multiple) {
            const double value = power + std::log10(multiple);
            const bool wanted = multiple == 1 || range.size() < 0.5 ||
                                (range.size() < 2.5 && (multiple == 2 || multiple == 5));
            if (wanted && value >= range.low && value <= range.high) result.push_back(value);
        }
    }
    return result;
}

std::string polyline(const char* name, std::span<const LossPoint> points) {
    std::string result = fmt::format("<polyline class=\"{}\" points=\"", name);
    for (const LossPoint& point : points) {
        result += fmt::format("{},{:.5f} ", point.iteration, std::log10(point.loss));
    }
    return result + "\"/>\n";
}

}  // namespace

std::vector<LossPoint> thin_out(std::span<const LossPoint> points, std::size_t most) {
    if (points.size() <= most) return {points.begin(), points.end()};
    const auto lower = [](const LossPoint& a, const LossPoint& b) { return a.loss < b.loss; };
    const std::span<const LossPoint> inner = points.subspan(1, points.size() - 2);
    const std::size_t groups = (most - 2) / 2;
    std::vector<LossPoint> result = {points.front()};
    for (std::size_t i = 0; i < groups; ++i) {
        const auto begin = inner.begin() + std::ptrdiff_t(i * inner.size() / groups);
        const auto end = inner.begin() + std::ptrdiff_t((i + 1) * inner.size() / groups);
        auto [a, b] = std::minmax_element(begin, end, lower);
        if (b < a) std::swap(a, b);
        result.push_back(*a);
        if (a != b) result.push_back(*b);
    }
    result.push_back(points.back());
    return result;
}

std::vector<LossPoint> running_medians(std::span<const LossPoint> points, std::size_t most) {
    std::vector<LossPoint> result;
    std::vector<double> window;
    const std::size_t count = std::min(most, points.size());
    for (std::size_t i = 1; i <= count; ++i) {
        const std::size_t end = i * points.size() / count;
        window.clear();
        for (std::size_t j = end - std::min(end, median_window); j < end; ++j) {
            window.push_back(points[j].loss);
        }
        const auto middle = window.begin() + std::ptrdiff_t((window.size() - 1) / 2);
        std::nth_element(window.begin(), middle, window.end());
        result.push_back({points[end - 1].iteration, *middle});
    }
    return result;
}

std::string loss_curve(std::span<const LossPoint> points,
                       std::span<const std::int64_t> recoveries) {
    if (points.empty()) return "<p>There is no loss yet.</p>\n";
    const Range x = iterations_of(points);
    const std::vector<LossPoint> medians = running_medians(points, most_medians);
    const Range y = losses_of(points, medians);
    std::string labels;
    std::string grid;
    for (const double value : logarithmic_ticks(y)) {
        const double top = 1 - y.share(value);
        labels += fmt::format("<span class=\"y\" style=\"top:{:.2f}%\">{:.3g}</span>", 100 * top,
                              std::pow(10, value));
        grid += fmt::format("M0 {:.1f}H{}", side * top, side);
    }
    for (const double value : ticks(x)) {
        const double left = x.share(value);
        labels += fmt::format("<span class=\"x\" style=\"left:{:.2f}%\">{:.0f}</span>", 100 * left,
                              value);
        grid += fmt::format("M{:.1f} 0V{}", side * left, side);
    }
    std::string marks;
    const std::size_t skipped = recoveries.size() - std::min(recoveries.size(), most_marks);
    for (const std::int64_t iteration : recoveries.subspan(skipped)) {
        marks += fmt::format(
            "<path class=\"recovery\" d=\"M{:.1f} 0V{}\"><title>recovery in iteration {}</title>"
            "</path>\n",
            side * x.share(double(iteration)), side, iteration);
    }
    const double x_scale = side / x.size();
    const double y_scale = side / y.size();
    return fmt::format(
        "<div class=\"plot\">{}\n"
        "<svg viewBox=\"0 0 {} {}\" preserveAspectRatio=\"none\" role=\"img\" "
        "aria-label=\"loss of the iterations on a logarithmic scale\">\n"
        "<path class=\"grid\" d=\"{}\"/>\n{}"
        "<g transform=\"matrix({:.9g} 0 0 {:.9g} {:.9g} {:.9g})\">\n{}{}</g>\n</svg></div>\n",
        labels, side, side, grid, marks, x_scale, -y_scale, -x.low * x_scale, y.high * y_scale,
        polyline("each", thin_out(points, most_points)), polyline("median", medians));
}

}  // namespace nca::tool
