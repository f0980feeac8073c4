// SPDX-License-Identifier: MIT
#pragma once

// Perception of gathered rows, and its adjoint. docs/mathematics.md; host/reference/step.hpp.

#include "cuda/rule/grid.cuh"

namespace nca::cuda {

// Four channels of one cell's perception.
struct CellPerception {
    float4 filters[filter_count];
};

// cell is the cell's state [channels] in [halo_cells, channels] in shared memory, or null, which
// makes the perception zero. plain: of filters with plain_taps only, which costs less than half.
template <bool plain>
__device__ inline CellPerception perceived(const float* cell, const StepRule& rule, int quad) {
    CellPerception p = {{zero4(), zero4(), zero4()}};
    if (cell == nullptr) return p;
#pragma unroll
    for (int i = 0; i < 9; ++i) {
        const int offset = (i / 3 - 1) * Traits::halo_width + i % 3 - 1;
        const float4 x = load4(cell + offset * Traits::channels + quad * 4);
#pragma unroll
        for (int k = 0; k < filter_count; ++k) {
            if (plain && !is_plain_tap(k, i)) continue;
            add_scaled(p.filters[k], rule.filters[k][i], x);
        }
    }
    return p;
}

// The same into p [perception] in shared memory; its index is filter * channels + channel.
__device__ inline void perceive_cell(float* p, const float* cell, const StepRule& rule, int quad) {
    const CellPerception own = perceived<false>(cell, rule, quad);
#pragma unroll
    for (int k = 0; k < filter_count; ++k) {
        store4(p + k * Traits::channels + quad * 4, own.filters[k]);
    }
}

// Eight rows by one warp: four lanes a row, four channels a lane. p is [8, p_pitch] in shared
// memory; cells [count] are own cells of the tile; rows from count on become zero.
__device__ inline void perceive_rows(float* p, const float* states, const std::uint8_t* cells,
                                     int count, const StepRule& rule, int lane) {
    const int row = lane / Traits::quads;
    const float* cell = row < count ? states + halo_of_own(cells[row]) * Traits::channels : nullptr;
    perceive_cell(p + row * Traits::p_pitch, cell, rule, lane % Traits::quads);
}

// What the cells around one cell send back to four of its channels: the sum over the 3x3 of
// filter[k](d) * grad_p(cell - d). neighbour(i) is the index of the cell at minus the offset of
// filter tap i, or -1 where that cell has no row. grad_p is [cells, perception] of the sample, in
// the kernels' order. Taps whose three coefficients are zero are not read.
template <class Neighbour>
__device__ inline float4 perceive_adjoint(const float* grad_p, const StepRule& rule, int quad,
                                          Neighbour neighbour) {
    float4 sum = zero4();
    // A line of three taps at a time, all its loads before the first use, so that they are under
    // way together.
#pragma unroll
    for (int line = 0; line < 9; line += 3) {
        float4 grads[3][filter_count];
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            const int cell = neighbour(line + i);
            const float* row =
                grad_p + std::size_t(cell < 0 ? 0 : cell) * Traits::perception + quad * 4;
#pragma unroll
            for (int k = 0; k < filter_count; ++k) {
                const bool wanted = cell >= 0 && rule.filters[k][line + i] != 0;
                grads[i][k] = wanted ? load4(row + k * Traits::channels) : zero4();
            }
        }
#pragma unroll
        for (int i = 0; i < 3; ++i) {
#pragma unroll
            for (int k = 0; k < filter_count; ++k) {
                add_scaled(sum, rule.filters[k][line + i], grads[i][k]);
            }
        }
    }
    return sum;
}

}  // namespace nca::cuda
