// SPDX-License-Identifier: MIT
#pragma once

// The specification: one step of an automaton, forward and backward, for one sample. Plain loops in
// any floating-point type, which skip only the cells that do not fire. The engines are tested
// against it; docs/mathematics.md derives it.
//
//   p    = perceive(x)                   p[c * 3 + k] = sum over 3x3 of filter[k] * x[.., c]
//   a    = W1 p + b1
//   h    = relu(a)
//   u    = W2 h + b2
//   z    = x + fire * step_size * u
//   life = living(z)                     with Life::pre_and_post: living(z) and living(x)
//   x'   = z * life                      living(s) = max over 3x3 of alpha > living_threshold

#include <nca/rule.hpp>
#include <nca/sizes.hpp>
#include <nca/weights.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace nca::reference {

// The state of one sample, or the gradient of one.
template <class Real>
struct SampleState {
    int height = 0;
    int width = 0;
    std::vector<Real> values;  // [height, width, channels]

    SampleState() = default;
    SampleState(int rows, int columns)
        : height(rows), width(columns), values(std::size_t(rows) * columns * channels) {}

    int cells() const { return height * width; }
    Real* cell(int index) { return values.data() + std::size_t(index) * channels; }
    const Real* cell(int index) const { return values.data() + std::size_t(index) * channels; }
};

// [height, width], 1 where the cell fires, or where it lives.
using Mask = std::vector<std::uint8_t>;

// A value for each weight, laid out as Weights::all(): the weights, their gradients or moments.
template <class Real>
struct WeightValues {
    bool output_bias;
    std::vector<Real> all;

    explicit WeightValues(bool has_output_bias)
        : output_bias(has_output_bias), all(parameter_count(has_output_bias)) {}
    explicit WeightValues(const Weights& weights)
        : output_bias(weights.has_output_bias()), all(weights.all().begin(), weights.all().end()) {}

    BasicWeightsView<Real> view() { return view_parameters(all.data(), output_bias); }
    BasicWeightsView<const Real> view() const { return view_parameters(all.data(), output_bias); }
};

// The index y * width + x of the cell at (y, x). For a place one cell outside the grid: that of the
// cell on the opposite side, or -1 with Edges::zero.
inline int cell_at(int y, int x, int height, int width, Edges edges) {
    if (edges == Edges::zero && (y < 0 || y >= height || x < 0 || x >= width)) return -1;
    return (y + height) % height * width + (x + width) % width;
}

// p of all cells, [height, width, perception].
template <class Real>
std::vector<Real> perceive(const Rule& rule, const SampleState<Real>& state) {
    std::vector<Real> perceived(std::size_t(state.cells()) * perception);
    Real* p = perceived.data();
    for (int y = 0; y < state.height; ++y) {
        for (int x = 0; x < state.width; ++x, p += perception) {
            for (int dy = -1; dy <= 1; ++dy) {
                for (int dx = -1; dx <= 1; ++dx) {
                    const int from = cell_at(y + dy, x + dx, state.height, state.width, rule.edges);
                    if (from < 0) continue;
                    for (int c = 0; c < channels; ++c) {
                        for (int k = 0; k < filter_count; ++k) {
                            const Real weight = rule.filters[k][(dy + 1) * 3 + (dx + 1)];
                            p[c * filter_count + k] += weight * state.cell(from)[c];
                        }
                    }
                }
            }
        }
    }
    return perceived;
}

// grad_state += perceive^T(grad_perceived), the transpose of perceive.
template <class Real>
void perceive_backward(const Rule& rule, const std::vector<Real>& grad_perceived,
                       SampleState<Real>& grad_state) {
    const int height = grad_state.height, width = grad_state.width;
    const Real* grad_p = grad_perceived.data();
    for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x, grad_p += perception) {
            for (int dy = -1; dy <= 1; ++dy) {
                for (int dx = -1; dx <= 1; ++dx) {
                    const int to = cell_at(y + dy, x + dx, height, width, rule.edges);
                    if (to < 0) continue;
                    for (int c = 0; c < channels; ++c) {
                        for (int k = 0; k < filter_count; ++k) {
                            const Real weight = rule.filters[k][(dy + 1) * 3 + (dx + 1)];
                            grad_state.cell(to)[c] += weight * grad_p[c * filter_count + k];
                        }
                    }
                }
            }
        }
    }
}

// What the MLP computes of the perception of one cell: a = W1 p + b1, h = relu(a), u = W2 h + b2.
template <class Real>
struct Activations {
    std::array<Real, hidden> a;
    std::array<Real, hidden> h;
    std::array<Real, channels> u;
};

template <class Real>
Activations<Real> network(const WeightValues<Real>& weights, const Real* p) {
    const auto [w1, b1, w2, b2] = weights.view();
    Activations<Real> result;
    for (int j = 0; j < hidden; ++j) {
        Real a = b1[j];
        for (int i = 0; i < perception; ++i) a += w1[j * perception + i] * p[i];
        result.a[j] = a;
        result.h[j] = a > 0 ? a : Real(0);
    }
    for (int c = 0; c < channels; ++c) {
        Real u = b2 ? b2[c] : Real(0);
        for (int j = 0; j < hidden; ++j) u += w2[c * hidden + j] * result.h[j];
        result.u[c] = u;
    }
    return result;
}

