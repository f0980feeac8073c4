// SPDX-License-Identifier: MIT
#pragma once

#include <nca/rule.hpp>
#include <nca/weights.hpp>

#include <array>
#include <cstdint>
#include <string>

#include "host/core/grid.hpp"

// The arithmetic of the CPU engine. Highway compiles it once for each instruction set and chooses
// one at run time. Matrices have a row for each gathered cell and are aligned to 64 bytes; grids
// need no alignment.
namespace nca::cpu {

// Rows are computed in tiles of this many rows; `rows` of the functions below is a multiple of it.
inline constexpr int row_tile = 6;
// How many rows are gathered at once: p, h and grad_h of a chunk stay in the second-level cache.
inline constexpr int chunk_rows = 96;
static_assert(chunk_rows % row_tile == 0);

constexpr int padded_rows(int rows) { return (rows + row_tile - 1) / row_tile * row_tile; }

// The weights in the layouts of the matrix products. In this engine a row of p has index
// k * channels + c, so that the 16 channels of a filter are one vector; in files and in the public
// interface it has c * filter_count + k.
struct alignas(64) PackedWeights {
    float w1_t[perception * hidden];  // [perception, hidden]
    float w1[hidden * perception];    // [hidden, perception]
    float w2_t[hidden * channels];    // [hidden, channels]
    float w2[channels * hidden];      // [channels, hidden]
    float b1[hidden];
    float b2[channels];  // zero where the automaton has none
};
void pack(PackedWeights& packed, ConstWeightsView weights);

// The gradients of the weights, with p in the same order.
struct alignas(64) PackedGradients {
    float w1_t[perception * hidden];  // [perception, hidden]
    float w2_t[hidden * channels];    // [hidden, channels]
    float b1[hidden];
    float b2[channels];
};
// grad_weights = packed or, with accumulate, grad_weights += packed; in the public layout.
void unpack(WeightsView grad_weights, const PackedGradients& packed, bool accumulate);
// sum += term
void add(PackedGradients& sum, const PackedGradients& term);

// What perceive and perceive_adjoint need of a rule.
struct Stencil {
    std::array<Filter, filter_count> filters;
    Edges edges;
};

// p[r] = perceive(grid)(cells[r]); grid [height, width, channels], p [count, perception].
void perceive(float* p, const Stencil& stencil, const float* grid, int height, int width,
              const Place* cells, int count);

// z[cells[r]] = x[cells[r]] + step_size * u[r]; grids [., width, channels], u [count, channels].
void apply_update(float* z, const float* x, const float* u, float step_size, int width,
                  const Place* cells, int count);

// grad_u[r] = step_size * grad_state[cells[r]].
void gather_gradient(float* grad_u, const float* grad_state, float step_size, int width,
                     const Place* cells, int count);

// grad_state += perceive^T(grad_p), only in rows top .. bottom - 1 of the grid. The rows of grad_p
// [count, perception] are added in their order, so that sums have the same bits in every run.
void perceive_adjoint(float* grad_state, const Stencil& stencil, const float* grad_p, int height,
                      int width, int top, int bottom, const Place* cells, int count);

// h = relu(p W1^T + b1), u = h W2^T + b2; p [rows, perception], h [rows, hidden], u [rows,
// channels]. Overwrites h and u. 16,384 operations for each row.
void mlp_forward(float* u, float* h, const PackedWeights& weights, const float* p, int rows);

// Computes h again, adds to gradients, and overwrites grad_p [rows, perception] and the scratch h
// and grad_h [rows, hidden]. grad_u is [rows, channels]. 45,056 operations for each row.
void mlp_backward(float* grad_p, PackedGradients& gradients, float* h, float* grad_h,
                  const PackedWeights& weights, const float* p, const float* grad_u, int rows);

// The measured peak of one core in operations per second: runs independent multiply-adds for about
// that many milliseconds.
double measure_peak(double milliseconds);

// The instruction set in use: "AVX-512", "AVX2", ...
std::string instruction_set();

}  // namespace nca::cpu
