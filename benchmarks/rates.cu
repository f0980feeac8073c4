// SPDX-License-Identifier: MIT
// Rates of a device, and how long its blocks and kernels wait for each other. The kernels were
// designed for such figures; these are measured with the functions that the kernels call.
#include "benchmarks/rates.hpp"

#include <nca/error.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

#include "benchmarks/device_timing.cuh"
#include "cuda/device/check.hpp"
#include "cuda/device/device_memory.hpp"
#include "cuda/device/flags.cuh"
#include "cuda/device/launch.cuh"
#include "cuda/rule/mma.cuh"

namespace nca::bench {
namespace {

using cuda::check;
using cuda::DeviceArray;

constexpr int block_threads = 256;
constexpr int payload_floats = 4 * block_threads;  // 4 KiB, 16 bytes a thread

// --- rates of a multiprocessor: one block on each; the first block's cycles are counted ---------

// Products of 16 x 8 by 16 k, fp16, in so many independent chains.
template <int chains>
__global__ void multiply_kernel(float* out, long long* cycles, int rounds) {
    cuda::Accumulator sums[chains];
    for (int i = 0; i < chains; ++i) {
        for (float& sum : sums[i].sums) sum = static_cast<float>(threadIdx.x + i);
    }
    const std::uint32_t bits = __float_as_uint(1e-3F * static_cast<float>(threadIdx.x));
    const std::uint32_t a[4] = {bits, bits + 1, bits + 2, bits + 3}, b[2] = {bits + 4, bits + 5};
    __syncthreads();
    const long long begin = clock64();
    for (int round = 0; round < rounds; ++round) {
#pragma unroll
        for (int i = 0; i < chains; ++i) cuda::mma_fp16(sums[i], a, b);
    }
    __syncthreads();
    const long long end = clock64();
    float sum = 0;
    for (int i = 0; i < chains; ++i) {
        for (const float part : sums[i].sums) sum += part;
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
    if (blockIdx.x == 0 && threadIdx.x == 0) *cycles = end - begin;
}

constexpr int rounding_chains = 8;

// Rounds pairs of numbers; each pair comes from the pair before.
__global__ void round_kernel(float* out, long long* cycles, int rounds) {
    std::uint32_t bits[rounding_chains];
    for (int i = 0; i < rounding_chains; ++i) {
        bits[i] = __float_as_uint(1.001F + static_cast<float>(threadIdx.x + i));
    }
    __syncthreads();
    const long long begin = clock64();
    for (int round = 0; round < rounds; ++round) {
#pragma unroll
        for (std::uint32_t& own : bits) {
            own = cuda::rounded_to_fp16(__uint_as_float(own), __uint_as_float(own));
        }
    }
    __syncthreads();
    const long long end = clock64();
    std::uint32_t sum = 0;
    for (const std::uint32_t own : bits) sum += own;
    out[blockIdx.x * blockDim.x + threadIdx.x] = __uint_as_float(sum);
    if (blockIdx.x == 0 && threadIdx.x == 0) *cycles = end - begin;
}

constexpr int shared_quads = 2048;  // 32 KiB
constexpr int loads_of_round = 8;

__global__ void read_shared_kernel(float* out, long long* cycles, int rounds) {
    __shared__ float4 values[shared_quads];
    for (int i = static_cast<int>(threadIdx.x); i < shared_quads; i += block_threads) {
        values[i] = make_float4(static_cast<float>(i), 1, 2, 3);
    }
    float4 sum = cuda::zero4();
    __syncthreads();
    const long long begin = clock64();
    for (int round = 0; round < rounds; ++round) {
#pragma unroll
        for (int i = 0; i < loads_of_round; ++i) {
            const int at = (static_cast<int>(threadIdx.x) + (round + i) * block_threads);
            cuda::add_scaled(sum, 1, values[at % shared_quads]);
        }
    }
    __syncthreads();
    const long long end = clock64();
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum.x + sum.y + sum.z + sum.w;
    if (blockIdx.x == 0 && threadIdx.x == 0) *cycles = end - begin;
}

// --- how long blocks wait for each other --------------------------------------------------------

struct alignas(64) Flag {
    std::uint32_t count;
};

// Blocks in a ring. In each round a block writes 4 KiB, raises its flag, waits for the flags of
// both neighbours and reads their 4 KiB. payload is [2, blocks, payload_floats].
__global__ void __launch_bounds__(block_threads)
    exchange_by_flags_kernel(float* payload, Flag* flags, float* out, int rounds) {
    const int blocks = static_cast<int>(gridDim.x), own = static_cast<int>(blockIdx.x);
    const int thread = static_cast<int>(threadIdx.x);
    const int neighbours[2] = {(own + blocks - 1) % blocks, (own + 1) % blocks};
    float sum = 0;
    for (int round = 1; round <= rounds; ++round) {
        float* const all = payload + std::size_t(round % 2) * blocks * payload_floats;
        const float value = static_cast<float>(round);
        cuda::store4(all + own * payload_floats + thread * 4,
                     make_float4(value, value, value, value));
        __syncthreads();  // the payload is written
        if (thread == 0) {
            cuda::release_flag(&flags[own].count, static_cast<std::uint32_t>(round));
        }
        if (thread < 2) {
            cuda::wait_for_count(&flags[neighbours[thread]].count,
                                 static_cast<std::uint32_t>(round));
        }
        __syncthreads();  // the neighbours have written theirs
        for (const int neighbour : neighbours) {
            sum += __ldcg(all + neighbour * payload_floats + thread * 4);
        }
    }
    out[own * block_threads + thread] = sum;
}

// As in update_weights.cu: the first block waits for all other blocks' flags, then raises one that
// they all wait for.
__global__ void __launch_bounds__(block_threads) grid_barrier_kernel(Flag* flags, int rounds) {
    const int thread = static_cast<int>(threadIdx.x), blocks = static_cast<int>(gridDim.x);
    Flag& all = flags[blocks];
    for (int round = 1; round <= rounds; ++round) {
        const auto passed = static_cast<std::uint32_t>(round);
        __syncthreads();
        if (thread == 0) cuda::release_flag(&flags[blockIdx.x].count, passed);
        if (blockIdx.x == 0) {
            for (int i = thread; i < blocks; i += block_threads) {
                cuda::wait_for_count(&flags[i].count, passed);
            }
            __syncthreads();
            if (thread == 0) cuda::release_flag(&all.count, passed);
        }
        if (thread == 0) cuda::wait_for_count(&all.count, passed);
        __syncthreads();
    }
}

__global__ void cluster_barrier_kernel(int rounds) {
    for (int round = 0; round < rounds; ++round) cuda::cluster_barrier();
}

// The same exchange from shared memory to shared memory. A block is never two rounds ahead of a
// neighbour, so two slots suffice.
__global__ void __launch_bounds__(block_threads)
    exchange_in_cluster_kernel(float* out, int rounds) {
    __shared__ alignas(16) float slots[2][2][payload_floats];
    __shared__ cuda::ArrivalBarrier barriers[2];
    const int thread = static_cast<int>(threadIdx.x);
    const unsigned own = cuda::cluster_rank(), blocks = cuda::cluster_blocks();
    const unsigned neighbours[2] = {(own + blocks - 1) % blocks, (own + 1) % blocks};
    if (thread < 2) cuda::init_arrival_barrier(barriers[thread], 1);
    cuda::cluster_barrier();  // all barriers are made
    float sum = 0;
    for (int round = 0; round < rounds; ++round) {
        const int slot = round % 2;
        if (thread == 0) cuda::expect_bytes(barriers[slot], 2 * payload_floats * sizeof(float));
        const float value = static_cast<float>(round);
        for (int side = 0; side < 2; ++side) {
            cuda::store_async(slots[slot][side] + thread * 4,
                              make_float4(value, value, value, value), barriers[slot],
                              neighbours[side]);
        }
        cuda::wait_arrivals(barriers[slot], static_cast<unsigned>(round / 2 % 2));
        sum += slots[slot][0][thread * 4] + slots[slot][1][thread * 4];
        __syncthreads();  // everybody has read the slot
    }
    out[blockIdx.x * block_threads + threadIdx.x] = sum;
    cuda::cluster_barrier();  // nobody stores into a block that has ended
}

// The smallest useful kernel.
__global__ void add_one_kernel(float* values) {
    cuda::let_dependents_start();
    cuda::wait_for_predecessor();
    values[blockIdx.x * blockDim.x + threadIdx.x] += 1;
}

// --- measuring ----------------------------------------------------------------------------------

class Stream {
public:
    Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream"); }
    ~Stream() { cudaStreamDestroy(stream_); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    operator cudaStream_t() const { return stream_; }

private:
    cudaStream_t stream_ = nullptr;
};

// What the device does not have.
class Lacking : public CudaError {
    using CudaError::CudaError;
};

class Measurement {
public:
    Measurement(int device, const std::function<void(const Rate&)>& keep) : keep_(keep) {
        check(cudaGetDeviceProperties(&properties_, device), "asking what the device is");
        check(cudaDeviceGetAttribute(&cooperative_, cudaDevAttrCooperativeLaunch, device),
              "asking what the device can do");
        code_ = cuda::code_of_kernel("a kernel of rates", cuda::handle_of(add_one_kernel));
        blocks_ = properties_.multiProcessorCount;
        out_ = {std::size_t(blocks_) * 1024, "a benchmark"};
        check(cudaMemset(out_.data(), 0, out_.size() * sizeof(float)), "clearing memory");
        cycles_ = {1, "a benchmark"};
        flags_ = {std::size_t(blocks_) + 1, "a benchmark"};
        payload_ = {std::size_t(2) * blocks_ * payload_floats, "a benchmark"};
    }

    void run() {
        measure_products();
        add("mma_cycles", "one product after the other, fp16", "cycles", assumed_.mma_cycles,
            [&] { return cycles_of_products<1>(4) / rounds; });
        add("roundings", "cvt.rn.f16x2", "a cycle and multiprocessor", 0, [&] {
            needs_tensor_cores();
            constexpr int threads = 512;
            return double(rounds) * rounding_chains * threads / cycles_of(threads, round_kernel);
        });
        add("shared_bytes", "shared memory, 16 bytes a thread", "bytes a cycle and multiprocessor",
            assumed_.shared_bytes, [&] {
                return double(rounds) * loads_of_round * block_threads * sizeof(float4) /
                       cycles_of(block_threads, read_shared_kernel);
            });
        measure_waiting();
        measure_launches();
        measure_clusters();
    }

private:
    static constexpr int rounds = 2000;
    static constexpr int nodes = 192;  // of a graph

    // Measures a rate by work, which may throw CudaError: then the rate has a problem, and the
    // rates after it are still measured.
    template <class Work>
    void add(std::string key, std::string what, std::string unit, double assumed, Work work) {
        Rate rate;
        rate.key = std::move(key);
        rate.what = std::move(what);
        rate.unit = std::move(unit);
        rate.assumed = assumed;
        try {
            rate.measured = work();
        } catch (const Lacking& lacking) {
            rate.problem = lacking.what();
            rate.lacking = true;
        } catch (const CudaError& error) {
            rate.problem = error.what();
        }
        keep_(rate);
    }

    void needs_code(int since, const std::string& what) const {
        if (code_ >= since) return;
        const auto version = [](int code) {
            return std::to_string(code / 10) + "." + std::to_string(code % 10);
        };
        throw Lacking(what + " came with compute capability " + version(since) +
                      ", and this code is for " + version(code_));
    }
    void needs_tensor_cores() const { needs_code(80, "a product of 16 x 8 by 16 k"); }
    void needs_cooperative_launch() const {
        if (cooperative_ == 0) throw Lacking("the device has no cooperative launch");
    }
    void needs_clusters() const { needs_code(90, "clusters"); }

    // The first block's cycles in the second of two launches.
    double cycles_of(int threads, void (*kernel)(float*, long long*, int)) {
        for (int i = 0; i < 2; ++i) {
            cuda::launch("a kernel of rates", kernel, {.blocks = blocks_, .threads = threads},
                         nullptr, out_.data(), cycles_.data(), rounds);
        }
        long long cycles = 0;
        check(cudaMemcpy(&cycles, cycles_.data(), sizeof cycles, cudaMemcpyDeviceToHost),
              "waiting for the device");
        return static_cast<double>(cycles);
    }

    template <int chains>
    double cycles_of_products(int warps) {
        needs_tensor_cores();
        return cycles_of(warps * cuda::Traits::warp_size, multiply_kernel<chains>);
    }

    void measure_products() {
        double most = 0;
        const auto measure = [&](auto chains, int warps) {
            constexpr int count = decltype(chains)::value;
            add("fp16_" + std::to_string(warps) + "_warps_" + std::to_string(count) + "_chains",
                "mma.sync fp16, " + std::to_string(warps) + " warps, " + std::to_string(count) +
                    " chains",
                "operations a cycle and multiprocessor", 0, [&] {
                    constexpr double operations = 2.0 * 16 * 8 * 16;
                    const double rate =
                        operations * rounds * count * warps / cycles_of_products<count>(warps);
                    most = std::max(most, rate);
                    return rate;
                });
        };
        for (const int warps : {4, 8, 16}) {
            measure(std::integral_constant<int, 1>{}, warps);
            measure(std::integral_constant<int, 2>{}, warps);
            measure(std::integral_constant<int, 4>{}, warps);
            measure(std::integral_constant<int, 8>{}, warps);
        }
        add("fp16_operations", "mma.sync fp16, the most of these",
            "operations a cycle and multiprocessor", assumed_.fp16_operations,
            [&] { return needs_tensor_cores(), most; });
    }

    void clear_flags() {
        check(cudaMemsetAsync(flags_.data(), 0, flags_.size() * sizeof(Flag), stream_),
              "clearing flags");
    }

    // Seconds of one of `count` rounds or launches, which work queues on the stream.
    template <class Work>
    double seconds_of_one(int count, Work work) {
        return fastest_seconds(work, stream_) / count;
    }

    void measure_waiting() {
        const cuda::LaunchShape shape = {
            .blocks = blocks_, .threads = block_threads, .cooperative = true};
        add("flag_seconds", "4 KiB to two neighbours and a flag, through L2", "s",
            assumed_.flag_seconds, [&] {
                needs_cooperative_launch();
                return seconds_of_one(rounds, [&] {
                    clear_flags();
                    cuda::launch(NCA_KERNEL(exchange_by_flags_kernel), shape, stream_,
                                 payload_.data(), flags_.data(), out_.data(), rounds);
                });
            });
        add("grid_barrier_seconds", "a barrier of the whole grid", "s",
            assumed_.grid_barrier_seconds, [&] {
                needs_cooperative_launch();
                return seconds_of_one(rounds, [&] {
                    clear_flags();
                    cuda::launch(NCA_KERNEL(grid_barrier_kernel), shape, stream_, flags_.data(),
                                 rounds);
                });
            });
    }

    void launch_nodes(const cuda::LaunchShape& shape) {
        for (int i = 0; i < nodes; ++i) {
            cuda::launch(NCA_KERNEL(add_one_kernel), shape, stream_, out_.data());
        }
    }

    // Seconds of a node in a graph of such launches.
    double seconds_of_node(const cuda::LaunchShape& shape) {
        check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capturing");
        cudaGraph_t graph = nullptr;
        try {
            launch_nodes(shape);
        } catch (...) {
            cudaStreamEndCapture(stream_, &graph);
            if (graph != nullptr) cudaGraphDestroy(graph);
            throw;
        }
        check(cudaStreamEndCapture(stream_, &graph), "capturing");
        cudaGraphExec_t executable = nullptr;
        const cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
        cudaGraphDestroy(graph);
        check(error, "making a graph");
        const double seconds = seconds_of_one(
            nodes, [&] { check(cudaGraphLaunch(executable, stream_), "starting a graph"); });
        cudaGraphExecDestroy(executable);
        return seconds;
    }

    void measure_launches() {
        const cuda::LaunchShape plain = {.blocks = std::min(blocks_, 128),
                                         .threads = block_threads};
        cuda::LaunchShape dependent = plain, cooperative = plain;
        dependent.dependent = true;
        cooperative.cooperative = true;
        add("launch_seconds", "a small kernel after the other on a stream", "s",
            assumed_.launch_seconds,
            [&] { return seconds_of_one(nodes, [&] { launch_nodes(plain); }); });
        add("node_seconds", "the same in a graph", "s", assumed_.node_seconds,
            [&] { return seconds_of_node(plain); });
        add("dependent_node_seconds", "the same with dependent launch", "s",
            assumed_.dependent_node_seconds, [&] {
                needs_code(90, "dependent launch");
                return seconds_of_node(dependent);
            });
        add("cooperative_node_seconds", "cooperative launches in a graph", "s", 0,
            [&] { return needs_cooperative_launch(), seconds_of_node(cooperative); });
    }

    // A launch of so many clusters of `size` blocks each.
    struct ClusterLaunch {
        cudaLaunchConfig_t config = {};
        cudaLaunchAttribute attribute = {};

        ClusterLaunch(int size, int clusters, std::size_t shared_bytes, cudaStream_t stream) {
            attribute.id = cudaLaunchAttributeClusterDimension;
            attribute.val.clusterDim.x = static_cast<unsigned>(size);
            attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
            config.gridDim = dim3(static_cast<unsigned>(size * clusters));
            config.blockDim = dim3(block_threads);
            config.dynamicSmemBytes = shared_bytes;
            config.stream = stream;
            config.attrs = &attribute;
            config.numAttrs = 1;
        }
        ClusterLaunch(const ClusterLaunch&) = delete;
        ClusterLaunch& operator=(const ClusterLaunch&) = delete;
    };

    // Seconds of one of the kernel's rounds; its last argument is their number.
    template <class... Parameters, class... Arguments>
    double seconds_of_round(const ClusterLaunch& launch, void (*kernel)(Parameters...),
                            Arguments... arguments) {
        return seconds_of_one(rounds, [&] {
            check(
                cudaLaunchKernelEx(&launch.config, kernel, arguments..., static_cast<int>(rounds)),
                "starting clusters");
        });
    }

    void allow_clusters(const void* kernel, std::size_t shared_bytes) {
        needs_clusters();
        cuda::prepare_kernel("a kernel of rates", kernel, shared_bytes);
        // The engine's kernels have 8 blocks at most, these have more.
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
              "allowing large clusters");
    }

    void measure_clusters() {
        constexpr std::size_t shared_bytes = 160 * 1024;
        for (const int size : {4, 5, 6, 7, 8, 9, 10, 12, 14, 15, 16}) {
            const std::string of = "clusters of " + std::to_string(size) + " blocks";
            const std::string key = "_of_" + std::to_string(size);
            int resident = 0;
            add("clusters" + key, of + ", resident with 160 KiB each", "clusters", 0, [&] {
                allow_clusters(cuda::handle_of(cluster_barrier_kernel), shared_bytes);
                const ClusterLaunch one(size, 1, shared_bytes, stream_);
                check(
                    cudaOccupancyMaxActiveClusters(&resident, cluster_barrier_kernel, &one.config),
                    "asking how many clusters fit");
                if (resident == 0) throw Lacking("none fits");
                return double(resident);
            });
            add("cluster_barrier" + key, of + ", their barrier", "s", 0, [&] {
                if (resident == 0) throw Lacking("none fits");
                const ClusterLaunch all(size, resident, shared_bytes, stream_);
                return seconds_of_round(all, cluster_barrier_kernel);
            });
        }
        add("cluster_seconds", "4 KiB to two neighbours in a cluster of 8", "s",
            assumed_.cluster_seconds, [&] {
                constexpr int size = 8;
                allow_clusters(cuda::handle_of(exchange_in_cluster_kernel), 0);
                const ClusterLaunch all(size, std::max(blocks_ / size / 2, 1), 0, stream_);
                return seconds_of_round(all, exchange_in_cluster_kernel, out_.data());
            });
    }

    const std::function<void(const Rate&)>& keep_;
    AssumedRates assumed_;
    cudaDeviceProp properties_ = {};
    int cooperative_ = 0;
    int code_ = 0;    // what these kernels are compiled for, 90 for 9.0
    int blocks_ = 0;  // one for each multiprocessor
    Stream stream_;
    DeviceArray<float> out_, payload_;
    DeviceArray<long long> cycles_;
    DeviceArray<Flag> flags_;
};

}  // namespace

std::string device_name(int device) {
    int count = 0;
    if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
        cudaGetLastError();
        throw CudaError(std::string("no CUDA device: ") + cudaGetErrorString(error));
    }
    if (device < 0 || device >= count) {
        throw CudaError("no CUDA device " + std::to_string(device) + ": this machine has " +
                        std::to_string(count) + ", counted from 0");
    }
    cudaDeviceProp properties = {};
    check(cudaGetDeviceProperties(&properties, device), "asking what the device is");
    return properties.name;
}

void measure_rates(int device, const std::function<void(const Rate&)>& keep) {
    device_name(device);  // or it throws
    const cuda::DeviceGuard guard(device);
    Measurement(device, keep).run();
}

}  // namespace nca::bench
