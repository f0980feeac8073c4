// SPDX-License-Identifier: MIT
// Bulk copies on the executor: what they copy and when, and that it notices their misuse.
#include "cuda/device/device.cuh"
#include "tests/support/executed_kernels.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

using namespace nca::cuda;
using namespace nca::test;

namespace {

constexpr unsigned threads = 40, piece = 4 * threads, pieces = 3;  // of numbers
constexpr unsigned piece_bytes = piece * sizeof(float);

struct Storage {
    float values[piece];
    ArrivalBarrier loaded;
};

enum class Fault {
    none,
    no_arrival_wait,
    too_many_bytes_expected,
    no_fence,
    no_read_wait,
    written_before_read,
    shared_not_aligned,
    global_not_aligned,
    size_not_aligned,
    no_bytes,
    outside_of_memory,
    shared_for_global
};

template <Fault fault>
__device__ void load(Storage& shared, const float* from) {
    constexpr bool overlong = fault == Fault::too_many_bytes_expected;
    expect_bytes(shared.loaded, piece_bytes + (overlong ? 16 : 0));
    const float* const source = fault == Fault::global_not_aligned  ? from + 1
                                : fault == Fault::shared_for_global ? shared.values
                                                                    : from;
    const unsigned bytes = fault == Fault::size_not_aligned ? piece_bytes - 8
                           : fault == Fault::no_bytes       ? 0
                                                            : piece_bytes;
    bulk_load(shared.values + (fault == Fault::shared_not_aligned ? 2 : 0), source, bytes,
              shared.loaded);
}

// Adds one to each number. A block loads a piece, changes it and stores it, one piece after the
// other.
template <Fault fault>
__global__ void add_one_kernel(float* to, const float* from) {
    auto& shared = shared_storage<Storage>();
    const unsigned thread = threadIdx.x;
    if (thread == 0) init_arrival_barrier(shared.loaded, 1);
    __syncthreads();
    for (unsigned i = 0; i < pieces; ++i) {
        const unsigned at = (blockIdx.x * pieces + i) * piece;
        if (thread == 0) load<fault>(shared, from + at);
        if (fault != Fault::no_arrival_wait) wait_arrivals(shared.loaded, i % 2);
        for (unsigned k = 0; k < 4; ++k) shared.values[k * threads + thread] += 1;
        fence_async_proxy();
        __syncthreads();
        if (thread == 0) {
            bulk_store(to + at, shared.values, piece_bytes);
            if (fault != Fault::no_read_wait && fault != Fault::written_before_read) {
                wait_bulk_reads();
            }
        }
        __syncthreads();
        for (unsigned k = 0; k < 4; ++k) shared.values[k * threads + thread] = NAN;
        __syncthreads();
        if (fault == Fault::written_before_read && thread == 0) wait_bulk_reads();
    }
}

// A bulk store with a wrong address, size or memory.
template <Fault fault>
__global__ void store_kernel(float* to) {
    auto& shared = shared_storage<Storage>();
    shared.values[threadIdx.x] = static_cast<float>(threadIdx.x);
    if (fault != Fault::no_fence) fence_async_proxy();
    __syncthreads();
    if (threadIdx.x != 0) return;
    const float* const from = fault == Fault::outside_of_memory    ? to
                              : fault == Fault::shared_not_aligned ? shared.values + 1
                                                                   : shared.values;
    float* const at = fault == Fault::global_not_aligned  ? to + 2
                      : fault == Fault::shared_for_global ? shared.values + 32
                                                          : to;
    bulk_store(at, from, fault == Fault::size_not_aligned ? 24 : fault == Fault::no_bytes ? 0 : 32);
    wait_bulk_reads();
}

// The first block stores, and raises a flag; the second one adds what it finds there.
template <bool waits>
__global__ void store_and_tell_kernel(float* values, std::uint32_t* flag) {
    auto& shared = shared_storage<Storage>();
    if (blockIdx.x == 0) {
        for (int i = 0; i < 4; ++i) shared.values[i] = static_cast<float>(i);
        fence_async_proxy();
        bulk_store(values, shared.values, 16);
        wait_bulk_reads();
        if (waits) wait_bulk_stores();
        release_flag(flag, 1);
    } else {
        while (acquire_flag(flag) == 0) {
        }
        for (int i = 0; i < 4; ++i) values[4 + i] = values[i] + 10;
    }
}

struct Run {
    explicit Run(Order order, Interleaving interleaving = Interleaving::by_barrier,
                 std::uint64_t seed = 0)
        : device(9, 0, 16, 64 << 10), schedule(order, interleaving, seed) {}
    ExecutedDevice device;
    BlockSchedule schedule;
};

constexpr unsigned blocks = 4, numbers = blocks * pieces * piece;

std::vector<float> start() {
    std::vector<float> values(numbers);
    std::iota(values.begin(), values.end(), 1.0F);
    return values;
}

template <Fault fault>
std::vector<float> added(Order order, Interleaving interleaving = Interleaving::by_barrier,
                         std::uint64_t seed = 0) {
    const Run run(order, interleaving, seed);
    const Numbers<float> from(start());
    return result_of<float>(numbers, {blocks, threads, sizeof(Storage)}, add_one_kernel<fault>,
                            static_cast<const float*>(from.data()));
}

template <Fault fault>
std::string load_complaint(Order order, Interleaving interleaving = Interleaving::by_barrier) {
    const Run run(order, interleaving);
    const Numbers<float> from(start()), to(start());
    return complaint({blocks, threads, sizeof(Storage)}, add_one_kernel<fault>, to.data(),
                     static_cast<const float*>(from.data()));
}

template <Fault fault>
std::string store_complaint(Order order) {
    const Run run(order);
    const Numbers<float> to(100);
    return complaint({1, threads, sizeof(Storage)}, store_kernel<fault>, to.data());
}

}  // namespace

