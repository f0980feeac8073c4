// SPDX-License-Identifier: MIT
// The executor: blocks that are resident together, flags, and how blocks take turns.
#include "cuda/device/device.cuh"
#include "tests/support/executed_kernels.hpp"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

using nca::cuda::acquire_flag;
using nca::cuda::release_flag;
using namespace nca::test;

namespace {

constexpr unsigned all_lanes = 0xffffffffU;

// Each block waits for the one before it, and adds to what that one wrote.
template <bool waits>
__global__ void relay_kernel(float* values, std::uint32_t* flags, int rounds) {
    const unsigned before = (blockIdx.x + gridDim.x - 1) % gridDim.x;
    for (int round = 0; round < rounds; ++round) {
        const auto turn = static_cast<std::uint32_t>(round) + (blockIdx.x == 0 ? 0 : 1);
        if (waits && threadIdx.x == 0) {
            while (acquire_flag(flags + before) < turn) {
            }
        }
        __syncthreads();
        const float read = values[before * blockDim.x + threadIdx.x];
        values[blockIdx.x * blockDim.x + threadIdx.x] = read * 0.5F + 1;
        __syncthreads();
        if (threadIdx.x == 0) release_flag(flags + blockIdx.x, static_cast<unsigned>(round) + 1);
    }
}

// All blocks wait for each other. Any of their threads may poll.
__global__ void grid_barrier_kernel(unsigned* values, std::uint32_t* flags, unsigned rounds) {
    const unsigned blocks = gridDim.x;
    for (unsigned round = 1; round <= rounds; ++round) {
        const unsigned read = values[(blockIdx.x + round) % blocks];
        for (int wait = 0; wait < 2; ++wait) {
            if (wait == 1 && threadIdx.x == 0) values[blockIdx.x] = read + blockIdx.x;
            __syncthreads();
            const std::uint32_t reached = 2 * round + static_cast<unsigned>(wait);
            if (threadIdx.x == 0) release_flag(flags + blockIdx.x, reached);
            for (unsigned block = threadIdx.x; block < blocks; block += blockDim.x) {
                while (acquire_flag(flags + block) < reached) {
                }
            }
            __syncthreads();
        }
    }
}

__global__ void wait_for_flag_kernel(const std::uint32_t* flags) {
    __syncthreads();
    if (threadIdx.x == 3 && blockIdx.x == 1) {
        while (std::min(acquire_flag(flags), acquire_flag(flags + 1)) < 7) {
        }
    }
    __syncthreads();
}

// A thread reads many flags that have long been raised, again and again.
__global__ void read_flags_kernel(const std::uint32_t* flags, int count, int times) {
    for (int time = 0; time < times; ++time) {
        for (int i = 0; i < count; ++i) {
            while (acquire_flag(flags + i) < 1) {
            }
        }
        __syncthreads();
    }
}

// A lane polls while its warp waits for it, and another warp for the block.
__global__ void poll_before_barrier_kernel(std::uint32_t* flag) {
    if (blockIdx.x == 1) {
        release_flag(flag, 1);
        return;
    }
    if (threadIdx.x < warpSize) {
        while (threadIdx.x == 0 && acquire_flag(flag) == 0) {
        }
        __syncwarp();
    }
    __syncthreads();
}

// The order in which the threads of all blocks come here, after each barrier again.
__global__ void order_kernel(unsigned* result, unsigned* counter, unsigned rounds) {
    const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    for (unsigned round = 0; round < rounds; ++round) {
        result[round * gridDim.x * blockDim.x + thread] = atomicAdd(counter, 1);
        __syncthreads();
    }
}

__global__ void resident_kernel(unsigned* result, std::uint32_t* counter) {
    unsigned* const shared = static_cast<unsigned*>(nca::executor::shared_arena());
    shared[threadIdx.x] = blockIdx.x * 1000 + threadIdx.x;
    if (threadIdx.x == 0) atomicAdd(counter, 1);
    while (acquire_flag(counter) < gridDim.x) {
    }
    const unsigned neighbour = __shfl_xor_sync(all_lanes, shared[threadIdx.x], 1);
    result[blockIdx.x * blockDim.x + threadIdx.x] = neighbour;
}

__global__ void cooperative_throw_kernel(std::uint32_t* flag) {
    if (blockIdx.x == 2) throw std::runtime_error("block 2");
    while (acquire_flag(flag) == 0) {
    }
}

std::vector<float> relayed(void (*kernel)(float*, std::uint32_t*, int), Order order,
                           Interleaving interleaving) {
    const ExecutedDevice device(8, 0, 8, 64 << 10);
    const BlockSchedule schedule(order, interleaving);
    const Numbers<float> values(std::vector<float>(16 * 40));
    const Numbers<std::uint32_t> flags(std::vector<std::uint32_t>(16));
    REQUIRE(launch(cooperative(16, 40), kernel, values.data(), flags.data(), 3) == cudaSuccess);
    return values.download();
}

}  // namespace

