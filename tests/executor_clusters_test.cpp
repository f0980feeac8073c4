// SPDX-License-Identifier: MIT
// The executor: clusters, their barriers, and asynchronous stores between their blocks.
#include "cuda/device/device.cuh"
#include "tests/support/executed_kernels.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

using nca::cuda::acquire_flag;
using nca::cuda::ArrivalBarrier;
using nca::cuda::cluster_barrier;
using nca::cuda::cluster_blocks;
using nca::cuda::cluster_rank;
using nca::cuda::expect_bytes;
using nca::cuda::init_arrival_barrier;
using nca::cuda::release_flag;
using nca::cuda::store_async;
using nca::cuda::wait_arrivals;
using namespace nca::test;

namespace {

__global__ void ranks_kernel(unsigned* result) {
    result[blockIdx.x] = cluster_blocks() * 100 + cluster_rank();
}

// Each block reads what the one before it in the cluster wrote.
template <bool waits>
__global__ void cluster_barrier_kernel(unsigned* values) {
    const unsigned first = blockIdx.x - cluster_rank();
    const unsigned other = first + (cluster_rank() + 1) % cluster_blocks();
    for (unsigned round = 0; round < 3; ++round) {
        const unsigned read = values[other * blockDim.x + threadIdx.x];
        if (waits) cluster_barrier();
        values[blockIdx.x * blockDim.x + threadIdx.x] = read * 2 + blockIdx.x;
        if (waits) cluster_barrier();
        if (round == 1 && blockIdx.x - first == 1) return;
    }
}

__global__ void different_cluster_barriers_kernel() {
    if (blockIdx.x == 0) {
        cluster_barrier();
    } else {
        cluster_barrier();
    }
}

enum class Fault {
    none,
    no_wait,
    wrong_parity,
    too_few_bytes,
    too_many_bytes,
    early_end,
    rank_too_large,
    outside_of_memory,
    not_initialized
};

constexpr unsigned ring_numbers = 6;  // of a thread: four and two

struct RingStorage {
    float received[2][2][ring_numbers * 32];  // of two rounds, from both sides
    ArrivalBarrier barriers[2];
};

// The blocks of a cluster lie in a ring, and each takes the mean of its neighbours' numbers.
template <Fault fault>
__global__ void ring_kernel(float* values, unsigned rounds) {
    constexpr unsigned threads = 32;
    auto& shared = *static_cast<RingStorage*>(nca::executor::shared_arena());
    const unsigned thread = threadIdx.x, rank = cluster_rank(), blocks = cluster_blocks();
    const unsigned sides[2] = {(rank + 1) % blocks, (rank + blocks - 1) % blocks};
    float own[ring_numbers];
    float* const mine = values + blockIdx.x * ring_numbers * threads;
    for (unsigned i = 0; i < ring_numbers; ++i) own[i] = mine[i * threads + thread];
    if (thread == 0 && (fault != Fault::not_initialized || rank == 0)) {
        for (ArrivalBarrier& barrier : shared.barriers) init_arrival_barrier(barrier, 1);
    }
    cluster_barrier();
    for (unsigned round = 0; round < rounds; ++round) {
        ArrivalBarrier& barrier = shared.barriers[round % 2];
        auto& received = shared.received[round % 2];
        unsigned bytes = sizeof received;
        if (fault == Fault::too_few_bytes) bytes -= 16;
        if (fault == Fault::too_many_bytes) bytes += 4;
        if (thread == 0) expect_bytes(barrier, bytes);
        for (int side = 0; side < 2; ++side) {
            const unsigned to = sides[side] + (fault == Fault::rank_too_large ? blocks : 0);
            float* const at = fault == Fault::outside_of_memory ? mine : received[side];
            store_async(at + 4 * thread, make_float4(own[0], own[1], own[2], own[3]), barrier, to);
            store_async(at + 4 * threads + 2 * thread, make_float2(own[4], own[5]), barrier, to);
        }
        const unsigned parity = round / 2 % 2;
        if (fault == Fault::early_end && rank == 1 && round == 1) return;
        if (fault != Fault::no_wait) {
            wait_arrivals(barrier, fault == Fault::wrong_parity ? 1 - parity : parity);
        }
        for (unsigned i = 0; i < ring_numbers; ++i) {
            const unsigned at = i < 4 ? 4 * thread + i : 4 * threads + 2 * thread + i - 4;
            own[i] = (received[0][at] + received[1][at]) * 0.5F;
        }
        __syncthreads();
    }
    for (unsigned i = 0; i < ring_numbers; ++i) mine[i * threads + thread] = own[i];
}

// Stores of both sizes into the next block. Each number says where it belongs.
__global__ void store_sizes_kernel(float* result) {
    auto& shared = *static_cast<RingStorage*>(nca::executor::shared_arena());
    float* const received = shared.received[0][0];
    ArrivalBarrier& barrier = shared.barriers[0];
    init_arrival_barrier(barrier, 1);
    cluster_barrier();
    expect_bytes(barrier, 6 * sizeof(float));
    const unsigned to = 1 - cluster_rank();
    const float first = static_cast<float>(to) * 10;
    store_async(received, make_float4(first, first + 1, first + 2, first + 3), barrier, to);
    store_async(received + 4, make_float2(first + 4, first + 5), barrier, to);
    wait_arrivals(barrier, 0);
    for (unsigned i = 0; i < 6; ++i) result[cluster_rank() * 6 + i] = received[i];
}

__global__ void store_into_ended_kernel(std::uint32_t* flag) {
    auto& shared = *static_cast<RingStorage*>(nca::executor::shared_arena());
    init_arrival_barrier(shared.barriers[0], 1);
    cluster_barrier();
    if (cluster_rank() == 1) {
        release_flag(flag, 1);
        return;
    }
    while (acquire_flag(flag) == 0) {
    }
    acquire_flag(flag);  // the other block goes on
    store_async(shared.received[0][0], make_float2(1, 2), shared.barriers[0], 1);
}

__global__ void store_misaligned_kernel() {
    auto& shared = *static_cast<RingStorage*>(nca::executor::shared_arena());
    init_arrival_barrier(shared.barriers[0], 1);
    cluster_barrier();
    store_async(shared.received[0][0] + 1, make_float2(1, 2), shared.barriers[0], 0);
}

constexpr unsigned ring_blocks = 5, ring_rounds = 7;

std::vector<float> ring_start() {
    std::vector<float> values(2 * ring_blocks * ring_numbers * 32);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i * 37 % 64);
    return values;
}

