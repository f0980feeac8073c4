// SPDX-License-Identifier: MIT
// The executor: threads, barriers, warps and collectives.
#include "cuda/device/device.cuh"
#include "tests/support/executed_kernels.hpp"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using nca::cuda::acquire_flag;
using nca::cuda::release_flag;
using namespace nca::test;

namespace {

constexpr unsigned all_lanes = 0xffffffffU;

__global__ void positions_kernel(unsigned* result) {
    result[blockIdx.x * blockDim.x + threadIdx.x] += blockIdx.x * 1000 + threadIdx.x;
}

// Each thread gets what another one wrote.
template <bool barrier>
__global__ void reverse_kernel(int* result) {
    int* const shared = static_cast<int*>(nca::executor::shared_arena());
    const unsigned thread = threadIdx.x;
    shared[thread] = static_cast<int>(thread);
    if (barrier) __syncthreads();
    result[thread] = shared[blockDim.x - 1 - thread];
}

__global__ void barriers_in_loop_kernel(int* result) {
    int* const shared = static_cast<int*>(nca::executor::shared_arena());
    const unsigned thread = threadIdx.x;
    shared[thread] = static_cast<int>(thread);
    for (int i = 0; i < 5; ++i) {
        __syncthreads();
        const int next = shared[(thread + 1) % blockDim.x];
        __syncthreads();
        shared[thread] = next;
    }
    result[thread] = shared[thread];
}

__global__ void some_finish_early_kernel(int* result) {
    if (threadIdx.x % 3 == 0) return;
    result[threadIdx.x] = 1;
    __syncthreads();
    result[threadIdx.x] = 2;
}

__global__ void warp_sum_kernel(int* result) {
    int sum = static_cast<int>(threadIdx.x);
    for (int offset = warpSize / 2; offset > 0; offset /= 2) {
        sum += __shfl_xor_sync(all_lanes, sum, offset);
    }
    result[threadIdx.x] = sum;
}

struct Collected {
    int from_five;
    int below;
    int above;
    int below_in_eight;
    double wide;
    unsigned odd;

