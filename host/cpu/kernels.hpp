// SPDX-License-Identifier: MIT
#pragma once

#include <nca/weights.hpp>
#include <nca/rule.hpp>

#include <array>
#include <cstdint>
#include <string>

// The arithmetic of the CPU engine, compiled once per instruction set and chosen at run time
// (Highway). Works on rows: the cells that matter, gathered into dense matrices. Matrices of rows
// are aligned to 64 bytes; grids may lie anywhere.
namespace nca::cpu {

// Rows are computed in tiles of so many; every count of rows passed below is a multiple of it.
inline constexpr int row_tile = 6;
// Rows gathered at once: P, H and grad_H of a chunk stay in the second-level cache.
inline constexpr int chunk_rows = 96;
static_assert(chunk_rows % row_tile == 0);

constexpr int padded_rows(int rows) { return (rows + row_tile - 1) / row_tile * row_tile; }

// Inside the engine a row of perception is filter-major, p[k * channels + c], so that a filter's
// sixteen channels are one vector. Files and the public interface have p[c * filter_count + k].
struct alignas(64) PackedWeights {
    float w1_t[perception * hidden];  // [perception, hidden]
    float w1[hidden * perception];    // [hidden, perception]
    float w2_t[hidden * channels];    // [hidden, channels]
    float w2[channels * hidden];      // [channels, hidden]
    float b1[hidden];
    float b2[channels];  // zero where the automaton has none
};
void pack(PackedWeights& packed, ConstWeightsView weights);

struct alignas(64) PackedGradients {
    float w1_t[perception * hidden];  // [perception, hidden]
    float w2_t[hidden * channels];    // [hidden, channels]
    float b1[hidden];
    float b2[channels];
};
// grad_weights (+)= packed, back in the public layout.
void unpack(WeightsView grad_weights, const PackedGradients& packed, bool accumulate);
// sum += term
void add(PackedGradients& sum, const PackedGradients& term);

// What perception needs of a rule.
struct Stencil {
    std::array<Filter, filter_count> filters;
    Edges edges;
};

// The place of a cell in its grid.
struct Place {
    std::int32_t y;
    std::int32_t x;
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

// grad_state += perceive^T(grad_p), for target rows top .. bottom - 1 only. Adds in the order of
// cells, so that each target cell sees a fixed order of sums.
void perceive_adjoint(float* grad_state, const Stencil& stencil, const float* grad_p, int height,
                      int width, int top, int bottom, const Place* cells, int count);

// h = relu(p W1^T + b1), u = h W2^T + b2; p [rows, perception], h [rows, hidden], u [rows,
// channels]. 16,384 operations a row.
void mlp_forward(float* u, float* h, const PackedWeights& weights, const float* p, int rows);

// Computes h again, then adds to gradients and overwrites grad_p [rows, perception] and the scratch
// h and grad_h [rows, hidden]. 45,056 operations a row.
void mlp_backward(float* grad_p, PackedGradients& gradients, float* h, float* grad_h,
                  const PackedWeights& weights, const float* p, const float* grad_u, int rows);

// Runs independent multiply-adds for about so many milliseconds and returns the rate in
// operations a second: the measured peak of one core.
double measure_peak(double milliseconds);

// "AVX-512", "AVX2", ...: the instruction set in use.
std::string instruction_set();

}  // namespace nca::cpu
