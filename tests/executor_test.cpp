// SPDX-License-Identifier: MIT
#include "tests/support/executor/executor.hpp"

#include "cuda/device/device.cuh"
#include "tests/support/executed_kernels.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

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

constexpr unsigned all_lanes = 0xffffffffU;

class Stream {
public:
    explicit Stream(unsigned flags = cudaStreamNonBlocking) {
        REQUIRE(cudaStreamCreateWithFlags(&stream_, flags) == cudaSuccess);
    }
    ~Stream() { cudaStreamDestroy(stream_); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    operator cudaStream_t() const { return stream_; }

private:
    cudaStream_t stream_ = nullptr;
};

class Event {
public:
    Event() { REQUIRE(cudaEventCreateWithFlags(&event_, cudaEventDefault) == cudaSuccess); }
    ~Event() { cudaEventDestroy(event_); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    operator cudaEvent_t() const { return event_; }

private:
    cudaEvent_t event_ = nullptr;
};

__global__ void positions_kernel(unsigned* result) {
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    result[block * threads + thread] += block * 1000 + thread;
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
    int any;
    int all;

    bool operator==(const Collected&) const = default;
};

__global__ void collectives_kernel(Collected* result) {
    const int lane = static_cast<int>(threadIdx.x);
    result[lane] = {.from_five = __shfl_sync(all_lanes, lane * 10, 5),
                    .below = __shfl_up_sync(all_lanes, lane, 1),
                    .above = __shfl_down_sync(all_lanes, lane, 1),
                    .below_in_eight = __shfl_up_sync(all_lanes, lane, 3, 8),
                    .wide = __shfl_sync(all_lanes, lane + 0.25, 31 - lane),
                    .odd = __ballot_sync(all_lanes, lane % 2),
                    .any = __any_sync(all_lanes, lane == 7),
                    .all = __all_sync(all_lanes, lane < 31)};
}

// Between warps, a barrier of a warp is none.
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

__global__ void throwing_kernel(unsigned culprit) {
    __syncthreads();
    if (threadIdx.x == culprit) throw std::runtime_error("thread " + std::to_string(culprit));
    __syncthreads();
}

__global__ void copy_shared_kernel(float* result) {
    result[threadIdx.x] = static_cast<float*>(nca::executor::shared_arena())[threadIdx.x];
}

__global__ void write_shared_kernel(int at) {
    static_cast<char*>(nca::executor::shared_arena())[at] = 1;
}

template <bool finish>
__global__ void async_copy_kernel(float* result, const float* from) {
    float* const shared = static_cast<float*>(nca::executor::shared_arena());
    nca::executor::defer_copy(shared + threadIdx.x * 4, from + threadIdx.x * 4, sizeof(float4));
    if (finish) nca::executor::finish_copies();
    __syncthreads();
    for (unsigned i = threadIdx.x; i < blockDim.x * 4; i += blockDim.x) result[i] = shared[i];
}

__global__ void nothing_kernel() {}

__global__ void set_kernel(int* result, int value) { *result = value; }
__global__ void twice_plus_kernel(int* result, int value) { *result = *result * 2 + value; }

struct Big {
    int values[40];
};
__global__ void sum_kernel(int* result, const __grid_constant__ Big big) {
    *result = std::accumulate(std::begin(big.values), std::end(big.values), 0);
}

__global__ void atomics_kernel(unsigned* result) {
    atomicAdd(&result[0], 1);
    atomicOr(&result[1], 1U << threadIdx.x % 32);
    atomicMax(&result[2], threadIdx.x * 7 % 64);
    atomicXor(&result[3], 1U << threadIdx.x % 31);
    atomicAnd(&result[4], ~(1U << threadIdx.x % 16));
}

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

// All blocks wait for each other; which threads poll is a matter of taste.
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

// In what order threads come here: of all blocks, and after each barrier anew.
__global__ void order_kernel(unsigned* result, unsigned* counter, unsigned rounds) {
    const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    for (unsigned round = 0; round < rounds; ++round) {
        result[round * gridDim.x * blockDim.x + thread] = atomicAdd(counter, 1);
        __syncthreads();
    }
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

// Three times, so that the first of a warp come back for the third before the last have left the
// second.
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

__global__ void ranks_kernel(unsigned* result) {
    const unsigned block = blockIdx.y * gridDim.x + blockIdx.x;
    result[block] = cluster_blocks() * 100 + cluster_rank();
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

// Both sizes that can be stored, of numbers that say where they belong; into the next block.
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

TEST_CASE("every thread of every block runs once and knows its place") {
    const InOrder in_order(GENERATE(Order::forward, Order::reverse));
    const Numbers<unsigned> result(std::vector<unsigned>(3 * 2 * 4 * 5 * 7 * 2));
    REQUIRE(launch({{3, 2, 4}, {5, 7, 2}}, positions_kernel, result.data()) == cudaSuccess);
    const std::vector<unsigned> values = result.download();
    for (unsigned i = 0; i < values.size(); ++i) REQUIRE(values[i] == i / 70 * 1000 + i % 70);
}

TEST_CASE("a block barrier separates writes from reads, in both orders") {
    const InOrder in_order(GENERATE(Order::forward, Order::reverse));
    const int threads = GENERATE(1, 31, 33, 256, 1024);
    const auto reversed =
        result_of<int>(threads, {1, threads, sizeof(int) * threads}, reverse_kernel<true>);
    const auto moved =
        result_of<int>(threads, {2, threads, sizeof(int) * threads}, barriers_in_loop_kernel);
    for (int i = 0; i < threads; ++i) {
        REQUIRE(reversed[i] == threads - 1 - i);
        REQUIRE(moved[i] == (i + 5) % threads);
    }
}

TEST_CASE("a missing barrier gives other bits in reverse order") {
    const auto run = [](Order order) {
        const InOrder in_order(order);
        return result_of<int>(64, {1, 64, sizeof(int) * 64}, reverse_kernel<false>);
    };
    REQUIRE(run(Order::forward) != run(Order::reverse));
    REQUIRE(run(Order::forward) == run(Order::forward));
    const WithInterleaving with(Interleaving::random);
    REQUIRE(run(Order::forward) !=
            result_of<int>(64, {1, 64, sizeof(int) * 64}, reverse_kernel<true>));
}

TEST_CASE("a block barrier does not wait for threads that have finished") {
    const Numbers<int> result(std::vector<int>(100));
    REQUIRE(launch({1, 100}, some_finish_early_kernel, result.data()) == cudaSuccess);
    const std::vector<int> values = result.download();
    for (int i = 0; i < 100; ++i) REQUIRE(values[i] == (i % 3 == 0 ? 0 : 2));
}

TEST_CASE("the lanes of a warp exchange values, in both orders") {
    const InOrder in_order(GENERATE(Order::forward, Order::reverse));
    const auto sums = result_of<int>(96, {1, 96}, warp_sum_kernel);
    for (int i = 0; i < 96; ++i) REQUIRE(sums[i] == 31 * 16 + i / 32 * 32 * 32);

    const auto collected = result_of<Collected>(32, {1, 32}, collectives_kernel);
    for (int lane = 0; lane < 32; ++lane) {
        const Collected expected{.from_five = 50,
                                 .below = lane == 0 ? 0 : lane - 1,
                                 .above = lane == 31 ? 31 : lane + 1,
                                 .below_in_eight = lane % 8 < 3 ? lane : lane - 3,
                                 .wide = 31 - lane + 0.25,
                                 .odd = 0xaaaaaaaaU,
                                 .any = 1,
                                 .all = 0};
        REQUIRE(collected[lane] == expected);
    }
}

TEST_CASE("the lanes of a warp reduce values, and shuffle wide ones") {
    const InOrder in_order(GENERATE(Order::forward, Order::reverse));
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
    nca::executor::name_next_launch("different_barriers_kernel");
    const std::string message = complaint({{2, 3}, 64}, different_barriers_kernel);
    CHECK_THAT(message, contains("different_barriers_kernel"));
    CHECK_THAT(message, contains("block (0, 0, 0)"));
    CHECK_THAT(message, contains("thread (0, 0, 0) at __syncthreads"));
    CHECK_THAT(message, contains("thread (40, 0, 0) at __syncthreads"));
    CHECK_THAT(message, contains("executor_test.cpp:"));
}

TEST_CASE("a barrier that some threads never reach is an error") {
    const std::string message = complaint({1, 32}, unreached_barrier_kernel);
    CHECK_THAT(message, contains("thread (3, 0, 0) at __syncthreads"));
    CHECK_THAT(message, contains("thread (0, 0, 0) at __syncwarp"));
}

TEST_CASE("a collective without one of its lanes is an error") {
    CHECK_THAT(complaint({1, 32}, finished_lane_kernel), contains("thread (4, 0, 0)"));
    CHECK_THAT(complaint({1, 10}, lane_beyond_warp_kernel), contains("lane 20"));
    CHECK_THAT(complaint({1, 32}, partial_mask_kernel), contains("full warp"));
}

TEST_CASE("a barrier outside of a kernel is an error") {
    REQUIRE_THROWS_AS(__syncthreads(), std::logic_error);
    REQUIRE_THROWS_AS(nca::executor::shared_arena(), std::logic_error);
}

TEST_CASE("what a kernel throws comes out of the call that waits, and later kernels run") {
    const InOrder in_order(GENERATE(Order::forward, Order::reverse));
    for (const unsigned culprit : {0U, 45U, 99U}) {
        const Stream stream;
        const Numbers<int> result(1);
        REQUIRE(launch({3, 100, 0, stream}, throwing_kernel, culprit) == cudaSuccess);
        REQUIRE(launch({1, 1, 0, stream}, set_kernel, result.data(), 1) == cudaSuccess);
        REQUIRE(message_of<std::runtime_error>([&] { cudaStreamSynchronize(stream); }) ==
                "thread " + std::to_string(culprit));
        REQUIRE(cudaStreamQuery(stream) == cudaSuccess);
        REQUIRE(result.download() != std::vector<int>{1});

        REQUIRE(launch({1, 1, 0, stream}, set_kernel, result.data(), 2) == cudaSuccess);
        REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
        REQUIRE(result.download() == std::vector<int>{2});
    }
}

TEST_CASE("what a kernel throws while memory is freed comes out of the next call that waits") {
    int* memory = nullptr;
    REQUIRE(cudaMalloc(&memory, 4) == cudaSuccess);
    REQUIRE(launch({1, 100}, throwing_kernel, 7U) == cudaSuccess);
    REQUIRE(cudaFree(memory) == cudaErrorLaunchFailure);
    REQUIRE(message_of<std::runtime_error>([] { cudaDeviceSynchronize(); }) == "thread 7");
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
}

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

TEST_CASE("atomics add up, and integer intrinsics count bits") {
    const Numbers<unsigned> result(std::vector<unsigned>{0, 0, 0, 0, 0xfffffU});
    REQUIRE(launch({3, 64}, atomics_kernel, result.data()) == cudaSuccess);
    REQUIRE(result.download() == std::vector<unsigned>{192, 0xffffffffU, 63, 3, 0xf0000U});

    REQUIRE(__umulhi(0xffffffffU, 0xffffffffU) == 0xfffffffeU);
    REQUIRE(__popc(0xf0f0U) == 8);
    REQUIRE(__popcll(0xf0f0000000000001U) == 9);
    REQUIRE(__ffsll(std::int64_t{1} << 40) == 41);
    REQUIRE(__clzll(std::int64_t{1} << 40) == 23);
    REQUIRE(__funnelshift_l(0x80000001U, 0x40000000U, 1) == 0x80000001U);
    REQUIRE(__funnelshift_r(0x80000001U, 0x40000001U, 1) == 0xc0000000U);
    REQUIRE(__funnelshift_l(1, 2, 32) == 2);
    REQUIRE(__ffs(0) == 0);
    REQUIRE(__ffs(8) == 4);
    REQUIRE(__clz(0) == 32);
    REQUIRE(__clz(1) == 31);
    REQUIRE(__brev(0x3U) == 0xc0000000U);
}

TEST_CASE("a launch beyond the limits of a GPU fails") {
    const auto run = [](dim3 grid, dim3 block, std::size_t bytes) {
        return launch({grid, block, bytes}, nothing_kernel);
    };
    CHECK(run(1, 1024, 0) == cudaSuccess);
    CHECK(run({1, 1, 3}, {2, 8, 64}, 48 << 10) == cudaSuccess);
    CHECK(run(1, 1025, 0) == cudaErrorInvalidConfiguration);
    CHECK(run(1, {64, 64, 1}, 0) == cudaErrorInvalidConfiguration);
    CHECK(run(1, {1, 1, 65}, 0) == cudaErrorInvalidConfiguration);
    CHECK(run(1, 0, 0) == cudaErrorInvalidConfiguration);
    CHECK(run(0, 1, 0) == cudaErrorInvalidConfiguration);
    CHECK(run({1, 65536, 1}, 1, 0) == cudaErrorInvalidConfiguration);
    CHECK(run({1, 1, 65536}, 1, 0) == cudaErrorInvalidConfiguration);
    CHECK(cudaPeekAtLastError() == cudaErrorInvalidConfiguration);
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

TEST_CASE("the blocks of a cooperative launch are resident together, each with its own memory") {
    const InOrder in_order(GENERATE(Order::forward, Order::reverse));
    const WithInterleaving with(GENERATE(values(all_interleavings)));
    const Numbers<unsigned> result(4 * 64);
    const Numbers<std::uint32_t> counter(std::vector<std::uint32_t>{0});
    REQUIRE(launch(cooperative(4, 64, sizeof(unsigned) * 64), resident_kernel, result.data(),
                   counter.data()) == cudaSuccess);
    const std::vector<unsigned> values = result.download();
    for (unsigned i = 0; i < 4 * 64; ++i) REQUIRE(values[i] == i / 64 * 1000 + (i % 64 ^ 1));
}

std::vector<float> relayed(void (*kernel)(float*, std::uint32_t*, int), Order order,
                           Interleaving interleaving) {
    const WithDevice device(8, 0, 8, 64 << 10);
    const InOrder in_order(order);
    const WithInterleaving with(interleaving);
    const Numbers<float> values(std::vector<float>(16 * 40));
    const Numbers<std::uint32_t> flags(std::vector<std::uint32_t>(16));
    REQUIRE(launch(cooperative(16, 40), kernel, values.data(), flags.data(), 3) == cudaSuccess);
    return values.download();
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
    const InOrder in_order(GENERATE(Order::forward, Order::reverse));
    const WithInterleaving with(GENERATE(values(all_interleavings)));
    const WithDevice device(8, 0, 32, 64 << 10);
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
    const InOrder in_order(GENERATE(Order::forward, Order::reverse));
    const WithInterleaving with(GENERATE(values(all_interleavings)));
    const Numbers<std::uint32_t> flags(std::vector<std::uint32_t>{6, 9});
    const bool together = GENERATE(true, false);
    nca::executor::name_next_launch("wait_for_flag_kernel");
    const std::string message = complaint({3, 40, 0, nullptr, together}, wait_for_flag_kernel,
                                          static_cast<const std::uint32_t*>(flags.data()));
    CHECK_THAT(message, contains("kernel wait_for_flag_kernel, block (1, 0, 0): thread (3, 0, 0)"));
    CHECK_THAT(message, contains("acquire_flag"));
    CHECK_THAT(message, contains("executor_test.cpp:"));
    REQUIRE(launch({}, nothing_kernel) == cudaSuccess);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
}

TEST_CASE("flags that are raised already hold nobody up") {
    const Numbers<std::uint32_t> flags(std::vector<std::uint32_t>(500, 1));
    const auto* const read = static_cast<const std::uint32_t*>(flags.data());
    CHECK(complaint({2, 1}, read_flags_kernel, read, 500, 3).empty());
    CHECK(complaint(cooperative(2, 33), read_flags_kernel, read, 500, 3).empty());
}

TEST_CASE("a thread may poll while others of its block and its warp wait at a barrier") {
    const InOrder in_order(GENERATE(Order::forward, Order::reverse));
    const Numbers<std::uint32_t> flag(std::vector<std::uint32_t>{0});
    REQUIRE(launch({1, 64}, flag_within_block_kernel, flag.data()) == cudaSuccess);
    REQUIRE(flag.download() == std::vector<std::uint32_t>{2});
}

TEST_CASE("a lane may poll while its warp waits for it and other warps for the block") {
    const InOrder in_order(GENERATE(Order::forward, Order::reverse));
    const WithInterleaving with(GENERATE(values(all_interleavings)));
    const Numbers<std::uint32_t> flag(std::vector<std::uint32_t>{0});
    CHECK(complaint(cooperative(2, 64), poll_before_barrier_kernel, flag.data()).empty());
}

TEST_CASE("random turns are the same for a seed, differ between seeds, and leave some behind") {
    constexpr unsigned blocks = 4, warps = 3, threads = warps * 32, rounds = 20;
    const auto order = [](std::uint64_t seed, Interleaving interleaving = Interleaving::random) {
        const WithInterleaving with(interleaving, seed);
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
        // A block is whole rounds ahead of another one, which no fixed way of taking turns does but
        // the one that lets them run as far as they can.
        CHECK(first_block_in_lead(came) > static_cast<int>(blocks * threads));
    }
    CHECK(warps_change);
    CHECK(first_block_in_lead(order(0, Interleaving::by_barrier)) == 3 * threads);
}

TEST_CASE("what one block of a cooperative launch throws ends them all") {
    const InOrder in_order(GENERATE(Order::forward, Order::reverse));
    const WithInterleaving with(GENERATE(values(all_interleavings)));
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
    const WithDevice device(8, 0, 66, 64 << 10);
    CHECK(complaint(cooperative(64, 256), nothing_kernel).empty());
    CHECK_THAT(complaint(cooperative(65, 256), nothing_kernel), contains("65 blocks of 256"));
    CHECK(launch(cooperative(133, 1), nothing_kernel) == cudaErrorCooperativeLaunchTooLarge);
}

TEST_CASE("the device is as large and as new as a test has set it") {
    const auto attribute = [](cudaDeviceAttr which) {
        int value = -1;
        REQUIRE(cudaDeviceGetAttribute(&value, which, 0) == cudaSuccess);
        return value;
    };
    constexpr auto largest = cudaFuncAttributeMaxDynamicSharedMemorySize;
    CHECK(attribute(cudaDevAttrCooperativeLaunch) == 1);
    {
        const WithDevice device(9, 0, 132, 227 << 10);
        CHECK(attribute(cudaDevAttrComputeCapabilityMajor) == 9);
        CHECK(attribute(cudaDevAttrComputeCapabilityMinor) == 0);
        CHECK(attribute(cudaDevAttrMultiProcessorCount) == 132);
        CHECK(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) == 227 << 10);
        REQUIRE(cudaFuncSetAttribute(write_shared_kernel, largest, 227 << 10) == cudaSuccess);
        CHECK(complaint({1, 1, 227 << 10}, write_shared_kernel, (227 << 10) - 1).empty());
        REQUIRE(cudaFuncSetAttribute(write_shared_kernel, largest, 48 << 10) == cudaSuccess);
    }
    CHECK(attribute(cudaDevAttrComputeCapabilityMajor) == 7);
    CHECK(cudaFuncSetAttribute(write_shared_kernel, largest, 227 << 10) == cudaErrorInvalidValue);
}

TEST_CASE("the lanes of a warp work on pieces together, in both orders") {
    const InOrder in_order(GENERATE(Order::forward, Order::reverse));
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

TEST_CASE("blocks know their place in their cluster") {
    const WithDevice device(9, 0, 16, 64 << 10);
    const InOrder in_order(GENERATE(Order::forward, Order::reverse));
    const auto ranks = result_of<unsigned>(24, in_clusters({2, 3}, {4, 6}, 1), ranks_kernel);
    for (unsigned i = 0; i < 24; ++i) REQUIRE(ranks[i] == 600 + i / 4 % 3 * 2 + i % 2);
    for (const unsigned rank : result_of<unsigned>(6, {6, 1}, ranks_kernel)) REQUIRE(rank == 100);
}

TEST_CASE("a cluster barrier separates the blocks of a cluster that have not finished") {
    const WithDevice device(9, 0, 16, 64 << 10);
    const auto run = [](void (*kernel)(unsigned*), Order order, Interleaving interleaving) {
        const InOrder in_order(order);
        const WithInterleaving with(interleaving);
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
    const WithDevice device(9, 0, 16, 64 << 10);
    const std::string message = complaint(in_clusters(2, 2, 3), different_cluster_barriers_kernel);
    CHECK_THAT(message, contains("block (0, 0, 0)"));
    CHECK_THAT(message, contains("block (1, 0, 0), thread (0, 0, 0) at cluster_barrier"));
}

TEST_CASE("one cluster runs after the other, unless the launch is cooperative") {
    const WithDevice device(9, 0, 16, 64 << 10);
    const Numbers<unsigned> result(4 * 32);
    const Numbers<std::uint32_t> counter(std::vector<std::uint32_t>{0});
    Shape shape = in_clusters(2, 4, 32, sizeof(unsigned) * 32);
    shape.cooperative = GENERATE(true, false);
    const std::string message = complaint(shape, resident_kernel, result.data(), counter.data());
    CHECK(message.empty() == shape.cooperative);
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
    const WithDevice device(9, 0, 16, 64 << 10);
    const InOrder in_order(order);
    const WithInterleaving with(interleaving);
    const Numbers<float> values(ring_start());
    REQUIRE(launch(ring_shape(), kernel, values.data(), ring_rounds) == cudaSuccess);
    return values.download();
}

std::string ring_complaint(void (*kernel)(float*, unsigned), Order order,
                           unsigned rounds = ring_rounds) {
    const WithDevice device(9, 0, 16, 64 << 10);
    const InOrder in_order(order);
    const Numbers<float> values(ring_start());
    return complaint(ring_shape(), kernel, values.data(), rounds);
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
    CHECK_THAT(too_many, contains("executor_test.cpp:"));
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
    const WithDevice device(9, 0, 16, 64 << 10);
    const InOrder in_order(GENERATE(Order::forward, Order::reverse));
    const auto stored =
        result_of<float>(12, in_clusters(2, 2, 1, sizeof(RingStorage)), store_sizes_kernel);
    for (int i = 0; i < 12; ++i) REQUIRE(stored[i] == static_cast<float>(i / 6 * 10 + i % 6));
    CHECK_THAT(complaint(in_clusters(2, 2, 1, sizeof(RingStorage)), store_misaligned_kernel),
               contains("not aligned to its size"));
}

TEST_CASE("a store into a block that has ended is an error") {
    const WithDevice device(9, 0, 16, 64 << 10);
    const InOrder in_order(GENERATE(Order::forward, Order::reverse));
    const Numbers<std::uint32_t> flag(std::vector<std::uint32_t>{0});
    CHECK_THAT(
        complaint(in_clusters(2, 2, 1, sizeof(RingStorage)), store_into_ended_kernel, flag.data()),
        contains("block 1 of the cluster has ended"));
}

TEST_CASE("clusters need a device that has them, and must fit it") {
    const auto run = [](dim3 cluster, dim3 grid) {
        return launch(in_clusters(cluster, grid, 1), nothing_kernel);
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
    const auto has_clusters = [] {
        int value = -1;
        REQUIRE(cudaDeviceGetAttribute(&value, cudaDevAttrClusterLaunch, 0) == cudaSuccess);
        return value;
    };
    CHECK(has_clusters() == 0);
    CHECK(run(2, 4) == cudaErrorNotSupported);
    CHECK(clusters_at_once(2) == -cudaErrorNotSupported);
    const WithDevice device(9, 0, 40, 64 << 10);  // in groups of 16, 16 and 8
    CHECK(has_clusters() == 1);
    nca::executor::set_clusters_supported(false);
    CHECK(has_clusters() == 0);
    CHECK(run(2, 4) == cudaErrorNotSupported);
    nca::executor::set_clusters_supported(true);

    CHECK(run(2, 4) == cudaSuccess);
    CHECK(run({2, 2}, {4, 2}) == cudaSuccess);
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
    together.grid = 78;
    CHECK(launch(together, nothing_kernel) == cudaErrorCooperativeLaunchTooLarge);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);

    nca::executor::set_multiprocessors(3);
    CHECK(clusters_at_once(8) == 0);
    CHECK(run(8, 8) == cudaErrorInvalidClusterSize);
    cudaGetLastError();
}

TEST_CASE("kernels are known by the names of their launches") {
    nca::executor::name_next_launch("first_name");
    REQUIRE(launch({}, nothing_kernel) == cudaSuccess);
    REQUIRE(nca::executor::launched_kernels().count("first_name") == 0);
    REQUIRE(launch({}, nothing_kernel) == cudaSuccess);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    REQUIRE(nca::executor::launched_kernels().count("first_name") == 1);
    REQUIRE(nca::executor::launched_kernels().count("unnamed") == 1);
}

TEST_CASE("work waits until somebody waits for it") {
    cudaGetLastError();  // of another test
    const Stream stream;
    const Numbers<int> result(std::vector<int>{5});
    int source = 1, seen = -1;
    REQUIRE(cudaMemcpyAsync(result.data(), &source, 4, cudaMemcpyHostToDevice, stream) ==
            cudaSuccess);
    REQUIRE(launch({1, 1, 0, stream}, twice_plus_kernel, result.data(), 3) == cudaSuccess);
    REQUIRE(cudaMemcpyAsync(&seen, result.data(), 4, cudaMemcpyDeviceToHost, stream) ==
            cudaSuccess);
    REQUIRE(seen == -1);
    source = 10;  // too early
    SECTION("for the stream") { REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess); }
    SECTION("for the device") { REQUIRE(cudaDeviceSynchronize() == cudaSuccess); }
    SECTION("for any memory to be free") { const Numbers<int> other(1); }
    SECTION("with queries") {
        int queries = 0;
        for (; cudaStreamQuery(stream) == cudaErrorNotReady; ++queries) REQUIRE(queries < 10);
        REQUIRE(queries == 3);
    }
    SECTION("for an event") {
        const Event event;
        REQUIRE(cudaEventRecord(event, stream) == cudaSuccess);
        REQUIRE(cudaEventQuery(event) == cudaErrorNotReady);
        REQUIRE(cudaEventSynchronize(event) == cudaSuccess);
        REQUIRE(cudaEventQuery(event) == cudaSuccess);
    }
    REQUIRE(seen == 23);
    REQUIRE(cudaGetLastError() == cudaSuccess);
}

TEST_CASE("the arguments of a launch are copied at the call") {
    const Numbers<int> result(1);
    Big big{};
    big.values[0] = 3;
    big.values[39] = 4;
    REQUIRE(launch({}, sum_kernel, result.data(), big) == cudaSuccess);
    big.values[0] = 100;
    REQUIRE(result.download() == std::vector<int>{7});
}

TEST_CASE("work in a destroyed stream still runs") {
    const Numbers<int> result(1);
    {
        const Stream stream;
        REQUIRE(launch({1, 1, 0, stream}, set_kernel, result.data(), 8) == cudaSuccess);
    }
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    REQUIRE(result.download() == std::vector<int>{8});
}

TEST_CASE("a stream waits for the work that an event has recorded in another, and for no more") {
    const Stream first, second;
    const Event event;
    const Numbers<int> one(std::vector<int>{0}), other(std::vector<int>{0});
    REQUIRE(launch({1, 1, 0, first}, set_kernel, one.data(), 5) == cudaSuccess);
    REQUIRE(cudaEventRecord(event, first) == cudaSuccess);
    REQUIRE(launch({1, 1, 0, first}, set_kernel, other.data(), 5) == cudaSuccess);
    const bool waits = GENERATE(true, false);
    if (waits) REQUIRE(cudaStreamWaitEvent(second, event) == cudaSuccess);
    int seen[2] = {-1, -1};
    REQUIRE(cudaMemcpyAsync(&seen[0], one.data(), 4, cudaMemcpyDeviceToHost, second) ==
            cudaSuccess);
    REQUIRE(cudaMemcpyAsync(&seen[1], other.data(), 4, cudaMemcpyDeviceToHost, second) ==
            cudaSuccess);
    REQUIRE(cudaStreamSynchronize(second) == cudaSuccess);
    REQUIRE(seen[0] == (waits ? 5 : 0));
    REQUIRE(seen[1] == 0);
    REQUIRE(cudaStreamSynchronize(first) == cudaSuccess);
}

TEST_CASE("events tell the time between them") {
    const Event start, end;
    const Numbers<int> result(1);
    float milliseconds = -1;
    REQUIRE(cudaEventElapsedTime(&milliseconds, start, end) == cudaErrorInvalidResourceHandle);
    REQUIRE(cudaEventRecord(start) == cudaSuccess);
    REQUIRE(launch({}, set_kernel, result.data(), 1) == cudaSuccess);
    REQUIRE(cudaEventRecord(end) == cudaSuccess);
    REQUIRE(cudaEventElapsedTime(&milliseconds, start, end) == cudaErrorNotReady);
    REQUIRE(cudaEventSynchronize(end) == cudaSuccess);
    REQUIRE(cudaEventElapsedTime(&milliseconds, start, end) == cudaSuccess);
    REQUIRE(milliseconds > 0);
}

TEST_CASE("the default stream and blocking streams wait for each other, others do not") {
    const bool blocking = GENERATE(true, false);
    const Stream stream(blocking ? cudaStreamDefault : cudaStreamNonBlocking);
    const Numbers<int> result(std::vector<int>{0});
    int seen = -1;
    SECTION("the default stream for the other") {
        REQUIRE(launch({1, 1, 0, stream}, set_kernel, result.data(), 5) == cudaSuccess);
        REQUIRE(cudaMemcpy(&seen, result.data(), 4, cudaMemcpyDeviceToHost) == cudaSuccess);
    }
    SECTION("the other for the default stream") {
        REQUIRE(launch({}, set_kernel, result.data(), 5) == cudaSuccess);
        REQUIRE(cudaMemcpyAsync(&seen, result.data(), 4, cudaMemcpyDeviceToHost, stream) ==
                cudaSuccess);
        REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    }
    REQUIRE(seen == (blocking ? 5 : 0));
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
}

// As CUDA does at its first launch.
template <class Kernel>
void load(Kernel* kernel) {
    cudaFuncAttributes attributes;
    REQUIRE(cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess);
}

// Of a name of its own, so that no test has loaded it.
__global__ void never_loaded_kernel() {}

TEST_CASE("a kernel that is first launched in a capture spoils it") {
    const Stream stream;
    cudaGraph_t graph = nullptr;
    const auto capture = [&] {
        REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
        const cudaError_t launched = launch({1, 1, 0, stream}, never_loaded_kernel);
        const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
        return launched != cudaSuccess ? launched : ended;
    };
    REQUIRE(capture() == cudaErrorStreamCaptureUnsupported);
    REQUIRE(graph == nullptr);
    load(never_loaded_kernel);
    REQUIRE(capture() == cudaSuccess);
    REQUIRE(cudaGraphDestroy(graph) == cudaSuccess);
}

__global__ void cluster_place_kernel() { nca::executor::cluster_rank(); }

TEST_CASE("older code has what it was compiled for, on a newer device too") {
    const WithDevice device(9, 0, 2, 64 << 10);
    const auto code_of = [] {
        cudaFuncAttributes attributes;
        REQUIRE(cudaFuncGetAttributes(&attributes, nothing_kernel) == cudaSuccess);
        REQUIRE(attributes.binaryVersion == 90);
        return attributes.ptxVersion;
    };
    cudaLaunchAttribute early{};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    const auto launch_dependent = [&] {
        const cudaLaunchConfig_t config{1, 32, 0, nullptr, &early, 1};
        return cudaLaunchKernelEx(&config, nothing_kernel);
    };
    CHECK(code_of() == 90);
    CHECK(launch_dependent() == cudaSuccess);
    CHECK(complaint({1, 1}, cluster_place_kernel).empty());
    nca::executor::set_newest_code(80);
    CHECK(code_of() == 80);
    CHECK_THROWS_WITH(launch_dependent(), contains("its code does not wait"));
    CHECK_THAT(complaint({1, 1}, cluster_place_kernel), contains("a trap in code"));
    CHECK_NOTHROW(nca::executor::trap_before(80, "a product"));
    nca::executor::set_newest_code(75);
    CHECK_THROWS_WITH(nca::executor::trap_before(80, "a product"), contains("a product: a trap"));
    nca::executor::set_newest_code(1000);
}

TEST_CASE("a launch of a graph fails when a test wants it to, once") {
    const Stream stream;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    REQUIRE(cudaGraphInstantiate(&executable, graph) == cudaSuccess);
    nca::executor::fail_graph_launch(1);
    REQUIRE(cudaGraphLaunch(executable, stream) == cudaSuccess);
    REQUIRE(cudaGraphLaunch(executable, stream) == cudaErrorLaunchFailure);
    REQUIRE(cudaGraphLaunch(executable, stream) == cudaSuccess);
    REQUIRE(cudaGraphExecDestroy(executable) == cudaSuccess);
    REQUIRE(cudaGraphDestroy(graph) == cudaSuccess);
}

TEST_CASE("a captured graph runs when it is launched, as often as it is launched") {
    const Stream stream;
    const Numbers<int> result(std::vector<int>{1});
    load(twice_plus_kernel);
    cudaStreamCaptureStatus status;
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    REQUIRE(launch({1, 1, 0, stream}, twice_plus_kernel, result.data(), 1) == cudaSuccess);
    REQUIRE(launch({1, 1, 0, stream}, twice_plus_kernel, result.data(), 0) == cudaSuccess);
    REQUIRE(cudaStreamIsCapturing(stream, &status) == cudaSuccess);
    REQUIRE(status == cudaStreamCaptureStatusActive);
    cudaGraph_t graph = nullptr;
    REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    REQUIRE(cudaStreamIsCapturing(stream, &status) == cudaSuccess);
    REQUIRE(status == cudaStreamCaptureStatusNone);
    cudaGraphExec_t executable = nullptr;
    REQUIRE(cudaGraphInstantiate(&executable, graph) == cudaSuccess);
    REQUIRE(cudaGraphDestroy(graph) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    REQUIRE(result.download() == std::vector<int>{1});

    const Stream other;
    REQUIRE(cudaGraphLaunch(executable, stream) == cudaSuccess);
    REQUIRE(cudaGraphLaunch(executable, other) == cudaSuccess);
    REQUIRE(result.download() == std::vector<int>{1});
    REQUIRE(cudaGraphExecDestroy(executable) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(other) == cudaSuccess);
    REQUIRE(result.download() == std::vector<int>{26});
}

TEST_CASE("calls that CUDA forbids during a capture fail and spoil it") {
    load(nothing_kernel);
    const Stream stream;
    const Event event;
    const Numbers<int> memory(1);
    int* more = nullptr;
    int seen = 0;
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    const auto spoil = GENERATE(0, 1, 2, 3, 4, 5);
    const auto forbidden = [&] {
        switch (spoil) {
            case 0:
                return cudaStreamSynchronize(stream);
            case 1:
                return cudaDeviceSynchronize();
            case 2:
                return cudaMalloc(&more, 4);
            case 3:
                return cudaFree(memory.data());
            case 4:
                return cudaMemcpy(&seen, memory.data(), 4, cudaMemcpyDeviceToHost);
            default:
                return cudaStreamQuery(stream);
        }
    };
    REQUIRE(forbidden() == cudaErrorStreamCaptureUnsupported);
    cudaGraph_t graph = nullptr;
    REQUIRE(launch({1, 1, 0, stream}, nothing_kernel) == cudaErrorStreamCaptureInvalidated);
    REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
    REQUIRE(graph == nullptr);
    REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaErrorIllegalState);
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
}

TEST_CASE("a capture does not hinder other threads") {
    const Stream stream;
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    cudaError_t allocated = cudaErrorUnknown, freed = cudaErrorUnknown, ended = cudaErrorUnknown;
    std::thread([&] {
        int* memory = nullptr;
        allocated = cudaMalloc(&memory, 4);
        freed = cudaFree(memory);
        cudaGraph_t graph = nullptr;
        ended = cudaStreamEndCapture(stream, &graph);
    }).join();
    REQUIRE(allocated == cudaSuccess);
    REQUIRE(freed == cudaSuccess);
    REQUIRE(ended == cudaErrorStreamCaptureWrongThread);
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
    CHECK(copy(host, memory.data(), 16, cudaMemcpyDefault) == cudaSuccess);
    CHECK(cudaMemsetAsync(memory.data(), 0, 16) == cudaSuccess);
    CHECK(cudaMemsetAsync(memory.data(), 0, 17) == cudaErrorInvalidValue);
    CHECK(cudaMemsetAsync(host, 0, 16) == cudaErrorInvalidValue);
    CHECK(cudaFree(memory.data() + 1) == cudaErrorInvalidValue);
    CHECK(cudaFree(nullptr) == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
}

TEST_CASE("a machine without a driver, a device or the right one says so") {
    int count = -1;
    cudaFuncAttributes attributes;
    REQUIRE(cudaGetDeviceCount(&count) == cudaSuccess);
    REQUIRE(count == 1);
    REQUIRE(cudaSetDevice(1) == cudaErrorInvalidDevice);

    nca::executor::set_driver_missing(true);
    CHECK(cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver);
    nca::executor::set_driver_missing(false);
    nca::executor::set_device_count(0);
    CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice);
    CHECK(count == 0);
    nca::executor::set_device_count(1);
    nca::executor::set_architecture_supported(false);
    CHECK(cudaFuncGetAttributes(&attributes, nothing_kernel) == cudaErrorNoKernelImageForDevice);
    CHECK(launch({}, nothing_kernel) == cudaErrorNoKernelImageForDevice);
    nca::executor::set_architecture_supported(true);
    CHECK(cudaFuncGetAttributes(&attributes, nothing_kernel) == cudaSuccess);
    CHECK(std::string(cudaGetErrorName(cudaErrorNoDevice)) == "cudaErrorNoDevice");
}

TEST_CASE("a stream takes kernels from the device that it belongs to only") {
    nca::executor::set_device_count(2);
    {
        const Stream stream;
        REQUIRE(cudaSetDevice(1) == cudaSuccess);
        CHECK(launch({1, 1, 0, stream}, nothing_kernel) == cudaErrorInvalidResourceHandle);
        CHECK(launch({}, nothing_kernel) == cudaSuccess);
        CHECK(cudaDeviceSynchronize() == cudaSuccess);
        REQUIRE(cudaSetDevice(0) == cudaSuccess);
        CHECK(launch({1, 1, 0, stream}, nothing_kernel) == cudaSuccess);
        CHECK(cudaDeviceSynchronize() == cudaSuccess);
    }
    nca::executor::set_device_count(1);
}

TEST_CASE("handles that are destroyed are not valid") {
    cudaStream_t stream = nullptr;
    cudaEvent_t event = nullptr;
    REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    REQUIRE(cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess);
    REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
    REQUIRE(cudaEventDestroy(event) == cudaSuccess);
    CHECK(cudaStreamSynchronize(stream) == cudaErrorInvalidResourceHandle);
    CHECK(cudaStreamDestroy(stream) == cudaErrorInvalidResourceHandle);
    CHECK(cudaEventSynchronize(event) == cudaErrorInvalidResourceHandle);
    CHECK(cudaEventDestroy(event) == cudaErrorInvalidResourceHandle);
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

}  // namespace
