// SPDX-License-Identifier: MIT
#pragma once

// What CUDA has and C++ lacks, each behind one small function. This is the only file with PTX.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "cuda/device/device_types.hpp"
#include "cuda/device/traits.hpp"
#include "cuda/device/vectors.cuh"

namespace nca::cuda {

// The compute capability that this code is compiled for: 90 for 9.0. Older code lacks what newer
// devices brought.
#ifdef __CUDA_ARCH__
inline constexpr int code_here = __CUDA_ARCH__ / 10;
#else
inline constexpr int code_here = 0;
#endif

// The block's dynamic shared memory. Its contents are undefined at first.
template <class Storage, std::size_t most_bytes = Traits::shared_bytes>
__device__ inline Storage& shared_storage() {
    static_assert(sizeof(Storage) <= most_bytes);
    extern __shared__ __align__(128) unsigned char arena[];
    return *reinterpret_cast<Storage*>(arena);
}

__device__ inline unsigned shared_address(const void* shared) {
    return unsigned(__cvta_generic_to_shared(shared));
}

// Returns its argument. The compiler does not know that it does: it keeps the value in a register
// instead of computing it again, and computes what follows from it inside the loop.
template <class T>
__device__ inline T opaque(T value) {
    if constexpr (sizeof(T) == 4) {
        asm volatile("" : "+r"(value));
    } else {
        asm volatile("" : "+l"(value));
    }
    return value;
}

// An address in shared memory as 32 bits, opaque; and what lies there.
__device__ inline unsigned opaque_shared_address(const void* shared) {
    return opaque(shared_address(shared));
}
template <class T>
__device__ inline T& at_shared_address(unsigned address) {
    return *static_cast<T*>(__cvta_shared_to_generic(address));
}

// One byte of global memory, by one instruction whatever the compiler knows of the pointer.
__device__ inline std::uint32_t load_byte(const std::uint8_t* global) {
    std::uint32_t value = 0;
    asm volatile("ld.global.u8 %0, [%1];"
                 : "=r"(value)
                 : "l"(__cvta_generic_to_global(global))
                 : "memory");
    return value;
}
__device__ inline void store_byte(std::uint8_t* global, std::uint32_t value) {
    asm volatile("st.global.u8 [%0], %1;" ::"l"(__cvta_generic_to_global(global)), "r"(value)
                 : "memory");
}

// 16 bytes of global memory by one instruction, without a branch, where `wanted` is not 0.
__device__ inline float4 load4_if(std::uint32_t wanted, const float* global) {
    float4 value = zero4();
    asm volatile(
        "{\n"
        ".reg .pred wanted;\n"
        "setp.ne.u32 wanted, %5, 0;\n"
        "@wanted ld.global.v4.f32 {%0, %1, %2, %3}, [%4];\n"
        "}"
        : "+f"(value.x), "+f"(value.y), "+f"(value.z), "+f"(value.w)
        : "l"(__cvta_generic_to_global(global)), "r"(wanted)
        : "memory");
    return value;
}
__device__ inline void store4_if(std::uint32_t wanted, float* global, float4 value) {
    asm volatile(
        "{\n"
        ".reg .pred wanted;\n"
        "setp.ne.u32 wanted, %5, 0;\n"
        "@wanted st.global.v4.f32 [%0], {%1, %2, %3, %4};\n"
        "}" ::"l"(__cvta_generic_to_global(global)),
        "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w), "r"(wanted)
        : "memory");
}

// Starts a copy of 16 bytes from global to shared memory. The thread that started it can read them
// after wait_for_copies, the block after a barrier behind that.
__device__ inline void copy_async(float* shared, const float* global) {
    if constexpr (code_here >= 80) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)),
                     "l"(global)
                     : "memory");
    } else {
        *reinterpret_cast<float4*>(shared) = *reinterpret_cast<const float4*>(global);
    }
}

__device__ inline void wait_for_copies() {
    if constexpr (code_here >= 80) asm volatile("cp.async.wait_all;" ::: "memory");
}

// A thread's copies form groups, so that it can wait for some of them. end_copy_group ends a group;
// wait_for_older_copies waits for all groups but the last one.
__device__ inline void end_copy_group() {
    if constexpr (code_here >= 80) asm volatile("cp.async.commit_group;" ::: "memory");
}
__device__ inline void wait_for_older_copies() {
    if constexpr (code_here >= 80) asm volatile("cp.async.wait_group 1;" ::: "memory");
}

