// SPDX-License-Identifier: MIT
// The executor: memory, asynchronous copies, and the limits of a device.
#include "tests/support/executed_kernels.hpp"
#include "tests/support/executor/memory.hpp"

#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

using namespace nca::test;

namespace {

__global__ void copy_shared_kernel(float* result) {
    result[threadIdx.x] = static_cast<float*>(nca::executor::shared_arena())[threadIdx.x];
}

__global__ void write_shared_kernel(int at) {
    static_cast<char*>(nca::executor::shared_arena())[at] = 1;
}

template <bool finish>
__global__ void async_copy_kernel(float* result, const float* from) {
    float* const shared = static_cast<float*>(nca::executor::shared_arena());
    nca::executor::defer_copy(shared + threadIdx.x * 4, from + threadIdx.x * 4);
    if (finish) nca::executor::finish_copies();
    __syncthreads();
    for (unsigned i = threadIdx.x; i < blockDim.x * 4; i += blockDim.x) result[i] = shared[i];
}

}  // namespace

TEST_CASE("memory is full of NaN at first") {
    for (const float value : Numbers<float>(100).download()) REQUIRE(std::isnan(value));
    // The second block finds nothing of the first one's.
    const auto copied = result_of<float>(64, {2, 64, sizeof(float) * 64}, copy_shared_kernel);
    for (const float value : copied) REQUIRE(std::isnan(value));
}

#ifndef __SANITIZE_ADDRESS__  // stops at the write itself
TEST_CASE("a write beyond the shared memory is noticed") {
    REQUIRE(complaint({1, 1, 100}, write_shared_kernel, 99).empty());
    CHECK_THAT(complaint({1, 1, 100}, write_shared_kernel, 100), contains("100 bytes of shared"));
    CHECK_THAT(complaint({1, 1, 100}, write_shared_kernel, -1), contains("100 bytes of shared"));
}
#endif

TEST_CASE("shared memory that the launch did not ask for is an error") {
    CHECK_THAT(complaint({1, 1}, write_shared_kernel, 0), contains("no shared memory"));
}

TEST_CASE("an asynchronous copy arrives when its thread finishes it") {
    std::vector<float> values(128);
    std::iota(values.begin(), values.end(), 1.0F);
    const Numbers<float> from(values);
    const Shape shape{1, 32, sizeof(float) * 128};
    const float* const source = from.data();
    REQUIRE(result_of<float>(128, shape, async_copy_kernel<true>, source) == values);
    for (const float value : result_of<float>(128, shape, async_copy_kernel<false>, source)) {
        REQUIRE(std::isnan(value));
    }
    const float* const skewed = source + 1;
    const Numbers<float> result(128);
    CHECK_THAT(complaint(shape, async_copy_kernel<true>, result.data(), skewed),
               contains("not aligned"));
}

TEST_CASE("a launch beyond the limits of a GPU fails") {
    CHECK(launch({1, 1024}, nothing_kernel) == cudaSuccess);
    CHECK(launch({3, 1024, 48 << 10}, nothing_kernel) == cudaSuccess);
    CHECK(launch({1, 1025}, nothing_kernel) == cudaErrorInvalidConfiguration);
    CHECK(launch({1, 0}, nothing_kernel) == cudaErrorInvalidConfiguration);
    CHECK(launch({0, 1}, nothing_kernel) == cudaErrorInvalidConfiguration);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
    CHECK(cudaGetLastError() == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
}

TEST_CASE("shared memory beyond 48 KiB must be asked for, and ends at 64 KiB") {
    const auto run = [](int bytes) {
        return launch({1, 1, std::size_t(bytes)}, write_shared_kernel, bytes - 1);
    };
    constexpr auto largest = cudaFuncAttributeMaxDynamicSharedMemorySize;
    CHECK(run((48 << 10) + 1) == cudaErrorInvalidValue);
    CHECK(cudaFuncSetAttribute(write_shared_kernel, largest, (64 << 10) + 1) ==
          cudaErrorInvalidValue);
    REQUIRE(cudaFuncSetAttribute(write_shared_kernel, largest, 64 << 10) == cudaSuccess);
    CHECK(run(64 << 10) == cudaSuccess);
    CHECK(run((64 << 10) + 1) == cudaErrorInvalidValue);
    REQUIRE(cudaFuncSetAttribute(write_shared_kernel, largest, 48 << 10) == cudaSuccess);
    CHECK(run((48 << 10) + 1) == cudaErrorInvalidValue);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
}

TEST_CASE("the device is as large and as new as a test has set it") {
    const auto properties = [] {
        cudaDeviceProp result = {};
        REQUIRE(cudaGetDeviceProperties(&result, 0) == cudaSuccess);
        return result;
    };
    constexpr auto largest = cudaFuncAttributeMaxDynamicSharedMemorySize;
    {
        const ExecutedDevice device(9, 0, 132, 227 << 10);
        CHECK(properties().major == 9);
        CHECK(properties().minor == 0);
        CHECK(properties().multiProcessorCount == 132);
        CHECK(properties().sharedMemPerBlockOptin == 227 << 10);
        REQUIRE(cudaFuncSetAttribute(write_shared_kernel, largest, 227 << 10) == cudaSuccess);
        CHECK(complaint({1, 1, 227 << 10}, write_shared_kernel, (227 << 10) - 1).empty());
        REQUIRE(cudaFuncSetAttribute(write_shared_kernel, largest, 48 << 10) == cudaSuccess);
    }
    CHECK(properties().major == 7);
    CHECK(cudaFuncSetAttribute(write_shared_kernel, largest, 227 << 10) == cudaErrorInvalidValue);
}

TEST_CASE("device memory ends at its limit") {
    const std::size_t before = nca::executor::memory_in_use();
    nca::executor::set_memory_limit(before + 1000);
    {
        const Numbers<char> most(900);
        REQUIRE(nca::executor::memory_in_use() == before + 900);
        void* more = nullptr;
        REQUIRE(cudaMalloc(&more, 101) == cudaErrorMemoryAllocation);
        REQUIRE(more == nullptr);
        std::size_t free = 0, total = 0;
        REQUIRE(cudaMemGetInfo(&free, &total) == cudaSuccess);
        REQUIRE(free == 100);
        const Numbers<char> rest(100);
    }
    REQUIRE(nca::executor::memory_in_use() == before);
    nca::executor::set_memory_limit(std::size_t{8} << 30);
}

TEST_CASE("copies and fills must stay inside of the memory that they name") {
    const Numbers<int> memory(4);
    int host[8] = {};
    const auto copy = [](void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
        return cudaMemcpyAsync(to, from, bytes, kind);
    };
    CHECK(copy(memory.data(), host, 16, cudaMemcpyHostToDevice) == cudaSuccess);
    CHECK(copy(memory.data(), host, 17, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    CHECK(copy(memory.data() + 1, host, 16, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    CHECK(copy(host, memory.data(), 16, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    CHECK(copy(host, host + 4, 16, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    CHECK(copy(memory.data(), memory.data() + 2, 8, cudaMemcpyDeviceToDevice) == cudaSuccess);
    CHECK(cudaMemsetAsync(memory.data(), 0, 16) == cudaSuccess);
    CHECK(cudaMemsetAsync(memory.data(), 0, 17) == cudaErrorInvalidValue);
    CHECK(cudaMemsetAsync(host, 0, 16) == cudaErrorInvalidValue);
    CHECK(cudaFree(memory.data() + 1) == cudaErrorInvalidValue);
    CHECK(cudaFree(nullptr) == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
}
