// SPDX-License-Identifier: MIT
#pragma once

// Stands in for cuda/device/device.cuh where the kernels are compiled as C++ and run on a CPU. It
// has the same functions with the same signatures; some also take the place that calls them, for
// messages.

#include <cuda_runtime.h>
#include <executor.hpp>
#include <matrix.hpp>
#include <memory.hpp>

#include <cstddef>
#include <cstdint>

#include "cuda/device/device_types.hpp"
#include "cuda/device/traits.hpp"
#include "cuda/device/vectors.cuh"

namespace nca::cuda {

template <class Storage, std::size_t most_bytes = Traits::shared_bytes>
Storage& shared_storage() {
    static_assert(sizeof(Storage) <= most_bytes);
    return *static_cast<Storage*>(executor::shared_arena());
}

// From the arena's beginning.
inline unsigned opaque_shared_address(const void* shared) {
    return static_cast<unsigned>(static_cast<const unsigned char*>(shared) -
                                 static_cast<unsigned char*>(executor::shared_arena()));
}
template <class T>
T& at_shared_address(unsigned address) {
    return *reinterpret_cast<T*>(static_cast<unsigned char*>(executor::shared_arena()) + address);
}

template <class T>
T opaque(T value) {
    return value;
}

inline std::uint32_t load_byte(const std::uint8_t* global) { return *global; }
inline void store_byte(std::uint8_t* global, std::uint32_t value) {
    *global = static_cast<std::uint8_t>(value);
}
inline float4 load4_if(std::uint32_t wanted, const float* global) {
    return wanted != 0 ? load4(global) : zero4();
}
inline void store4_if(std::uint32_t wanted, float* global, float4 value) {
    if (wanted != 0) store4(global, value);
}

inline void copy_async(float* shared, const float* global) { executor::defer_copy(shared, global); }
inline void wait_for_copies() { executor::finish_copies(); }
inline void end_copy_group() { executor::end_copy_group(); }
inline void wait_for_older_copies() { executor::finish_older_copies(); }
inline void prefetch(const float*) {}

// Kernels follow each other as always.
inline void let_dependents_start() {}
inline void wait_for_predecessor() {}

inline void release_flag(std::uint32_t* flag, std::uint32_t value) {
    executor::release_flag(flag, value);
}
inline std::uint32_t acquire_flag(const std::uint32_t* flag, const char* file = __builtin_FILE(),
                                  int line = __builtin_LINE()) {
    return executor::acquire_flag(flag, {"acquire_flag", file, line});
}

inline unsigned cluster_rank() { return executor::cluster_rank(); }
inline unsigned cluster_blocks() { return executor::cluster_blocks(); }
inline void cluster_barrier(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    executor::cluster_barrier({"cluster_barrier", file, line});
}

inline void init_arrival_barrier(ArrivalBarrier& barrier, unsigned arrivals) {
    executor::init_arrivals(&barrier, arrivals);
}
inline void expect_bytes(ArrivalBarrier& barrier, unsigned bytes) {
    executor::expect_bytes(&barrier, bytes);
}
inline void wait_arrivals(ArrivalBarrier& barrier, unsigned parity,
                          const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    executor::wait_arrivals(&barrier, parity, {"wait_arrivals", file, line});
}

inline void store_async(float* shared, float4 value, ArrivalBarrier& barrier, unsigned rank) {
    executor::store_async(shared, &value, sizeof value, &barrier, rank);
}
inline void store_async(float* shared, float2 value, ArrivalBarrier& barrier, unsigned rank) {
    executor::store_async(shared, &value, sizeof value, &barrier, rank);
}

inline void bulk_load(void* shared, const void* global, unsigned bytes, ArrivalBarrier& barrier) {
    executor::bulk_load(shared, global, bytes, &barrier);
}
inline void bulk_store(void* global, const void* shared, unsigned bytes) {
    executor::bulk_store(global, shared, bytes);
}
inline void wait_bulk_reads() { executor::wait_bulk_reads(); }
inline void wait_bulk_stores() { executor::wait_bulk_stores(); }
inline void fence_async_proxy() { executor::fence_async_proxy(); }

inline std::uint32_t sum_over_warp(std::uint32_t own) {
    executor::trap_before(80, "a reduction over a warp");
    return __reduce_add_sync(0xffffffffU, own);
}
inline std::uint32_t largest_over_warp(std::uint32_t own) {
    executor::trap_before(80, "a reduction over a warp");
    return __reduce_max_sync(0xffffffffU, own);
}
inline std::uint32_t any_bits_over_warp(std::uint32_t own) {
    executor::trap_before(80, "a reduction over a warp");
    return __reduce_or_sync(0xffffffffU, own);
}

inline std::uint32_t rounded_to_fp16(float low, float high) {
    executor::trap_before(80, "rounded_to_fp16");
    return executor::rounded_to_fp16(low, high);
}
inline std::uint32_t relu_rounded_to_fp16(float low, float high) {
    executor::trap_before(80, "relu_rounded_to_fp16");
    return executor::rounded_to_fp16(executor::relu(low), executor::relu(high));
}
inline std::uint32_t relu_cut_to_fp16(float low, float high) {
    executor::trap_before(80, "relu_cut_to_fp16");
    return executor::cut_to_fp16(executor::relu(low), executor::relu(high));
}

inline std::uint32_t add_pairs(std::uint32_t a, std::uint32_t b) {
    return executor::pairs_of(a, b, 0, [](double x, double y, double) { return x + y; });
}
inline std::uint32_t subtract_pairs(std::uint32_t a, std::uint32_t b) {
    return executor::pairs_of(a, b, 0, [](double x, double y, double) { return x - y; });
}
inline std::uint32_t multiply_pairs(std::uint32_t a, std::uint32_t b) {
    return executor::pairs_of(a, b, 0, [](double x, double y, double) { return x * y; });
}
inline std::uint32_t multiply_add_pairs(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
    return executor::pairs_of(a, b, c, [](double x, double y, double z) { return x * y + z; });
}
inline float2 halves(std::uint32_t bits) {
    return {executor::float_of_fp16(bits & 0xffffU), executor::float_of_fp16(bits >> 16)};
}

inline void load_matrices(std::uint32_t (&to)[4], const void* row,
                          const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    executor::load_matrices(to, row, {"load_matrices", file, line});
}
inline void load_matrices_transposed(std::uint32_t (&to)[4], const void* row,
                                     const char* file = __builtin_FILE(),
                                     int line = __builtin_LINE()) {
    executor::load_matrices_transposed(to, row, {"load_matrices_transposed", file, line});
}
inline void store_matrices_transposed(void* row, const std::uint32_t (&from)[4],
                                      const char* file = __builtin_FILE(),
                                      int line = __builtin_LINE()) {
    executor::store_matrices_transposed(row, from, {"store_matrices_transposed", file, line});
}

inline void mma_fp16(Accumulator& c, const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                     const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    executor::mma_fp16(c.sums, a, b, {"mma_fp16", file, line});
}
inline Accumulator mma_fp16_from(const Accumulator& from, const std::uint32_t (&a)[4],
                                 const std::uint32_t (&b)[2], const char* file = __builtin_FILE(),
                                 int line = __builtin_LINE()) {
    Accumulator c = from;
    executor::mma_fp16(c.sums, a, b, {"mma_fp16_from", file, line});
    return c;
}

}  // namespace nca::cuda