// z = x + fire * step_size * u
template <class Real>
SampleState<Real> update(const Rule& rule, const WeightValues<Real>& weights,
                         const SampleState<Real>& state, const Mask& fire) {
    const std::vector<Real> perceived = perceive(rule, state);
    SampleState<Real> z = state;
    for (int cell = 0; cell < state.cells(); ++cell) {
        if (!fire[cell]) continue;
        const auto [a, h, u] = network(weights, &perceived[std::size_t(cell) * perception]);
        for (int c = 0; c < channels; ++c) z.cell(cell)[c] += Real(rule.step_size) * u[c];
    }
    return z;
}

// living(state): where the largest alpha of the 3x3 neighbourhood is above living_threshold; beyond
// a zero edge alpha is 0.
template <class Real>
Mask living(const SampleState<Real>& state, Edges edges) {
    Mask mask(state.cells());
    for (int y = 0; y < state.height; ++y) {
        for (int x = 0; x < state.width; ++x) {
            for (int dy = -1; dy <= 1; ++dy) {
                for (int dx = -1; dx <= 1; ++dx) {
                    const int from = cell_at(y + dy, x + dx, state.height, state.width, edges);
                    if (from >= 0 && state.cell(from)[alpha_channel] > Real(living_threshold)) {
                        mask[y * state.width + x] = 1;
                    }
                }
            }
        }
    }
    return mask;
}

template <class Real>
Mask life_mask(const Rule& rule, const SampleState<Real>& state, const SampleState<Real>& z) {
    Mask life = living(z, rule.edges);
    if (rule.life == Life::pre_and_post) {
        const Mask before = living(state, rule.edges);
        for (std::size_t cell = 0; cell < life.size(); ++cell) life[cell] &= before[cell];
    }
    return life;
}

// z * life. A cell that does not live is zero even where z is not finite.
template <class Real>
SampleState<Real> masked(SampleState<Real> z, const Mask& life) {
    for (int cell = 0; cell < z.cells(); ++cell) {
        for (int c = 0; c < channels; ++c) {
            if (!life[cell]) z.cell(cell)[c] = 0;
        }
    }
    return z;
}

// What a forward step computes; next is the state after it.
template <class Real>
struct Step {
    SampleState<Real> z;
    Mask life;
    SampleState<Real> next;
};

template <class Real>
Step<Real> step_forward(const Rule& rule, const WeightValues<Real>& weights,
                        const SampleState<Real>& state, const Mask& fire) {
    SampleState<Real> z = update(rule, weights, state, fire);
    Mask life = life_mask(rule, state, z);
    SampleState<Real> next = masked(z, life);
    return {std::move(z), std::move(life), std::move(next)};
}

// The gradient of the state, from the gradient of the state after the step. Adds to the gradients
// of the weights. fire and life count as constants; the slope of ReLU at 0 is 0.
template <class Real>
SampleState<Real> step_backward(const Rule& rule, const WeightValues<Real>& weights,
                                const SampleState<Real>& state, const Mask& fire, const Mask& life,
                                const SampleState<Real>& grad_next,
                                WeightValues<Real>& grad_weights) {
    const auto [w1, b1, w2, b2] = weights.view();
    const auto [grad_w1, grad_b1, grad_w2, grad_b2] = grad_weights.view();
    const std::vector<Real> perceived = perceive(rule, state);
    std::vector<Real> grad_perceived(perceived.size());
    const SampleState<Real> grad_z = masked(grad_next, life);

    for (int cell = 0; cell < state.cells(); ++cell) {
        if (!fire[cell] || !life[cell]) continue;  // grad_u is zero
        const Real* p = &perceived[std::size_t(cell) * perception];
        const auto [a, h, u] = network(weights, p);

        std::array<Real, hidden> grad_h = {};
        for (int c = 0; c < channels; ++c) {
            const Real grad_u = Real(rule.step_size) * grad_z.cell(cell)[c];
            for (int j = 0; j < hidden; ++j) {
                grad_w2[c * hidden + j] += grad_u * h[j];
                grad_h[j] += w2[c * hidden + j] * grad_u;
            }
            if (b2) grad_b2[c] += grad_u;
        }
        Real* grad_p = &grad_perceived[std::size_t(cell) * perception];
        for (int j = 0; j < hidden; ++j) {
            const Real grad_a = a[j] > 0 ? grad_h[j] : Real(0);
            for (int i = 0; i < perception; ++i) {
                grad_w1[j * perception + i] += grad_a * p[i];
                grad_p[i] += w1[j * perception + i] * grad_a;
            }
            grad_b1[j] += grad_a;
        }
    }

    SampleState<Real> grad_state = grad_z;
    perceive_backward(rule, grad_perceived, grad_state);
    return grad_state;
}

}  // namespace nca::reference
