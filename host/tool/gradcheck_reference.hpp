// SPDX-License-Identifier: MIT
#pragma once

#include "host/reference/rollout.hpp"

#include <nca/device.hpp>
#include <nca/model.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <thread>
#include <vector>

namespace nca::tool {

// A rollout whose gradients are to be checked.
struct GradcheckProblem {
    Model model;
    std::vector<float> target;  // [height, width, visible_channels]
    std::vector<float> state;   // [batch, height, width, channels], one start cell in each
    int batch = 1;
    int height = 0;
    int width = 0;
    RolloutOptions options;

    std::int64_t cell_steps() const { return std::int64_t{batch} * height * width * options.steps; }
    ConstStateView view() const { return {state.data(), batch, height, width, MemorySpace::host}; }
    // The same rollout in double precision.
    reference::GradientCheck reference() const {
        return {model.rule, reference::WeightValues<double>(model.weights),
                reference::split_batch<double>(view()), target, options};
    }
};

// Chooses `count` entries of a tensor for central differences. They are evenly spread over all
// entries in order of their gradient's magnitude, the largest and the smallest included.
inline std::vector<std::size_t> sample_entries(const ParameterTensor& tensor,
                                               const std::vector<double>& gradient,
                                               std::size_t count) {
    std::vector<std::size_t> order(tensor.size);
    std::iota(order.begin(), order.end(), tensor.offset);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return std::abs(gradient[a]) > std::abs(gradient[b]);
    });
    count = std::min(count, order.size());
    std::vector<std::size_t> entries;
    for (std::size_t i = 0; i < count; ++i) {
        entries.push_back(order[count == 1 ? 0 : i * (order.size() - 1) / (count - 1)]);
    }
    return entries;
}

// Central differences of these entries. Tries up to three widths and takes the result closest to
// `gradient`: a ReLU that switches between the two rollouts spoils one width, a wrong gradient
// disagrees with all.
inline std::vector<double> central_differences(const reference::GradientCheck& reference,
                                               const std::vector<std::size_t>& entries,
                                               const std::vector<double>& gradient,
                                               double good_enough, int threads) {
    std::vector<double> result(entries.size());
    std::atomic<std::size_t> next = 0;
    const auto work = [&] {
        for (std::size_t i = next++; i < entries.size(); i = next++) {
            double best = std::numeric_limits<double>::infinity();
            for (const double epsilon : {1e-6, 1e-7, 1e-5}) {
                const double difference = reference.central_difference(entries[i], epsilon);
                const double error = std::abs(difference - gradient[entries[i]]);
                if (!(error >= best)) {
                    best = error;
                    result[i] = difference;
                }
                if (best <= good_enough) break;
            }
        }
    };
    std::vector<std::jthread> workers;
    for (int i = 1; i < threads; ++i) workers.emplace_back(work);
    work();
    return result;
}

// The largest error that an engine may have, as a part of the tensor's largest gradient. In float32
// each step, forward and backward, rounds sums of perception + hidden terms, and these errors add
// up like a random walk. The factor 4 allows for steps that amplify them. Rounding the tensor
// cores' operands costs more, for any number of steps.
inline double gradcheck_tolerance(int steps, Precision precision) {
    const double float32 = 4 * (steps + 1) * std::sqrt(double{perception + hidden}) *
                           std::numeric_limits<float>::epsilon() / 2;
    switch (precision) {
        case Precision::exact:
            break;
        case Precision::precise:
            return std::max(float32, 1e-4);
        case Precision::fast:
            return std::max(float32, 5e-2);
    }
    return float32;
}

template <class Values>
double norm(const Values& values) {
    double squares = 0;
    for (const double value : values) squares += value * value;
    return std::sqrt(squares);
}

// The largest |a - b| of two sequences of one length; NaN where an element is.
template <class A, class B>
double largest_error(const A& a, const B& b) {
    double largest = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        const double error = std::abs(double{a[i]} - double{b[i]});
        if (std::isnan(error)) return error;
        largest = std::max(largest, error);
    }
    return largest;
}

struct TensorCheck {
    double engine_norm = 0;
    double reference_norm = 0;
    double largest = 0;           // magnitude of the reference's gradients
    double error = 0;             // largest of all entries, against the reference's gradient
    std::size_t differences = 0;  // number of entries with a central difference
    double difference_error = 0;  // largest of these entries, against that difference
    bool good = false;
};

// gradient: the engine's. expected: the reference's. part: the largest error that an entry may
// have, as a part of the tensor's largest gradient.
inline TensorCheck check_tensor(const ParameterTensor& tensor, const Weights& gradient,
                                const std::vector<double>& expected,
                                const reference::GradientCheck& reference, double part,
                                int threads) {
    const std::span<const float> ours = gradient.all().subspan(tensor.offset, tensor.size);
    const std::span<const double> theirs = std::span(expected).subspan(tensor.offset, tensor.size);
    TensorCheck check;
    check.engine_norm = norm(ours);
    check.reference_norm = norm(theirs);
    for (const double value : theirs) check.largest = std::max(check.largest, std::abs(value));
    check.error = largest_error(ours, theirs);

    // A central difference costs two rollouts, so large grids get fewer of them.
    std::int64_t cell_steps = 0;
    for (const auto& tape : reference.tapes()) cell_steps += tape.steps() * tape.first().cells();
    const std::size_t count = std::size_t(std::clamp<std::int64_t>(1'600'000 / cell_steps, 8, 64));
    const std::vector<std::size_t> entries = sample_entries(tensor, expected, count);
    std::vector<double> sampled;
    for (const std::size_t entry : entries) sampled.push_back(gradient.all()[entry]);
    const double tolerance = part * check.largest;
    check.differences = entries.size();
    check.difference_error = largest_error(
        sampled, central_differences(reference, entries, expected, tolerance / 100, threads));
    // Cancellation gives central differences of a loss near 1 an error of about 1e-10.
    check.good = check.error <= tolerance && check.difference_error <= tolerance + 1e-9;
    return check;
}

}  // namespace nca::tool