// Asks for the 128 bytes around an address, so that a read that follows finds them near.
__device__ inline void prefetch(const float* global) {
    asm volatile("prefetch.global.L1 [%0];" ::"l"(global));
}

// Programmatic dependent launch (compute capability 9.0 and later): a kernel that was launched as
// the dependent of another kernel may begin while the other still runs. wait_for_predecessor waits
// until all that the other wrote can be read. On older devices neither does anything.
__device__ inline void let_dependents_start() {
    if constexpr (code_here >= 90) asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

__device__ inline void wait_for_predecessor() {
    if constexpr (code_here >= 90) asm volatile("griddepcontrol.wait;" ::: "memory");
}

// A flag is a word in global memory by which the blocks of one launch tell each other how far they
// are. A thread that has read its value with acquire_flag can read what the other thread wrote
// before release_flag, and what the other block wrote before a barrier in front of that. The rest
// of its own block can after a barrier.
__device__ inline void release_flag(std::uint32_t* flag, std::uint32_t value) {
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}

// Reads once: to wait for a value, call it in a loop, or call wait_for_count.
__device__ inline std::uint32_t acquire_flag(const std::uint32_t* flag) {
    std::uint32_t value = 0;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
    return value;
}

// Clusters (compute capability 9.0 and later; elsewhere these functions must not be called): blocks
// that run at the same time and write into each other's shared memory.

// This block's rank in its cluster.
__device__ inline unsigned cluster_rank() {
    if constexpr (code_here >= 90) {
        unsigned rank = 0;
        asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
        return rank;
    } else {
        __trap();
        return 0;
    }
}

__device__ inline unsigned cluster_blocks() {
    if constexpr (code_here >= 90) {
        unsigned blocks = 0;
        asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
        return blocks;
    } else {
        __trap();
        return 0;
    }
}

// Waits for all threads of all blocks of the cluster.
__device__ inline void cluster_barrier() {
    if constexpr (code_here >= 90) {
        asm volatile("barrier.cluster.arrive.release;" ::: "memory");
        asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
    } else {
        __trap();
    }
}

// The address of the same variable in the shared memory of the cluster's block `rank`.
__device__ inline unsigned shared_address(const void* shared, unsigned rank) {
    unsigned address = 0;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                 : "=r"(address)
                 : "r"(shared_address(shared)), "r"(rank));
    return address;
}

// For one thread. cluster_barrier must follow before anybody uses the barrier.
__device__ inline void init_arrival_barrier(ArrivalBarrier& barrier, unsigned arrivals) {
    if constexpr (code_here >= 90) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)),
                     "r"(arrivals)
                     : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    } else {
        __trap();
    }
}

// Arrives at the block's own barrier; its phase then also waits for so many bytes.
__device__ inline void expect_bytes(ArrivalBarrier& barrier, unsigned bytes) {
    if constexpr (code_here >= 90) {
        asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(
                         shared_address(&barrier)),
                     "r"(bytes)
                     : "memory");
    } else {
        __trap();
    }
}

// Whether the phase of that parity is complete; may wait a while for it.
__device__ inline bool has_arrived(ArrivalBarrier& barrier, unsigned parity) {
    unsigned complete = 0;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.relaxed.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.b32 %0, 1, 0, p;\n"
        "}"
        : "=r"(complete)
        : "r"(shared_address(&barrier)), "r"(parity)
        : "memory");
    if (complete == 0) return false;
    // What other blocks have stored into this one's shared memory can be read from here on. (A wait
    // that acquires by itself acquires all memory and so empties the L1 cache.)
    asm volatile("fence.acquire.sync_restrict::shared::cluster.cluster;" ::: "memory");
    return true;
}

// The time of a clock that also runs while a block waits.
__device__ inline unsigned long long nanoseconds() {
    unsigned long long time = 0;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time));
    return time;
}