TEST_CASE("bulk copies bring pieces and take them away, in both orders") {
    std::vector<float> expected = start();
    for (float& x : expected) x += 1;
    REQUIRE(added<Fault::none>(Order::forward) == expected);
    REQUIRE(added<Fault::none>(Order::reverse) == expected);
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
        REQUIRE(added<Fault::none>(Order::forward, Interleaving::random, seed) == expected);
    }
}

TEST_CASE("a bulk load that nobody waits for is noticed") {
    CHECK_THAT(load_complaint<Fault::no_arrival_wait>(Order::forward), contains("more arrivals"));
    CHECK(added<Fault::none>(Order::reverse) != added<Fault::no_arrival_wait>(Order::reverse));
}

TEST_CASE("a bulk load of fewer bytes than are expected is a deadlock that is noticed") {
    const std::string message = load_complaint<Fault::too_many_bytes_expected>(
        GENERATE(Order::forward, Order::reverse),
        GENERATE(Interleaving::by_barrier, Interleaving::random));
    CHECK_THAT(message, contains("wait_arrivals"));
    CHECK_THAT(message, contains("bytes are pending"));
}

TEST_CASE("a bulk store reads late: what is written before that is stored") {
    const std::vector<float> stored = added<Fault::written_before_read>(Order::forward);
    for (const float x : stored) REQUIRE(std::isnan(x));
    const auto by_chance =
        added<Fault::written_before_read>(Order::forward, Interleaving::random, 1);
    CHECK(std::ranges::any_of(by_chance, [](float x) { return std::isnan(x); }));
    CHECK(added<Fault::written_before_read>(Order::reverse) == added<Fault::none>(Order::forward));
}

TEST_CASE("a thread that ends before its bulk stores have read is an error") {
    const Order order = GENERATE(Order::forward, Order::reverse);
    const std::string message = load_complaint<Fault::no_read_wait>(order);
    CHECK_THAT(message, contains("thread 0"));
    CHECK_THAT(message, contains("wait_bulk_reads"));
}

TEST_CASE("a bulk store is in global memory when its thread has waited for that") {
    const auto run = [](void (*kernel)(float*, std::uint32_t*), Order order) {
        const Run with(order);
        const Numbers<float> values(std::vector<float>(8));
        const Numbers<std::uint32_t> flag(std::vector<std::uint32_t>{0});
        REQUIRE(launch(cooperative(2, 1, sizeof(Storage)), kernel, values.data(), flag.data()) ==
                cudaSuccess);
        return values.download();
    };
    const std::vector<float> expected = {0, 1, 2, 3, 10, 11, 12, 13};
    CHECK(run(store_and_tell_kernel<true>, Order::forward) == expected);
    CHECK(run(store_and_tell_kernel<true>, Order::reverse) == expected);
    CHECK(run(store_and_tell_kernel<false>, Order::forward) ==
          std::vector<float>{0, 1, 2, 3, 10, 10, 10, 10});
}

TEST_CASE("bulk copies that a GPU does not have are errors that say why") {
    const Order order = GENERATE(Order::forward, Order::reverse);
    CHECK_THAT(load_complaint<Fault::shared_not_aligned>(order),
               contains("bulk_load: an address that is not a multiple of 16"));
    CHECK_THAT(load_complaint<Fault::global_not_aligned>(order),
               contains("bulk_load: an address that is not a multiple of 16"));
    CHECK_THAT(load_complaint<Fault::size_not_aligned>(order), contains("bulk_load of 632 bytes"));
    CHECK_THAT(load_complaint<Fault::no_bytes>(order), contains("bulk_load of 0 bytes"));
    CHECK_THAT(load_complaint<Fault::shared_for_global>(order), contains("in the place of global"));

    CHECK(store_complaint<Fault::none>(order).empty());
    CHECK_THAT(store_complaint<Fault::shared_not_aligned>(order),
               contains("bulk_store: an address that is not a multiple of 16"));
    CHECK_THAT(store_complaint<Fault::global_not_aligned>(order),
               contains("bulk_store: an address that is not a multiple of 16"));
    CHECK_THAT(store_complaint<Fault::size_not_aligned>(order), contains("bulk_store of 24 bytes"));
    CHECK_THAT(store_complaint<Fault::no_bytes>(order), contains("bulk_store of 0 bytes"));
    CHECK_THAT(store_complaint<Fault::outside_of_memory>(order),
               contains("bulk_store outside of shared memory"));
    CHECK_THAT(store_complaint<Fault::shared_for_global>(order),
               contains("in the place of global"));
    CHECK_THAT(store_complaint<Fault::no_fence>(order), contains("fence_async_proxy"));
}

TEST_CASE("bulk copies need code for 9.0") {
    const ExecutedDevice device(8, 0, 16, 64 << 10);
    const Numbers<float> to(100);
    CHECK_THAT(complaint({1, threads, sizeof(Storage)}, store_kernel<Fault::no_fence>, to.data()),
               contains("bulk_store: a trap"));
}