    bool operator==(const Collected&) const = default;
};

__global__ void collectives_kernel(Collected* result) {
    const int lane = static_cast<int>(threadIdx.x);
    result[lane] = {.from_five = __shfl_sync(all_lanes, lane * 10, 5),
                    .below = __shfl_up_sync(all_lanes, lane, 1),
                    .above = __shfl_down_sync(all_lanes, lane, 1),
                    .below_in_eight = __shfl_up_sync(all_lanes, lane, 3, 8),
                    .wide = __shfl_sync(all_lanes, lane + 0.25, 31 - lane),
                    .odd = __ballot_sync(all_lanes, lane % 2)};
}

// A barrier of a warp does not separate warps.
template <bool of_block>
__global__ void read_other_warp_kernel(int* result) {
    int* const shared = static_cast<int*>(nca::executor::shared_arena());
    shared[threadIdx.x] = 1;
    if (of_block) {
        __syncthreads();
    } else {
        __syncwarp();
    }
    result[threadIdx.x] = shared[(threadIdx.x + warpSize) % blockDim.x];
}

__global__ void different_barriers_kernel() {
    if (threadIdx.x < 40) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}

__global__ void unreached_barrier_kernel() {
    if (threadIdx.x == 3) {
        __syncthreads();
    } else {
        __syncwarp();
    }
}

__global__ void finished_lane_kernel() {
    if (threadIdx.x != 4) __shfl_sync(all_lanes, 1, 0);
}

__global__ void lane_beyond_warp_kernel() { __shfl_sync(all_lanes, 1, 20); }

__global__ void partial_mask_kernel() { __shfl_sync(0xffffU, 1, 0); }

__global__ void atomics_kernel(unsigned* result) {
    atomicAdd(&result[0], 1);
    atomicMax(&result[1], threadIdx.x * 7 % 64);
    atomicXor(&result[2], 1U << threadIdx.x % 31);
}

// One lane of a warp raises the flag that another one polls.
__global__ void flag_within_block_kernel(std::uint32_t* flag) {
    if (threadIdx.x == 40) release_flag(flag, 1);
    if (threadIdx.x == 0) {
        while (acquire_flag(flag) == 0) {
        }
    }
    __syncwarp();
    if (threadIdx.x == 1) release_flag(flag, 2);
    while (acquire_flag(flag) != 2) {
    }
}

struct Piece {
    int numbers[16];
};

// Each lane gets the sum of all.
void sum_up(Piece (&pieces)[warpSize]) {
    int sum = 0;
    for (const Piece& piece : pieces) sum = std::accumulate(piece.numbers, piece.numbers + 16, sum);
    for (Piece& piece : pieces) piece.numbers[3] = sum;
}
void turn_round(int (&lanes)[warpSize]) { std::reverse(lanes, lanes + warpSize); }

// Three times, so that the first lanes of a warp begin the third time before the last lanes have
// left the second.
__global__ void together_kernel(int* result) {
    int lane = static_cast<int>(threadIdx.x) % warpSize;
    nca::executor::together<turn_round>(lane, {"first", __FILE__, __LINE__});
    Piece own{};
    for (int i = 0; i < 16; ++i) own.numbers[i] = static_cast<int>(threadIdx.x) * 16 + i;
    nca::executor::together<sum_up>(own, {"second", __FILE__, __LINE__});
    nca::executor::together<turn_round>(lane, {"third", __FILE__, __LINE__});
    result[threadIdx.x] = own.numbers[3] + lane;
}

__global__ void different_work_kernel(int* result) {
    Piece own{};
    if (threadIdx.x == 5) {
        nca::executor::together<turn_round>(*result, {"turn_round", __FILE__, __LINE__});
    } else {
        nca::executor::together<sum_up>(own, {"sum_up", __FILE__, __LINE__});
    }
}

struct Reduced {
    unsigned sum;
    unsigned any_bit;
    unsigned largest;
    std::uint64_t wide;
    float above;

    bool operator==(const Reduced&) const = default;
};

__global__ void reduce_kernel(Reduced* result) {
    const unsigned lane = threadIdx.x;
    result[lane] = {.sum = __reduce_add_sync(all_lanes, lane * 0x10000000U + 1),
                    .any_bit = __reduce_or_sync(all_lanes, lane % 3 == 0 ? 1U << lane : 0),
                    .largest = __reduce_max_sync(all_lanes, lane == 7 ? 0xfffffff0U : lane),
                    .wide = __shfl_down_sync(all_lanes, (std::uint64_t(lane) << 40) + 1, 1),
                    .above = __shfl_xor_sync(all_lanes, static_cast<float>(lane), 1)};
}

}  // namespace

TEST_CASE("every thread of every block runs once and knows its place") {
    const BlockSchedule schedule(GENERATE(Order::forward, Order::reverse));
    const Numbers<unsigned> result(std::vector<unsigned>(24 * 70));
    REQUIRE(launch({24, 70}, positions_kernel, result.data()) == cudaSuccess);
    const std::vector<unsigned> values = result.download();
    for (unsigned i = 0; i < values.size(); ++i) REQUIRE(values[i] == i / 70 * 1000 + i % 70);
}

TEST_CASE("a block barrier separates writes from reads, in both orders") {
    const BlockSchedule schedule(GENERATE(Order::forward, Order::reverse));
    const int threads = GENERATE(1, 31, 33, 256, 1024);
    Shape shape{1, static_cast<unsigned>(threads), sizeof(int) * threads};
    const auto reversed = result_of<int>(threads, shape, reverse_kernel<true>);
    shape.blocks = 2;
    const auto moved = result_of<int>(threads, shape, barriers_in_loop_kernel);
    for (int i = 0; i < threads; ++i) {
        REQUIRE(reversed[i] == threads - 1 - i);
        REQUIRE(moved[i] == (i + 5) % threads);
    }
}

