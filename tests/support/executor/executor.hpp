// SPDX-License-Identifier: MIT
#pragma once

// Runs CUDA kernels on a CPU, for tests.
//
// Each CUDA thread is a fiber. One block runs at a time, all of its threads on the OS thread that
// waits for the work: warp after warp, each until all its lanes wait at a block barrier or have
// finished. A race between threads of a block makes the result depend on the order of the threads:
// run a kernel in both orders and demand equal bits. The executor throws std::logic_error where
// threads wait at different barriers, and where a block wrote beyond its shared memory. (In builds
// with address sanitizer the sanitizer stops there.)
//
// All blocks of a cooperative launch, and all blocks of a cluster, are resident together and take
// turns. A race between them makes the result depend on the interleaving as well. A thread that
// polls a flag with acquire_flag, or waits for arrivals, lets all others go on first. Where all
// threads only read the same values again, the executor throws. A loop that waits for another
// thread in any other way never ends.
//
// Work in streams is only queued, and runs when somebody waits for it: code that forgets to wait
// finds its results missing. Device memory is full of NaN at first. After an exception in a kernel
// all queued work is dropped, and the next call starts afresh, unlike on a GPU. The call that
// waited for the kernel throws the exception. cudaFree, which destructors call, keeps it for the
// next call that waits; if there is none, the process ends with an error.
//
// The device has compute capability 7.5 and its limits, unless a test sets others. Events cannot be
// recorded in a capture. A kernel is loaded by its first launch or when its attributes are asked
// for; in a capture that is an error, because CUDA may have to wait for the device.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <string>

namespace nca::executor {

// The order of the lanes of a warp, the warps of a block, the blocks of a grid, and the streams of
// a device that somebody waits for. Asynchronous copies and stores happen as late as they may in
// forward order, and at once in reverse order.
enum class Order { forward, reverse };
void set_order(Order order);
Order order();

// How resident blocks take turns.
enum class Interleaving {
    by_barrier,          // a turn ends when all threads wait at a barrier or poll
    as_far_as_possible,  // a turn ends when no thread of the block can continue
    one_block_late,      // by_barrier, but the first block only where no other can continue
    random               // blocks and their warps in random order, some of them late
};
void set_interleaving(Interleaving interleaving);
// The seed of Interleaving::random; each launch begins with it again. In this interleaving chance
// decides whether an asynchronous copy or store is late or early.
void set_schedule_seed(std::uint64_t seed);

// The name of a kernel, without its namespaces and template arguments.
std::string name_of_kernel(const void* kernel);
// The names of all kernels that have run.
std::set<std::string> launched_kernels();

void set_device_count(int count);          // 1 at first
void set_driver_missing(bool missing);     // as on a machine without a driver
void set_memory_limit(std::size_t bytes);  // of device memory; 8 GiB at first
std::size_t memory_in_use();               // of device memory, in bytes
void set_architecture_supported(bool supported);
void set_multiprocessors(int count);                // of every device; 2 at first
void set_compute_capability(int major, int minor);  // 7.5 at first
// The compute capability of the newest code in the build, 80 for 8.0; at first there is code for
// every device. A newer device runs older code, which lacks what came later: a dependent launch is
// an error, because the kernel would not wait, and tensor cores and clusters are traps.
void set_newest_code(int code);
int code();  // the code that runs on the device
// Throws std::logic_error where the running code is older.
void trap_before(int code_since, const char* what);
void set_shared_limit(std::size_t bytes);  // for a block that asks for more; 64 KiB at first

// The launch of one kernel.
struct Launch {
    std::string kernel;
    unsigned blocks;
    unsigned threads;  // of a block
    std::size_t shared_bytes;
    std::function<void()> thread;
    bool cooperative = false;  // all blocks are resident at once
    unsigned cluster_blocks = 1;
};

// Makes one graph launch fail: the one after `after` more of them.
void fail_graph_launch(int after);

// Runs all blocks on the calling thread. Throws std::logic_error where more than 64 x 256 threads
// would be resident at once.
void run(const Launch& launch);

}  // namespace nca::executor
