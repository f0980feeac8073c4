// SPDX-License-Identifier: MIT
#pragma once

// What CUDA has and C++ lacks, each behind one small function. The tests compile the kernels as
// C++ against a cuda_runtime.h of their own (tests/support/executor), which defines
// NCA_CUDA_EXECUTOR: there every function has a body that does the same on the host.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "cuda/traits.hpp"

#ifdef NCA_CUDA_EXECUTOR
#include <matrix.hpp>
#endif

namespace nca::cuda {

// The block's dynamic shared memory. Its contents are undefined at first.
template <class Storage, std::size_t most_bytes = Traits::shared_bytes>
__device__ inline Storage& shared_storage() {
    static_assert(sizeof(Storage) <= most_bytes);
#ifdef NCA_CUDA_EXECUTOR
    return *static_cast<Storage*>(executor::shared_arena());
#else
    extern __shared__ __align__(128) unsigned char arena[];
    return *reinterpret_cast<Storage*>(arena);
#endif
}

// Starts a copy of 16 bytes from global to shared memory; it is done, for the thread that started
// it, after wait_for_copies, and for the block after a barrier behind that.
__device__ inline void copy_async(float* shared, const float* global) {
#if defined(NCA_CUDA_EXECUTOR)
    executor::defer_copy(shared, global, sizeof(float4));
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    const auto address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global)
                 : "memory");
#else
    *reinterpret_cast<float4*>(shared) = *reinterpret_cast<const float4*>(global);
#endif
}

__device__ inline void wait_for_copies() {
#if defined(NCA_CUDA_EXECUTOR)
    executor::finish_copies();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Programmatic dependent launch (compute capability 9.0 and later): a kernel that was launched as
// the dependent of another may begin while that one still runs, and waits here until all that it
// wrote can be read. Everywhere else kernels follow each other as always.
__device__ inline void let_dependents_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ inline void wait_for_predecessor() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// A word in global memory by which the blocks of one launch tell each other how far they are. What
// a thread wrote before release_flag, and what other threads of its block wrote before a barrier in
// front of it, can be read by whoever has seen the value with acquire_flag, and by its block after
// a barrier behind that.
__device__ inline void release_flag(std::uint32_t* flag, std::uint32_t value) {
#ifdef NCA_CUDA_EXECUTOR
    executor::release_flag(flag, value);
#else
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
#endif
}

// Reads once; who waits for a value calls it in a loop. The last two arguments are the place that
// calls it, for the executor's messages, here and below.
__device__ inline std::uint32_t acquire_flag(const std::uint32_t* flag,
                                             [[maybe_unused]] const char* file = __builtin_FILE(),
                                             [[maybe_unused]] int line = __builtin_LINE()) {
#ifdef NCA_CUDA_EXECUTOR
    return executor::acquire_flag(flag, {"acquire_flag", file, line});
#else
    std::uint32_t value = 0;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
    return value;
#endif
}

// Waits until a count that goes on and on, round 2^32 too, has come to a value. One that never
// comes would be a mistake: after some 2^26 reads, the better part of a minute, the launch fails.
__device__ inline void wait_for_count(const std::uint32_t* count, std::uint32_t value,
                                      [[maybe_unused]] const char* file = __builtin_FILE(),
                                      [[maybe_unused]] int line = __builtin_LINE()) {
    std::uint32_t reads = 0;
    while (static_cast<std::int32_t>(acquire_flag(count, file, line) - value) < 0) {
        if (++reads == 1U << 26) __trap();
    }
}

// Clusters (compute capability 9.0 and later; elsewhere these functions must not be called): blocks
// that run at the same time and write into each other's shared memory.

// Of this block in its cluster.
__device__ inline unsigned cluster_rank() {
#if defined(NCA_CUDA_EXECUTOR)
    return executor::cluster_rank();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    unsigned rank = 0;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
#else
    __trap();
    return 0;
#endif
}

__device__ inline unsigned cluster_blocks() {
#if defined(NCA_CUDA_EXECUTOR)
    return executor::cluster_blocks();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    unsigned blocks = 0;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
    return blocks;
#else
    __trap();
    return 0;
#endif
}

// Waits for all threads of all blocks of the cluster.
__device__ inline void cluster_barrier([[maybe_unused]] const char* file = __builtin_FILE(),
                                       [[maybe_unused]] int line = __builtin_LINE()) {
#if defined(NCA_CUDA_EXECUTOR)
    executor::cluster_barrier({"cluster_barrier", file, line});
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#else
    __trap();
#endif
}

// Lies in shared memory (an mbarrier). It goes through phases of alternating parity, the first one
// 0; a phase is complete when as many threads have arrived as it was made for and all bytes are
// there that these expect.
struct alignas(8) ArrivalBarrier {
    std::uint64_t word;
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ inline unsigned shared_address(const void* shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// Where the same lies in the shared memory of another block of the cluster.
__device__ inline unsigned shared_address(const void* shared, unsigned rank) {
    unsigned address = 0;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                 : "=r"(address)
                 : "r"(shared_address(shared)), "r"(rank));
    return address;
}
#endif

// For one thread; cluster_barrier must follow before anybody uses it.
__device__ inline void init_arrival_barrier(ArrivalBarrier& barrier, unsigned arrivals) {
#if defined(NCA_CUDA_EXECUTOR)
    executor::init_arrivals(&barrier, arrivals);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)),
                 "r"(arrivals)
                 : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#else
    __trap();
#endif
}

