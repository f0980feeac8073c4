// SPDX-License-Identifier: MIT
#pragma once

// The MLP of up to 32 gathered rows going back, in float32, by a block of eight warps:
//
//   a again, h = relu(a); grad_h = W2^T grad_u; grad_a = grad_h where a > 0
//   grad_W2 += grad_u h^T, grad_b2 += grad_u; grad_W1 += grad_a p^T, grad_b1 += grad_a
//   grad_p = W1^T grad_a
//
// Phase A, compute_hidden: a warp has 16 hidden units and computes a and grad_h of all rows.
// Phase B, sum_output_layer and sum_hidden_layer: a thread sums 24 elements of grad_W1 and 8 of
// grad_W2 over the rows, in registers for the block's life.
// Phase C, write_grad_p: a warp computes grad_p of four rows.
// h and then grad_a pass from A to B through one buffer, which keeps the block below 64 KiB.
// step_backward.cu says how the phases follow each other; barriers between them are the caller's.
// Reference: host/reference/step.hpp. Test: tests/engine_test.cpp.

#include "cuda/step/tile_backward.cuh"

namespace nca::cuda {

// What a block of step_backward_kernel holds in shared memory: a tile, and up to 32 of its rows.
struct BackwardStorage {
    BackwardTile tile;
    alignas(16) float w1[Traits::perception * Traits::hidden];  // [48, 128]
    alignas(16) float p[Traits::backward_rows * Traits::p_pitch];
    alignas(16) float grad_u[Traits::backward_rows * Traits::grad_u_pitch];
    // h, then grad_a
    alignas(16) float rows_by_hidden[Traits::backward_rows * Traits::hidden_pitch];
    alignas(16) float shared_grad_u[Traits::channels];  // of the row that has no cell of its own
};

// A thread's own part of the block's weight gradients. Hidden units run along a quad, so that
// [48, 128] and [16, 128] are written in pieces of 16 bytes.
struct WeightSums {
    float4 w1[6];  // perception k(0) .. k(5) of SumPlace
    float4 w2[2];  // channels 2 * column, 2 * column + 1
    float4 b1;     // of phase A's hidden units
    float b2[2];   // of channels 2 * column, 2 * column + 1
};

// Where a thread stands in phase B: 32 groups of four hidden units times 8 columns.
struct SumPlace {
    int hidden;  // first of four
    int column;  // 0 .. 7

    // The i-th of the column's six perceptions: four that are 16 bytes, and two that are 8.
    __device__ int k(int i) const { return i < 4 ? column * 4 + i : 32 + column * 2 + i - 4; }
};

__device__ inline SumPlace sum_place(int thread) {
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    return {((warp & 3) * 8 + (lane & 7)) * 4, (warp >> 2) * 4 + (lane >> 3)};
}

__device__ inline void load_w1(BackwardStorage& shared, const PackedModel& model, int thread) {
    for (int i = thread; i < Traits::perception * Traits::hidden / 4; i += Traits::threads) {
        copy_async(shared.w1 + i * 4, model.forward.w1 + i * 4);
    }
}

// Phase A: 16 hidden units by so many groups of eight rows. A lane has rows lane % 8 + 8 r and four
// hidden units.
template <int groups>
struct HiddenTile {
    float4 a[groups];       // [row], then h
    float4 grad_h[groups];  // [row], then grad_a
};

template <int groups>
__device__ inline HiddenTile<groups> compute_hidden(const BackwardStorage& shared,
                                                    const PackedModel& model, int warp, int lane) {
    const int row = lane & 7, hidden = warp * 16 + (lane >> 3) * 4;
    HiddenTile<groups> tile;
#pragma unroll
    for (int r = 0; r < groups; ++r) {
        tile.a[r] = load4(model.forward.b1 + hidden);
        tile.grad_h[r] = zero4();
    }
#pragma unroll 1
    for (int k = 0; k < Traits::perception; k += 4) {
        float4 p[groups];
#pragma unroll
        for (int r = 0; r < groups; ++r)
            p[r] = load4(shared.p + (row + 8 * r) * Traits::p_pitch + k);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float4 w1 = load4(shared.w1 + (k + i) * Traits::hidden + hidden);
#pragma unroll
            for (int r = 0; r < groups; ++r) add_scaled(tile.a[r], element(p[r], i), w1);
        }
    }
#pragma unroll
    for (int c = 0; c < Traits::channels; c += 4) {
        float4 grad_u[groups];
#pragma unroll
        for (int r = 0; r < groups; ++r) {
            grad_u[r] = load4(shared.grad_u + (row + 8 * r) * Traits::grad_u_pitch + c);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float4 w2 = load4(model.w2 + (c + i) * Traits::hidden + hidden);
#pragma unroll
            for (int r = 0; r < groups; ++r) add_scaled(tile.grad_h[r], element(grad_u[r], i), w2);
        }
    }
    // A hidden unit that is off passes nothing on, forward or back.
    const auto switch_off = [](float& a, float& grad_h) {
        const bool on = a > 0;
        a = on ? a : 0.0F;
        grad_h = on ? grad_h : 0.0F;
    };
#pragma unroll
    for (int r = 0; r < groups; ++r) {
        switch_off(tile.a[r].x, tile.grad_h[r].x);
        switch_off(tile.a[r].y, tile.grad_h[r].y);
        switch_off(tile.a[r].z, tile.grad_h[r].z);
        switch_off(tile.a[r].w, tile.grad_h[r].w);
    }
    return tile;
}

