// SPDX-License-Identifier: MIT
#pragma once

// Runs CUDA kernels on a CPU, for tests.
//
// Each CUDA thread is a fiber. One block runs at a time, all of its threads on the OS thread that
// waits for the work; warp after warp, each until all its lanes wait at a block barrier or have
// finished. So a race between threads of a block shows as a result that depends on the order: run
// a kernel in both and demand equal bits. The executor throws std::logic_error where threads wait
// at different barriers, and where a block wrote beyond its shared memory (address sanitizer, in
// builds that have it, stops there by itself).
//
// Work in streams is only queued, and runs when somebody waits for it: code that forgets to wait
// finds its results missing. Device memory is full of NaN at first. Unlike a GPU, kernels that
// have thrown leave no trace: all queued work is dropped and the next call starts afresh. What a
// kernel threw comes out of the call that waited for it; of cudaFree and the others that
// destructors call, it comes out of the next call that waits, or else ends the process with an
// error.
//
// The device has compute capability 7.5 and its limits; events cannot be recorded in a capture.

#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <set>
#include <string>

namespace nca::executor {

// Of the lanes of a warp, the warps of a block, the blocks of a grid, and the streams of a device
// that somebody waits for. Asynchronous copies are late in forward order and early in reverse.
enum class Order { forward, reverse };
void set_order(Order order);
Order order();

// All kernels that have run. One whose launch had no name is "unnamed".
std::set<std::string> launched_kernels();

void set_device_count(int count);          // 1 at first
void set_driver_missing(bool missing);     // as on a machine without a driver
void set_memory_limit(std::size_t bytes);  // of device memory; 8 GiB at first
std::size_t memory_in_use();               // of device memory, in bytes
void set_architecture_supported(bool supported);

// The launch of one kernel.
struct Launch {
    std::string kernel;
    dim3 grid;
    dim3 block;
    std::size_t shared_bytes;
    std::function<void()> thread;
};

// Runs all blocks, on the calling thread.
void run(const Launch& launch);

}  // namespace nca::executor