// Arrives at the block's own barrier, and lets its phase wait for so many bytes more.
__device__ inline void expect_bytes(ArrivalBarrier& barrier, unsigned bytes) {
#if defined(NCA_CUDA_EXECUTOR)
    executor::expect_bytes(&barrier, bytes);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(
                     shared_address(&barrier)),
                 "r"(bytes)
                 : "memory");
#else
    __trap();
#endif
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
// Whether the phase of that parity is complete; may wait a while for it.
__device__ inline bool has_arrived(ArrivalBarrier& barrier, unsigned parity) {
    unsigned complete = 0;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.b32 %0, 1, 0, p;\n"
        "}"
        : "=r"(complete)
        : "r"(shared_address(&barrier)), "r"(parity)
        : "memory");
    return complete != 0;
}

// Of a clock that goes on while a block waits.
__device__ inline unsigned long long nanoseconds() {
    unsigned long long time = 0;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time));
    return time;
}
#endif

// Waits until the phase of that parity is complete; all that was stored into this block's shared
// memory and reported to it can then be read. One that never completes would be a mistake: after a
// minute the launch fails.
__device__ inline void wait_arrivals(ArrivalBarrier& barrier, unsigned parity,
                                     [[maybe_unused]] const char* file = __builtin_FILE(),
                                     [[maybe_unused]] int line = __builtin_LINE()) {
#if defined(NCA_CUDA_EXECUTOR)
    executor::wait_arrivals(&barrier, parity, {"wait_arrivals", file, line});
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if (has_arrived(barrier, parity)) return;
    constexpr unsigned long long most_nanoseconds = 60'000'000'000;
    const unsigned long long since = nanoseconds();
    while (!has_arrived(barrier, parity)) {
        if (nanoseconds() - since > most_nanoseconds) __trap();
    }
#else
    __trap();
#endif
}

// Writes to where `shared` lies in the shared memory of the cluster's block `rank`, and reports the
// bytes to that block's `barrier` when they are there. That block must not end before.
__device__ inline void store_async(float* shared, float4 value, ArrivalBarrier& barrier,
                                   unsigned rank) {
#if defined(NCA_CUDA_EXECUTOR)
    executor::store_async(shared, &value, sizeof value, &barrier, rank);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, "
        "[%5];" ::"r"(shared_address(shared, rank)),
        "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w), "r"(shared_address(&barrier, rank))
        : "memory");
#else
    __trap();
#endif
}

__device__ inline void store_async(float* shared, float value, ArrivalBarrier& barrier,
                                   unsigned rank) {
#if defined(NCA_CUDA_EXECUTOR)
    executor::store_async(shared, &value, sizeof value, &barrier, rank);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(
            shared_address(shared, rank)),
        "f"(value), "r"(shared_address(&barrier, rank))
        : "memory");
#else
    __trap();
#endif
}

// The value, of which the compiler cannot tell that it is the one of before: what is computed from
// it in a loop stays there, instead of in registers around the loop.
__device__ inline float not_known_before(float value) {
#ifdef __CUDA_ARCH__
    asm volatile("" : "+f"(value));
#endif
    return value;
}

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
        own += __shfl_xor_sync(0xffffffffU, own, distance);
    }
    return own;
}

__device__ inline float4 zero4() { return make_float4(0, 0, 0, 0); }

// Element i of four; i is known when the loop around it is unrolled.
__device__ inline float element(const float4& four, int i) {
    return i == 0 ? four.x : i == 1 ? four.y : i == 2 ? four.z : four.w;
}

}  // namespace nca::cuda
