// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

namespace nca::test {

// Two values agree when |a - b| <= absolute + relative * max(|a|, |b|).
struct Tolerance {
    double absolute = 0;
    double relative = 0;
};

// The largest |a - b| / (absolute + relative * max(|a|, |b|)) over all elements: at most 1 where
// all agree. Infinite where the lengths differ or any value is not finite.
template <class A, class B>
double worst_error(const A& actual, const B& expected, Tolerance tolerance) {
    if (std::size(actual) != std::size(expected)) return std::numeric_limits<double>::infinity();
    double worst = 0;
    for (std::size_t i = 0; i < std::size(actual); ++i) {
        const double a = actual[i], b = expected[i];
        if (!std::isfinite(a) || !std::isfinite(b)) return std::numeric_limits<double>::infinity();
        if (a == b) continue;
        const double allowed =
            tolerance.absolute + tolerance.relative * std::max(std::abs(a), std::abs(b));
        worst = std::max(worst, std::abs(a - b) / allowed);
    }
    return worst;
}

// The norm of the difference, divided by the norm of the expected values. Infinite where the
// lengths differ or any value is not finite.
template <class A, class B>
double relative_error(const A& actual, const B& expected) {
    if (std::size(actual) != std::size(expected)) return std::numeric_limits<double>::infinity();
    double error = 0, norm = 0;
    for (std::size_t i = 0; i < std::size(actual); ++i) {
        error += std::pow(double(actual[i]) - expected[i], 2);
        norm += std::pow(double(expected[i]), 2);
    }
    if (error == 0) return 0;
    return std::isfinite(error) && norm > 0 ? std::sqrt(error / norm)
                                            : std::numeric_limits<double>::infinity();
}

// Infinite where any value is not finite.
template <class Values>
double largest_magnitude(const Values& values) {
    double largest = 0;
    for (const double value : values) {
        if (!std::isfinite(value)) return std::numeric_limits<double>::infinity();
        largest = std::max(largest, std::abs(value));
    }
    return largest;
}

}  // namespace nca::test
