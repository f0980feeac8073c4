// SPDX-License-Identifier: MIT
#pragma once

// Asynchronous copies and stores, flags, and the barriers that count what has arrived. A GPU may do
// a copy or a store at once, or only when somebody waits for it. In reverse order it is done at
// once, in forward order as late as possible. Each function throws std::logic_error where it is
// misused.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace nca::executor {

// Throws where the memory is not in the block's shared memory or not aligned to 16 bytes.
void require_shared(const void* begin, std::size_t bytes, const CallSite& place);

// An asynchronous copy of 16 bytes from global to shared memory, which the thread that starts it
// must finish. A late copy is done when the thread finishes it.
void defer_copy(void* shared, const void* global);
void finish_copies();
// Ends a group of copies. finish_older_copies finishes all groups but the last.
void end_copy_group();
void finish_older_copies();

// A flag in global memory. acquire_flag lets all other threads run before it reads.
void release_flag(std::uint32_t* flag, std::uint32_t value);
std::uint32_t acquire_flag(const std::uint32_t* flag, const CallSite& place);

unsigned cluster_rank();
unsigned cluster_blocks();
void cluster_barrier(const CallSite& place);

// An arrival barrier takes 8 bytes of shared memory and works as an mbarrier does: its phase is
// complete when all arrivals and all bytes are there that it waits for. Late stores arrive when a
// thread waits for the barrier, the last one first.
void init_arrivals(void* barrier, unsigned arrivals);
void expect_bytes(void* barrier, unsigned bytes);
void wait_arrivals(void* barrier, unsigned parity, const CallSite& place);
void store_async(void* shared, const void* value, std::size_t bytes, void* barrier, unsigned rank);

// Bulk copies. A load reads global memory when it arrives. A late store reads shared memory when
// its thread waits for that, and is in global memory when its thread waits for that or when all
// blocks that are resident together have ended. A thread must not end before its stores have read.
// The executor cannot tell whether a value that they read was fenced. It notices a block without
// any fence.
void bulk_load(void* shared, const void* global, std::size_t bytes, void* barrier);
void bulk_store(void* global, const void* shared, std::size_t bytes);
void wait_bulk_reads();
void wait_bulk_stores();
void fence_async_proxy();

}  // namespace nca::executor