TEST_CASE("the blocks of a cooperative launch are resident together, each with its own memory") {
    const BlockSchedule schedule(GENERATE(Order::forward, Order::reverse),
                                 GENERATE(values(all_interleavings)));
    const Numbers<unsigned> result(4 * 64);
    const Numbers<std::uint32_t> counter(std::vector<std::uint32_t>{0});
    REQUIRE(launch(cooperative(4, 64, sizeof(unsigned) * 64), resident_kernel, result.data(),
                   counter.data()) == cudaSuccess);
    const std::vector<unsigned> values = result.download();
    for (unsigned i = 0; i < 4 * 64; ++i) REQUIRE(values[i] == i / 64 * 1000 + (i % 64 ^ 1));
}

TEST_CASE("blocks that wait for each other's flags give the same bits however they interleave") {
    float expected[16] = {};
    for (int i = 0; i < 3 * 16; ++i) expected[i % 16] = expected[(i + 15) % 16] * 0.5F + 1;
    for (const Order order : {Order::forward, Order::reverse}) {
        for (const Interleaving interleaving : all_interleavings) {
            const auto values = relayed(relay_kernel<true>, order, interleaving);
            for (int i = 0; i < 16 * 40; ++i) REQUIRE(values[i] == expected[i / 40]);
        }
    }
}

TEST_CASE("blocks that do not wait give other bits in some interleaving") {
    const auto run = [](Order order, Interleaving interleaving) {
        return relayed(relay_kernel<false>, order, interleaving);
    };
    const auto expected = relayed(relay_kernel<true>, Order::forward, Interleaving::by_barrier);
    CHECK(run(Order::reverse, Interleaving::by_barrier) != expected);
    CHECK(run(Order::forward, Interleaving::as_far_as_possible) != expected);
    CHECK(run(Order::forward, Interleaving::one_block_late) != expected);
    CHECK(run(Order::forward, Interleaving::random) != expected);
}

TEST_CASE("a barrier of the grid can be made of flags") {
    const BlockSchedule schedule(GENERATE(Order::forward, Order::reverse),
                                 GENERATE(values(all_interleavings)));
    const ExecutedDevice device(8, 0, 32, 64 << 10);
    const unsigned blocks = GENERATE(1, 4, 64);
    std::vector<unsigned> expected(blocks, 1);
    const Numbers<unsigned> result(expected);
    const Numbers<std::uint32_t> flags(std::vector<std::uint32_t>(expected.size()));
    for (unsigned round = 1; round <= 3; ++round) {
        const std::vector<unsigned> before = expected;
        for (unsigned i = 0; i < blocks; ++i) expected[i] = before[(i + round) % blocks] + i;
    }
    REQUIRE(launch(cooperative(blocks, 48), grid_barrier_kernel, result.data(), flags.data(), 3U) ==
            cudaSuccess);
    REQUIRE(result.download() == expected);
}

TEST_CASE("a flag that nobody raises is an error that names who waits for it") {
    const BlockSchedule schedule(GENERATE(Order::forward, Order::reverse),
                                 GENERATE(values(all_interleavings)));
    const Numbers<std::uint32_t> flags(std::vector<std::uint32_t>{6, 9});
    const bool together = GENERATE(true, false);
    const std::string message = complaint({3, 40, 0, nullptr, together}, wait_for_flag_kernel,
                                          static_cast<const std::uint32_t*>(flags.data()));
    CHECK_THAT(message, contains("kernel wait_for_flag_kernel, block 1: thread 3"));
    CHECK_THAT(message, contains("acquire_flag"));
    CHECK_THAT(message, contains("executor_blocks_test.cpp:"));
    REQUIRE(launch({}, nothing_kernel) == cudaSuccess);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
}

