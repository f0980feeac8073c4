// SPDX-License-Identifier: MIT
#pragma once

// Four numbers at a time, and sums over the lanes of a warp.

#include <cuda_runtime.h>

#include "cuda/device/traits.hpp"

namespace nca::cuda {

constexpr unsigned whole_warp = 0xffffffffU;  // all lanes take part

__device__ inline float4 load4(const float* values) {
    return *reinterpret_cast<const float4*>(values);
}
__device__ inline void store4(float* values, float4 value) {
    *reinterpret_cast<float4*>(values) = value;
}

// y += a * x, one fused multiply-add for each element on a GPU.
__device__ inline void add_scaled(float4& y, float a, float4 x) {
    y.x += a * x.x;
    y.y += a * x.y;
    y.z += a * x.z;
    y.w += a * x.w;
}

// The sum over the lanes of a warp, in one order; every lane has it.
template <class T>
__device__ inline T sum_of_warp(T own) {
    for (int distance = 1; distance < Traits::warp_size; distance *= 2) {
        own += __shfl_xor_sync(whole_warp, own, distance);
    }
    return own;
}

// What this lane keeps, plus what the lane at the given distance gives.
__device__ inline float4 sum_of_halves(float4 keep, float4 give, int distance) {
    keep.x += __shfl_xor_sync(whole_warp, give.x, distance);
    keep.y += __shfl_xor_sync(whole_warp, give.y, distance);
    keep.z += __shfl_xor_sync(whole_warp, give.z, distance);
    keep.w += __shfl_xor_sync(whole_warp, give.w, distance);
    return keep;
}

__device__ inline float4 zero4() { return make_float4(0, 0, 0, 0); }

// Element i of four; i is known when the loop around it is unrolled.
__device__ inline float element(const float4& four, int i) {
    return i == 0 ? four.x : i == 1 ? four.y : i == 2 ? four.z : four.w;
}

}  // namespace nca::cuda