template <int groups>
__device__ inline void store_hidden(BackwardStorage& shared, const float4 (&values)[groups],
                                    int warp, int lane) {
    const int row = lane & 7, hidden = warp * 16 + (lane >> 3) * 4;
#pragma unroll
    for (int r = 0; r < groups; ++r) {
        store4(shared.rows_by_hidden + (row + 8 * r) * Traits::hidden_pitch + hidden, values[r]);
    }
}

// Phase B, first half: grad_W2 and grad_b2 while the buffer holds h.
__device__ inline void sum_output_layer(WeightSums& sums, const BackwardStorage& shared,
                                        const SumPlace& place, int count) {
#pragma unroll 4
    for (int row = 0; row < count; ++row) {
        const float4 h = load4(shared.rows_by_hidden + row * Traits::hidden_pitch + place.hidden);
        const float* grad_u = shared.grad_u + row * Traits::grad_u_pitch + place.column * 2;
        const float2 both = *reinterpret_cast<const float2*>(grad_u);
        add_scaled(sums.w2[0], both.x, h);
        add_scaled(sums.w2[1], both.y, h);
        sums.b2[0] += both.x;
        sums.b2[1] += both.y;
    }
}

// Second half: grad_W1 while it holds grad_a.
__device__ inline void sum_hidden_layer(WeightSums& sums, const BackwardStorage& shared,
                                        const SumPlace& place, int count) {
#pragma unroll 4
    for (int row = 0; row < count; ++row) {
        const float4 grad_a =
            load4(shared.rows_by_hidden + row * Traits::hidden_pitch + place.hidden);
        const float* p = shared.p + row * Traits::p_pitch;
        const float4 four = load4(p + place.k(0));
        const float2 two = *reinterpret_cast<const float2*>(p + place.k(4));
        add_scaled(sums.w1[0], four.x, grad_a);
        add_scaled(sums.w1[1], four.y, grad_a);
        add_scaled(sums.w1[2], four.z, grad_a);
        add_scaled(sums.w1[3], four.w, grad_a);
        add_scaled(sums.w1[4], two.x, grad_a);
        add_scaled(sums.w1[5], two.y, grad_a);
    }
}

// Adds up the sums of eight lanes: lanes that differ in `high` share out rows {0, 1} and {2, 3}, in
// `middle` the two rows, in `low` the first and the second six perceptions.
__device__ inline void share_out(float (&six)[6], const float (&sums)[4][12], bool high,
                                 bool middle, bool low) {
    float pair[2][12], single[12];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int k = 0; k < 12; ++k) {
            const float keep = high ? sums[2 + r][k] : sums[r][k];
            const float give = high ? sums[r][k] : sums[2 + r][k];
            pair[r][k] = keep + __shfl_xor_sync(whole_warp, give, 4);
        }
    }
#pragma unroll
    for (int k = 0; k < 12; ++k) {
        const float keep = middle ? pair[1][k] : pair[0][k];
        const float give = middle ? pair[0][k] : pair[1][k];
        single[k] = keep + __shfl_xor_sync(whole_warp, give, 2);
    }