TEST_CASE("a missing barrier gives other bits in reverse order") {
    const auto run = [](Order order, Interleaving interleaving = Interleaving::by_barrier) {
        const BlockSchedule schedule(order, interleaving);
        return result_of<int>(64, {1, 64, sizeof(int) * 64}, reverse_kernel<false>);
    };
    REQUIRE(run(Order::forward) != run(Order::reverse));
    REQUIRE(run(Order::forward) == run(Order::forward));
    REQUIRE(run(Order::forward, Interleaving::random) !=
            result_of<int>(64, {1, 64, sizeof(int) * 64}, reverse_kernel<true>));
}

TEST_CASE("a block barrier does not wait for threads that have finished") {
    const Numbers<int> result(std::vector<int>(100));
    REQUIRE(launch({1, 100}, some_finish_early_kernel, result.data()) == cudaSuccess);
    const std::vector<int> values = result.download();
    for (int i = 0; i < 100; ++i) REQUIRE(values[i] == (i % 3 == 0 ? 0 : 2));
}

TEST_CASE("the lanes of a warp exchange values, in both orders") {
    const BlockSchedule schedule(GENERATE(Order::forward, Order::reverse));
    const auto sums = result_of<int>(96, {1, 96}, warp_sum_kernel);
    for (int i = 0; i < 96; ++i) REQUIRE(sums[i] == 31 * 16 + i / 32 * 32 * 32);

    const auto collected = result_of<Collected>(32, {1, 32}, collectives_kernel);
    for (int lane = 0; lane < 32; ++lane) {
        const Collected expected{.from_five = 50,
                                 .below = lane == 0 ? 0 : lane - 1,
                                 .above = lane == 31 ? 31 : lane + 1,
                                 .below_in_eight = lane % 8 < 3 ? lane : lane - 3,
                                 .wide = 31 - lane + 0.25,
                                 .odd = 0xaaaaaaaaU};
        REQUIRE(collected[lane] == expected);
    }
}

TEST_CASE("the lanes of a warp reduce values, and shuffle wide ones") {
    const BlockSchedule schedule(GENERATE(Order::forward, Order::reverse));
    const auto reduced = result_of<Reduced>(32, {1, 32}, reduce_kernel);
    for (unsigned lane = 0; lane < 32; ++lane) {
        const Reduced expected{.sum = 32,  // and 31 * 2^32
                               .any_bit = 0x49249249U,
                               .largest = 0xfffffff0U,
                               .wide = (std::uint64_t(lane == 31 ? 31 : lane + 1) << 40) + 1,
                               .above = static_cast<float>(lane ^ 1U)};
        REQUIRE(reduced[lane] == expected);
    }
}

TEST_CASE("a warp barrier does not separate warps") {
    const auto run = [](void (*kernel)(int*)) {
        return result_of<int>(64, {1, 64, sizeof(int) * 64}, kernel);
    };
    REQUIRE(run(read_other_warp_kernel<true>) == std::vector<int>(64, 1));
    REQUIRE(run(read_other_warp_kernel<false>) != std::vector<int>(64, 1));
}

TEST_CASE("threads that wait at different barriers are an error that names both") {
    const std::string message = complaint({6, 64}, different_barriers_kernel);
    CHECK_THAT(message, contains("different_barriers_kernel"));
    CHECK_THAT(message, contains("block 0"));
    CHECK_THAT(message, contains("thread 0 at __syncthreads"));
    CHECK_THAT(message, contains("thread 40 at __syncthreads"));
    CHECK_THAT(message, contains("executor_threads_test.cpp:"));
}

TEST_CASE("a barrier that some threads never reach is an error") {
    const std::string message = complaint({1, 32}, unreached_barrier_kernel);
    CHECK_THAT(message, contains("thread 3 at __syncthreads"));
    CHECK_THAT(message, contains("thread 0 at __syncwarp"));
}