Shape ring_shape() { return in_clusters(ring_blocks, 2 * ring_blocks, 32, sizeof(RingStorage)); }

std::vector<float> ring_result(void (*kernel)(float*, unsigned), Order order,
                               Interleaving interleaving) {
    const ExecutedDevice device(9, 0, 16, 64 << 10);
    const BlockSchedule schedule(order, interleaving);
    const Numbers<float> values(ring_start());
    REQUIRE(launch(ring_shape(), kernel, values.data(), ring_rounds) == cudaSuccess);
    return values.download();
}

std::string ring_complaint(void (*kernel)(float*, unsigned), Order order,
                           unsigned rounds = ring_rounds) {
    const ExecutedDevice device(9, 0, 16, 64 << 10);
    const BlockSchedule schedule(order);
    const Numbers<float> values(ring_start());
    return complaint(ring_shape(), kernel, values.data(), rounds);
}

}  // namespace

TEST_CASE("blocks know their place in their cluster") {
    const ExecutedDevice device(9, 0, 16, 64 << 10);
    const BlockSchedule schedule(GENERATE(Order::forward, Order::reverse));
    const auto ranks = result_of<unsigned>(24, in_clusters(6, 24, 1), ranks_kernel);
    for (unsigned i = 0; i < 24; ++i) REQUIRE(ranks[i] == 600 + i % 6);
    for (const unsigned rank : result_of<unsigned>(6, {6, 1}, ranks_kernel)) REQUIRE(rank == 100);
}