TEST_CASE("flags that are raised already hold nobody up") {
    const Numbers<std::uint32_t> flags(std::vector<std::uint32_t>(500, 1));
    const auto* const read = static_cast<const std::uint32_t*>(flags.data());
    CHECK(complaint({2, 1}, read_flags_kernel, read, 500, 3).empty());
    CHECK(complaint(cooperative(2, 33), read_flags_kernel, read, 500, 3).empty());
}

TEST_CASE("a lane may poll while its warp waits for it and other warps for the block") {
    const BlockSchedule schedule(GENERATE(Order::forward, Order::reverse),
                                 GENERATE(values(all_interleavings)));
    const Numbers<std::uint32_t> flag(std::vector<std::uint32_t>{0});
    CHECK(complaint(cooperative(2, 64), poll_before_barrier_kernel, flag.data()).empty());
}

TEST_CASE("random turns are the same for a seed, differ between seeds, and leave some behind") {
    constexpr unsigned blocks = 4, warps = 3, threads = warps * 32, rounds = 20;
    const auto order = [](std::uint64_t seed, Interleaving interleaving = Interleaving::random) {
        const BlockSchedule schedule(Order::forward, interleaving, seed);
        const Numbers<unsigned> counter(std::vector<unsigned>{0});
        return result_of<unsigned>(rounds * blocks * threads, cooperative(blocks, threads),
                                   order_kernel, counter.data(), rounds);
    };
    const auto first_block_in_lead = [&](const std::vector<unsigned>& came) {
        // Threads that came between the first block's last thread and the fourth block's first one.
        int most = 0;
        for (unsigned round = 0; round < rounds; ++round) {
            const unsigned* const at = came.data() + round * blocks * threads;
            most = std::max(most, static_cast<int>(at[3 * threads]) - static_cast<int>(at[0]));
        }
        return most;
    };
    const auto first = order(1);
    REQUIRE(order(1) == first);
    REQUIRE(order(2) != first);
    bool warps_change = false;
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
        const auto came = order(seed);
        auto sorted = came;
        std::sort(sorted.begin(), sorted.end());
        for (unsigned i = 0; i < sorted.size(); ++i) REQUIRE(sorted[i] == i);
        warps_change |= came[32] < came[0];
        // A block is whole rounds ahead of another one. Of the fixed interleavings only
        // as_far_as_possible does that.
        CHECK(first_block_in_lead(came) > static_cast<int>(blocks * threads));
    }
    CHECK(warps_change);
    CHECK(first_block_in_lead(order(0, Interleaving::by_barrier)) == 3 * threads);
}

TEST_CASE("what one block of a cooperative launch throws ends them all") {
    const BlockSchedule schedule(GENERATE(Order::forward, Order::reverse),
                                 GENERATE(values(all_interleavings)));
    const Numbers<std::uint32_t> flag(std::vector<std::uint32_t>{0});
    REQUIRE(launch(cooperative(4, 33), cooperative_throw_kernel, flag.data()) == cudaSuccess);
    REQUIRE(message_of<std::runtime_error>([] { cudaDeviceSynchronize(); }) == "block 2");
    REQUIRE(launch(cooperative(4, 33), nothing_kernel) == cudaSuccess);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
}

TEST_CASE("a cooperative launch of more blocks than are resident at once fails") {
    CHECK(launch(cooperative(4, 1), nothing_kernel) == cudaSuccess);
    CHECK(launch(cooperative(5, 1), nothing_kernel) == cudaErrorCooperativeLaunchTooLarge);
    CHECK(launch({5, 1}, nothing_kernel) == cudaSuccess);
    CHECK(cudaGetLastError() == cudaErrorCooperativeLaunchTooLarge);
    const ExecutedDevice device(8, 0, 66, 64 << 10);
    CHECK(complaint(cooperative(64, 256), nothing_kernel).empty());
    CHECK_THAT(complaint(cooperative(65, 256), nothing_kernel), contains("65 blocks of 256"));
    CHECK(launch(cooperative(133, 1), nothing_kernel) == cudaErrorCooperativeLaunchTooLarge);
}

TEST_CASE("one cluster runs after the other, unless the launch is cooperative") {
    const ExecutedDevice device(9, 0, 16, 64 << 10);
    const Numbers<unsigned> result(4 * 32);
    const Numbers<std::uint32_t> counter(std::vector<std::uint32_t>{0});
    Shape shape = in_clusters(2, 4, 32, sizeof(unsigned) * 32);
    shape.cooperative = GENERATE(true, false);
    const std::string message = complaint(shape, resident_kernel, result.data(), counter.data());
    CHECK(message.empty() == shape.cooperative);
}