#pragma unroll
    for (int k = 0; k < 6; ++k) {
        const float keep = low ? single[6 + k] : single[k];
        const float give = low ? single[k] : single[6 + k];
        six[k] = keep + __shfl_xor_sync(whole_warp, give, 1);
    }
}

// Phase C: grad_p of four rows by one warp. A lane sums every eighth group of four hidden units
// for four rows by twelve perceptions; three exchanges leave it six sums of one row.
__device__ inline void write_grad_p(const BackwardStorage& shared, const StepBackwardArgs& args,
                                    int first, int thread) {
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    const int start = warp * 4;
    if (first + start >= shared.tile.rows) return;
    const int slice = lane & 7, block = lane >> 3;
    float sums[4][12] = {};
#pragma unroll 1
    for (int hidden = slice * 4; hidden < Traits::hidden; hidden += 32) {
        float4 grad_a[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            grad_a[r] = load4(shared.rows_by_hidden + (start + r) * Traits::hidden_pitch + hidden);
        }
#pragma unroll
        for (int k = 0; k < 12; ++k) {
            const float4 w1 = load4(shared.w1 + (block * 12 + k) * Traits::hidden + hidden);
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                sums[r][k] += grad_a[r].x * w1.x;
                sums[r][k] += grad_a[r].y * w1.y;
                sums[r][k] += grad_a[r].z * w1.z;
                sums[r][k] += grad_a[r].w * w1.w;
            }
        }
    }
    const bool high = slice & 4, middle = slice & 2, low = slice & 1;
    float six[6];
    share_out(six, sums, high, middle, low);
    const int row = first + start + (high ? 2 : 0) + (middle ? 1 : 0);
    if (row >= shared.tile.rows) return;  // the shared row, or none
    const std::size_t cell = first_cell(args.grid, shared.tile.place) +
                             own_cell(args.grid, shared.tile.place, shared.tile.cells[row]);
    float* to = args.grad_p_out + cell * Traits::perception + block * 12 + (low ? 6 : 0);
#pragma unroll
    for (int k = 0; k < 6; k += 2) {
        *reinterpret_cast<float2*>(to + k) = make_float2(six[k], six[k + 1]);
    }
}

// Adds the threads' sums to the block's, or overwrites those. All reads are under way together.
__device__ inline void write_sums(PartialGradients& partial, const WeightSums& sums, bool overwrite,
                                  int thread) {
    const int warp = thread / Traits::warp_size, lane = thread % Traits::warp_size;
    const SumPlace place = sum_place(thread);
    float* const w1 = partial.w1 + place.hidden;
    float* const w2 = partial.w2 + place.column * 2 * Traits::hidden + place.hidden;
    float* const b1 = partial.b1 + warp * 16 + (lane >> 3) * 4;
    float* const b2 = partial.b2 + place.column * 2;
    // One lane of those that have summed a hidden unit, one thread of those that have a channel.
    const bool has_b1 = (lane & 7) == 0, has_b2 = place.hidden == 0;
    WeightSums before = {};
    if (!overwrite) {
#pragma unroll
        for (int i = 0; i < 6; ++i) before.w1[i] = load4(w1 + place.k(i) * Traits::hidden);
#pragma unroll
        for (int i = 0; i < 2; ++i) before.w2[i] = load4(w2 + i * Traits::hidden);
        if (has_b1) before.b1 = load4(b1);
        if (has_b2) before.b2[0] = b2[0], before.b2[1] = b2[1];
    }
    const auto store_sum = [&](float* to, float4 sum, float4 of_before) {
        if (!overwrite) add_scaled(sum, 1, of_before);
        store4(to, sum);
    };
#pragma unroll
    for (int i = 0; i < 6; ++i) {
        store_sum(w1 + place.k(i) * Traits::hidden, sums.w1[i], before.w1[i]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        store_sum(w2 + i * Traits::hidden, sums.w2[i], before.w2[i]);
        if (has_b2) b2[i] = overwrite ? sums.b2[i] : before.b2[i] + sums.b2[i];
    }
    // Eight lanes have summed different rows of the same four hidden units.
    float4 own = sums.b1;
#pragma unroll
    for (int distance = 1; distance < 8; distance *= 2) own = sum_of_halves(own, own, distance);
    if (has_b1) store_sum(b1, own, before.b1);
}

}  // namespace nca::cuda