TEST_CASE("a cluster barrier separates the blocks of a cluster that have not finished") {
    const ExecutedDevice device(9, 0, 16, 64 << 10);
    const auto run = [](void (*kernel)(unsigned*), Order order, Interleaving interleaving) {
        const BlockSchedule schedule(order, interleaving);
        const Numbers<unsigned> values(std::vector<unsigned>(12 * 40, 1));
        REQUIRE(launch(in_clusters(4, 12, 40), kernel, values.data()) == cudaSuccess);
        return values.download();
    };
    std::vector<unsigned> expected(12, 1);
    for (unsigned round = 0; round < 3; ++round) {
        const std::vector<unsigned> before = expected;
        for (unsigned i = 0; i < 12; ++i) {
            if (round == 2 && i % 4 == 1) continue;  // it has finished
            expected[i] = before[i / 4 * 4 + (i + 1) % 4] * 2 + i;
        }
    }
    for (const Order order : {Order::forward, Order::reverse}) {
        for (const Interleaving interleaving : all_interleavings) {
            const auto values = run(cluster_barrier_kernel<true>, order, interleaving);
            for (int i = 0; i < 12 * 40; ++i) REQUIRE(values[i] == expected[i / 40]);
        }
    }
    CHECK(run(cluster_barrier_kernel<false>, Order::forward, Interleaving::by_barrier) !=
          run(cluster_barrier_kernel<false>, Order::reverse, Interleaving::by_barrier));
}

TEST_CASE("blocks of a cluster that wait at different barriers are an error that names both") {
    const ExecutedDevice device(9, 0, 16, 64 << 10);
    const std::string message = complaint(in_clusters(2, 2, 3), different_cluster_barriers_kernel);
    CHECK_THAT(message, contains("block 0"));
    CHECK_THAT(message, contains("block 1, thread 0 at cluster_barrier"));
}

TEST_CASE("asynchronous stores reach the neighbours in a cluster, with the same bits always") {
    std::vector<float> expected = ring_start();
    constexpr std::size_t numbers = ring_numbers * 32;
    for (unsigned round = 0; round < ring_rounds; ++round) {
        const std::vector<float> before = expected;
        for (unsigned block = 0; block < 2 * ring_blocks; ++block) {
            const unsigned first = block / ring_blocks * ring_blocks;
            const unsigned next = first + (block + 1) % ring_blocks;
            const unsigned previous = first + (block + ring_blocks - 1) % ring_blocks;
            for (std::size_t i = 0; i < numbers; ++i) {
                expected[block * numbers + i] =
                    (before[next * numbers + i] + before[previous * numbers + i]) * 0.5F;
            }
        }
    }
    for (const Order order : {Order::forward, Order::reverse}) {
        for (const Interleaving interleaving : all_interleavings) {
            REQUIRE(ring_result(ring_kernel<Fault::none>, order, interleaving) == expected);
        }
    }
}

TEST_CASE("stores that nobody waits for, or with the wrong parity, are noticed") {
    for (const auto kernel : {ring_kernel<Fault::no_wait>, ring_kernel<Fault::wrong_parity>}) {
        CHECK_THAT(ring_complaint(kernel, Order::forward), contains("more arrivals than"));
        CHECK_THAT(ring_complaint(kernel, Order::forward, 1), contains("has finished while"));
    }
    CHECK(ring_result(ring_kernel<Fault::no_wait>, Order::reverse, Interleaving::by_barrier) !=
          ring_result(ring_kernel<Fault::none>, Order::reverse, Interleaving::by_barrier));
    CHECK_THAT(ring_complaint(ring_kernel<Fault::wrong_parity>, Order::reverse),
               contains("wait_arrivals"));
}

TEST_CASE("a wrong number of expected bytes is noticed") {
    const Order order = GENERATE(Order::forward, Order::reverse);
    const std::string too_many = ring_complaint(ring_kernel<Fault::too_many_bytes>, order);
    CHECK_THAT(too_many, contains("wait_arrivals"));
    CHECK_THAT(too_many, contains("executor_clusters_test.cpp:"));
    CHECK_THAT(too_many, contains("0 arrivals and"));
    CHECK_THAT(ring_complaint(ring_kernel<Fault::too_few_bytes>, order, 1),
               contains(order == Order::forward ? "has finished while" : "-16 bytes are pending"));
}