TEST_CASE("a collective without one of its lanes is an error") {
    CHECK_THAT(complaint({1, 32}, finished_lane_kernel), contains("thread 4"));
    CHECK_THAT(complaint({1, 10}, lane_beyond_warp_kernel), contains("lane 20"));
    CHECK_THAT(complaint({1, 32}, partial_mask_kernel), contains("full warp"));
}

TEST_CASE("a barrier outside of a kernel is an error") {
    REQUIRE_THROWS_AS(__syncthreads(), std::logic_error);
    REQUIRE_THROWS_AS(nca::executor::shared_arena(), std::logic_error);
}

TEST_CASE("atomics add up, and integer intrinsics count bits") {
    const Numbers<unsigned> result(std::vector<unsigned>{0, 0, 0});
    REQUIRE(launch({3, 64}, atomics_kernel, result.data()) == cudaSuccess);
    REQUIRE(result.download() == std::vector<unsigned>{192, 63, 3});

    REQUIRE(__popc(0xf0f0U) == 8);
    REQUIRE(__popcll(0xf0f0000000000001U) == 9);
    REQUIRE(__funnelshift_r(0x80000001U, 0x40000001U, 1) == 0xc0000000U);
    REQUIRE(__ffs(0) == 0);
    REQUIRE(__ffs(8) == 4);
    REQUIRE(__clz(0) == 32);
    REQUIRE(__clz(1) == 31);
}

TEST_CASE("a thread may poll while others of its block and its warp wait at a barrier") {
    const BlockSchedule schedule(GENERATE(Order::forward, Order::reverse));
    const Numbers<std::uint32_t> flag(std::vector<std::uint32_t>{0});
    REQUIRE(launch({1, 64}, flag_within_block_kernel, flag.data()) == cudaSuccess);
    REQUIRE(flag.download() == std::vector<std::uint32_t>{2});
}

TEST_CASE("the lanes of a warp work on pieces together, in both orders") {
    const BlockSchedule schedule(GENERATE(Order::forward, Order::reverse));
    const auto sums = result_of<int>(96, {1, 96}, together_kernel);
    for (int i = 0; i < 96; ++i) {
        const int first = i / 32 * 512;
        REQUIRE(sums[i] == i % 32 + (first + first + 511) * 256);
    }
    const Numbers<int> result(96);
    CHECK_THAT(complaint({1, 33}, together_kernel, result.data()), contains("full warps"));
    CHECK_THAT(complaint({1, 32}, different_work_kernel, result.data()),
               contains("threads wait at different barriers"));
}

TEST_CASE("two threads use the device at once") {
    constexpr int threads = 256, rounds = 20;
    std::vector<std::vector<int>> results(2, std::vector<int>(threads));
    std::vector<int> failures(2);
    const auto work = [&](int which) {
        cudaStream_t stream = nullptr;
        int* memory = nullptr;
        const auto check = [&](cudaError_t error) { failures[which] += error != cudaSuccess; };
        check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        for (int round = 0; round < rounds; ++round) {
            check(cudaMalloc(&memory, threads * sizeof(int)));
            check(launch({2, threads, threads * sizeof(int), stream}, barriers_in_loop_kernel,
                         memory));
            check(cudaMemcpyAsync(results[which].data(), memory, threads * sizeof(int),
                                  cudaMemcpyDeviceToHost, stream));
            check(cudaStreamSynchronize(stream));
            check(cudaFree(memory));
        }
        check(cudaStreamDestroy(stream));
    };
    std::thread first(work, 0), second(work, 1);
    first.join();
    second.join();
    REQUIRE(failures == std::vector<int>(2));
    for (const auto& result : results) {
        for (int i = 0; i < threads; ++i) REQUIRE(result[i] == (i + 5) % threads);
    }
}