// Waits until the phase of that parity is complete; all that was stored into this block's shared
// memory and reported to it can then be read. A phase that never completes is a bug: after a
// minute the launch fails.
__device__ inline void wait_arrivals(ArrivalBarrier& barrier, unsigned parity) {
    if constexpr (code_here >= 90) {
        if (has_arrived(barrier, parity)) return;
        constexpr unsigned long long most_nanoseconds = 60'000'000'000;
        const unsigned long long since = nanoseconds();
        while (!has_arrived(barrier, parity)) {
            if (nanoseconds() - since > most_nanoseconds) __trap();
        }
    } else {
        __trap();
    }
}

// Writes to where `shared` lies in the shared memory of the cluster's block `rank`, and reports the
// bytes to that block's `barrier` when they are there. That block must not end before.
__device__ inline void store_async(float* shared, float4 value, ArrivalBarrier& barrier,
                                   unsigned rank) {
    if constexpr (code_here >= 90) {
        asm volatile(
            "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, "
            "%4}, "
            "[%5];" ::"r"(shared_address(shared, rank)),
            "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w),
            "r"(shared_address(&barrier, rank))
            : "memory");
    } else {
        __trap();
    }
}

__device__ inline void store_async(float* shared, float2 value, ArrivalBarrier& barrier,
                                   unsigned rank) {
    if constexpr (code_here >= 90) {
        asm volatile(
            "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, "
            "[%3];" ::"r"(shared_address(shared, rank)),
            "f"(value.x), "f"(value.y), "r"(shared_address(&barrier, rank))
            : "memory");
    } else {
        __trap();
    }
}

// Bulk copies (compute capability 9.0 and later; elsewhere these functions must not be called). One
// thread copies any number of bytes, at addresses and of a size that are multiples of 16. They
// access shared memory by another path: see fence_async_proxy.

// From global to shared memory; reports the bytes to the block's own barrier.
__device__ inline void bulk_load(void* shared, const void* global, unsigned bytes,
                                 ArrivalBarrier& barrier) {
    if constexpr (code_here >= 90) {
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
            "[%3];" ::"r"(shared_address(shared)),
            "l"(global), "r"(bytes), "r"(shared_address(&barrier))
            : "memory");
    } else {
        __trap();
    }
}

// From shared to global memory. The thread must wait for its reads before the block ends, and
// before anybody writes there again.
__device__ inline void bulk_store(void* global, const void* shared, unsigned bytes) {
    if constexpr (code_here >= 90) {
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global),
                     "r"(shared_address(shared)), "r"(bytes)
                     : "memory");
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    } else {
        __trap();
    }
}

// Waits until all bulk stores of this thread have read their shared memory.
__device__ inline void wait_bulk_reads() {
    if constexpr (code_here >= 90) {
        asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
    } else {
        __trap();
    }
}

// Waits until all that they store is in global memory.
__device__ inline void wait_bulk_stores() {
    if constexpr (code_here >= 90) {
        asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    } else {
        __trap();
    }
}

// Bulk copies that this thread starts after it see what this thread has written to shared memory,
// and what other threads had written there before the last barrier.
__device__ inline void fence_async_proxy() {
    if constexpr (code_here >= 90) {
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    } else {
        __trap();
    }
}

// Tensor cores, a warp at a time; mma.cuh says how the lanes hold their numbers. Compute capability
// 8.0 and later; elsewhere these functions must not be called.

// Two numbers rounded to fp16, the first in the lower half.
__device__ inline std::uint32_t rounded_to_fp16(float low, float high) {
    if constexpr (code_here >= 80) {
        std::uint32_t bits;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
        return bits;
    } else {
        __trap();
        return 0;
    }
}

// relu of two numbers as fp16: rounded to nearest, or cut. NaN stays NaN.
__device__ inline std::uint32_t relu_rounded_to_fp16(float low, float high) {
    if constexpr (code_here >= 80) {
        std::uint32_t bits;
        asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
        return bits;
    } else {
        __trap();
        return 0;
    }
}
__device__ inline std::uint32_t relu_cut_to_fp16(float low, float high) {
    if constexpr (code_here >= 80) {
        std::uint32_t bits;
        asm("cvt.rz.relu.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
        return bits;
    } else {
        __trap();
        return 0;
    }
}

// Arithmetic on two fp16 numbers at a time, each result rounded to nearest.
__device__ inline std::uint32_t add_pairs(std::uint32_t a, std::uint32_t b) {
    std::uint32_t sum;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
    return sum;
}
__device__ inline std::uint32_t subtract_pairs(std::uint32_t a, std::uint32_t b) {
    std::uint32_t difference;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(difference) : "r"(a), "r"(b));
    return difference;
}
__device__ inline std::uint32_t multiply_pairs(std::uint32_t a, std::uint32_t b) {
    std::uint32_t product;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
    return product;
}
// a b + c, rounded once.
__device__ inline std::uint32_t multiply_add_pairs(std::uint32_t a, std::uint32_t b,
                                                   std::uint32_t c) {
    std::uint32_t sum;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
    return sum;
}