TEST_CASE("asynchronous stores that cannot arrive are errors") {
    const Order order = GENERATE(Order::forward, Order::reverse);
    CHECK_THAT(ring_complaint(ring_kernel<Fault::early_end>, order), contains("has finished"));
    CHECK_THAT(ring_complaint(ring_kernel<Fault::rank_too_large>, order),
               contains("of a cluster of 5"));
    CHECK_THAT(ring_complaint(ring_kernel<Fault::outside_of_memory>, order),
               contains("outside of shared memory"));
    CHECK_THAT(ring_complaint(ring_kernel<Fault::not_initialized>, order),
               contains("not initialized"));
}

TEST_CASE("asynchronous stores are of 8 and 16 bytes") {
    const ExecutedDevice device(9, 0, 16, 64 << 10);
    const BlockSchedule schedule(GENERATE(Order::forward, Order::reverse));
    const auto stored =
        result_of<float>(12, in_clusters(2, 2, 1, sizeof(RingStorage)), store_sizes_kernel);
    for (int i = 0; i < 12; ++i) REQUIRE(stored[i] == static_cast<float>(i / 6 * 10 + i % 6));
    CHECK_THAT(complaint(in_clusters(2, 2, 1, sizeof(RingStorage)), store_misaligned_kernel),
               contains("not aligned to its size"));
}

TEST_CASE("a store into a block that has ended is an error") {
    const ExecutedDevice device(9, 0, 16, 64 << 10);
    const BlockSchedule schedule(GENERATE(Order::forward, Order::reverse));
    const Numbers<std::uint32_t> flag(std::vector<std::uint32_t>{0});
    CHECK_THAT(
        complaint(in_clusters(2, 2, 1, sizeof(RingStorage)), store_into_ended_kernel, flag.data()),
        contains("block 1 of the cluster has ended"));
}

TEST_CASE("clusters need a device that has them, and must fit it") {
    const auto run = [](unsigned cluster, unsigned blocks) {
        return launch(in_clusters(cluster, blocks, 1), nothing_kernel);
    };
    const auto clusters_at_once = [](unsigned blocks) {
        cudaLaunchAttribute attribute{};
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim = {blocks, 1, 1};
        const cudaLaunchConfig_t config{blocks, 256, 0, nullptr, &attribute, 1};
        int clusters = -1;
        const cudaError_t error =
            cudaOccupancyMaxActiveClusters(&clusters, nothing_kernel, &config);
        return error ? -static_cast<int>(error) : clusters;
    };
    CHECK(run(2, 4) == cudaErrorNotSupported);
    CHECK(clusters_at_once(2) == -cudaErrorNotSupported);
    const ExecutedDevice device(9, 0, 40, 64 << 10);  // in groups of 16, 16 and 8
    CHECK(run(2, 4) == cudaSuccess);
    CHECK(run(2, 5) == cudaErrorInvalidClusterSize);
    CHECK(run(0, 4) == cudaSuccess);  // none
    CHECK(run(8, 16) == cudaSuccess);
    CHECK(run(9, 18) == cudaErrorInvalidClusterSize);
    CHECK(clusters_at_once(8) == 10);
    CHECK(clusters_at_once(6) == 12);
    CHECK(clusters_at_once(9) == -cudaErrorInvalidClusterSize);
    Shape together = in_clusters(6, 72, 1);
    together.cooperative = true;
    CHECK(launch(together, nothing_kernel) == cudaSuccess);
    together.blocks = 78;
    CHECK(launch(together, nothing_kernel) == cudaErrorCooperativeLaunchTooLarge);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);

    nca::executor::set_multiprocessors(3);
    CHECK(clusters_at_once(8) == 0);
    CHECK(run(8, 8) == cudaErrorInvalidClusterSize);
    cudaGetLastError();
}