// Over the lanes of a warp; every lane has the result. Compute capability 8.0 and later.
__device__ inline std::uint32_t sum_over_warp(std::uint32_t own) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800  // nvcc has no such function before
    return __reduce_add_sync(whole_warp, own);
#else
    __trap();
    return own;
#endif
}
__device__ inline std::uint32_t largest_over_warp(std::uint32_t own) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800  // nvcc has no such function before
    return __reduce_max_sync(whole_warp, own);
#else
    __trap();
    return own;
#endif
}
__device__ inline std::uint32_t any_bits_over_warp(std::uint32_t own) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800  // nvcc has no such function before
    return __reduce_or_sync(whole_warp, own);
#else
    __trap();
    return own;
#endif
}

// The two numbers as floats.
__device__ inline float2 halves(std::uint32_t bits) {
    float2 result;
    asm("{\n"
        ".reg .b16 low, high;\n"
        "mov.b32 {low, high}, %2;\n"
        "cvt.f32.f16 %0, low;\n"
        "cvt.f32.f16 %1, high;\n"
        "}"
        : "=f"(result.x), "=f"(result.y)
        : "r"(bits));
    return result;
}

// Four matrices of 8 x 8 fp16 numbers in shared memory. Lanes 8 i .. 8 i + 7 say where the rows of
// matrix i start, at multiples of 16 bytes. Of each matrix lane 4 g + t gets (row g, columns 2t and
// 2t + 1), the first in the lower half.
__device__ inline void load_matrices(std::uint32_t (&to)[4], const void* row) {
    if constexpr (code_here >= 75) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(shared_address(row))
                     : "memory");
    } else {
        __trap();
    }
}

// The same, but lane 4 g + t gets (rows 2t and 2t + 1, column g).
__device__ inline void load_matrices_transposed(std::uint32_t (&to)[4], const void* row) {
    if constexpr (code_here >= 75) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(shared_address(row))
                     : "memory");
    } else {
        __trap();
    }
}

// Writes what load_matrices_transposed would read: by one instruction from 9.0 on.
__device__ inline void store_matrices_transposed(void* row, const std::uint32_t (&from)[4]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     shared_address(row)),
                 "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3])
                 : "memory");
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    const unsigned own_row = shared_address(row), lane = threadIdx.x % 32;
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
        std::uint32_t of_row;  // columns 2t and 2t + 1 of row g
        asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(of_row) : "r"(from[i]));
        const unsigned to = __shfl_sync(whole_warp, own_row, 8 * i + lane / 4) + lane % 4 * 4;
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(of_row) : "memory");
    }
#else
    __trap();
#endif
}

// m16n8k16 as the instruction has its registers.
__device__ inline void mma_fp16(Accumulator& c, const std::uint32_t (&a)[4],
                                const std::uint32_t (&b)[2]) {
    if constexpr (code_here >= 80) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
            "{%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c.sums[0]), "+f"(c.sums[1]), "+f"(c.sums[2]), "+f"(c.sums[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    } else {
        __trap();
    }
}

// A B + from; from stays as it is.
__device__ inline Accumulator mma_fp16_from(const Accumulator& from, const std::uint32_t (&a)[4],
                                            const std::uint32_t (&b)[2]) {
    Accumulator c = {};
    if constexpr (code_here >= 80) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
            "{%8, %9}, {%10, %11, %12, %13};"
            : "=f"(c.sums[0]), "=f"(c.sums[1]), "=f"(c.sums[2]), "=f"(c.sums[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(from.sums[0]),
              "f"(from.sums[1]), "f"(from.sums[2]), "f"(from.sums[3]));
    } else {
        __trap();
    }
    return c;
}

}  // namespace nca::cuda
