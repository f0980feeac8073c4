// SPDX-License-Identifier: MIT
#pragma once

// Replaces CUDA's header of this name where the kernels are compiled as C++ and run on a CPU. It
// has the part of the language and of the runtime that this project uses, with CUDA 13's names,
// signatures and values. executor.hpp describes how kernels run.

#include <math.h>  // CUDA has isfinite and its like in the global namespace

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#define CUDART_VERSION 13000

// The language. There is no __shared__: a block's shared memory is shared_arena().

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
    unsigned x, y, z;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

constexpr uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
constexpr float2 make_float2(float x, float y) { return {x, y}; }
constexpr float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// The files of the executor are compiled without contraction, so these are never fused.
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
constexpr int min(int a, int b) { return a < b ? a : b; }
constexpr int max(int a, int b) { return a > b ? a : b; }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }

// Of the CUDA thread that runs at the moment. Threads, blocks and clusters lie in rows: y and z of
// a launch are 1.
extern constinit thread_local uint3 threadIdx;
extern constinit thread_local uint3 blockIdx;
extern constinit thread_local dim3 blockDim;
extern constinit thread_local dim3 gridDim;
inline constexpr int warpSize = 32;

namespace nca::executor {

// The block's dynamic shared memory: exactly as large as the launch asked for, and full of NaN at
// first. Throws std::logic_error where the launch asked for none.
void* shared_arena();

// A barrier is known by what it is and where it is written.
struct CallSite {
    const char* what;
    const char* file;
    int line;
};

void block_barrier(const CallSite& place);
void warp_barrier(unsigned mask, const CallSite& place);

// The values of all lanes of a warp in a collective; valid until the next collective of the lane.
struct Exchange {
    const std::uint64_t* values;  // [lanes]
    int lane;                     // the calling lane
    int lanes;                    // 32, or fewer in a block's last warp
};
Exchange exchange(unsigned mask, std::uint64_t value, const CallSite& place);
[[noreturn]] void refuse_source_lane(int source, const CallSite& place);

// A full warp works together. Each lane passes in a piece of at most 64 bytes. The last lane to
// arrive calls `work` on all pieces; then each lane gets its own piece back.
inline constexpr std::size_t piece_bytes = 64;
void together(void* own, std::size_t bytes, void (*work)(void* pieces), const CallSite& place);
template <auto work, class Piece>
void together(Piece& own, const CallSite& place) {
    static_assert(std::is_trivially_copyable_v<Piece> && sizeof(Piece) <= piece_bytes);
    together(
        &own, sizeof own, [](void* pieces) { work(*static_cast<Piece(*)[warpSize]>(pieces)); },
        place);
}

// source_of(lane) is the lane to read.
template <class T, class SourceOf>
T shuffle(unsigned mask, T value, const CallSite& place, SourceOf source_of) {
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    const Exchange all = exchange(mask, bits, place);
    const int source = source_of(all.lane);
    if (source < 0 || source >= all.lanes) refuse_source_lane(source, place);
    std::memcpy(&value, &all.values[source], sizeof(T));
    return value;
}

inline unsigned ballot(unsigned mask, int predicate, const CallSite& place) {
    const Exchange all = exchange(mask, predicate != 0, place);
    unsigned bits = 0;
    for (int lane = 0; lane < all.lanes; ++lane) bits |= unsigned(all.values[lane]) << lane;
    return bits;
}

// Combines the values of all lanes; all get the same result.
template <class T, class Combine>
T reduce(unsigned mask, T value, const CallSite& place, Combine combine) {
    const Exchange all = exchange(mask, static_cast<std::uint64_t>(value), place);
    T result = static_cast<T>(all.values[0]);
    for (int i = 1; i < all.lanes; ++i) result = combine(result, static_cast<T>(all.values[i]));
    return result;
}

}  // namespace nca::executor

// The last two arguments of each barrier are the place of the call.

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    nca::executor::block_barrier({"__syncthreads", file, line});
}

inline void __syncwarp(unsigned mask = 0xffffffffU, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE()) {
    nca::executor::warp_barrier(mask, {"__syncwarp", file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                              int line = __builtin_LINE()) {
    return nca::executor::ballot(mask, predicate, {"__ballot_sync", file, line});
}

inline unsigned __reduce_add_sync(unsigned mask, unsigned value,
                                  const char* file = __builtin_FILE(),
                                  int line = __builtin_LINE()) {
    return nca::executor::reduce(mask, value, {"__reduce_add_sync", file, line},
                                 [](unsigned a, unsigned b) { return a + b; });
}

inline unsigned __reduce_or_sync(unsigned mask, unsigned value, const char* file = __builtin_FILE(),
                                 int line = __builtin_LINE()) {
    return nca::executor::reduce(mask, value, {"__reduce_or_sync", file, line},
                                 [](unsigned a, unsigned b) { return a | b; });
}

inline unsigned __reduce_max_sync(unsigned mask, unsigned value,
                                  const char* file = __builtin_FILE(),
                                  int line = __builtin_LINE()) {
    return nca::executor::reduce(mask, value, {"__reduce_max_sync", file, line},
                                 [](unsigned a, unsigned b) { return a < b ? b : a; });
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize,
              const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return nca::executor::shuffle(mask, value, {"__shfl_sync", file, line}, [=](int lane) {
        return (lane & ~(width - 1)) | (source & (width - 1));
    });
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize,
                  const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return nca::executor::shuffle(mask, value, {"__shfl_xor_sync", file, line}, [=](int lane) {
        const int source = lane ^ lane_mask;
        return source <= (lane | (width - 1)) ? source : lane;
    });
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return nca::executor::shuffle(mask, value, {"__shfl_down_sync", file, line}, [=](int lane) {
        const int source = lane + static_cast<int>(delta);
        return source <= (lane | (width - 1)) ? source : lane;
    });
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                 const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return nca::executor::shuffle(mask, value, {"__shfl_up_sync", file, line}, [=](int lane) {
        const int source = lane - static_cast<int>(delta);
        return source >= (lane & ~(width - 1)) ? source : lane;
    });
}

[[noreturn]] inline void __trap() { throw std::logic_error("__trap"); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
// One half of high:low, shifted by 0 to 31.
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((std::uint64_t(high) << 32 | low) >> (shift & 31));
}

// One CUDA thread runs at a time, so that every access is atomic and in order.

template <class T>
concept AtomicInteger = std::same_as<T, int> || std::same_as<T, unsigned>;

template <AtomicInteger T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
    const T old = *address;
    *address = static_cast<T>(static_cast<unsigned>(old) + static_cast<unsigned>(value));
    return old;
}
template <AtomicInteger T>
T atomicXor(T* address, std::type_identity_t<T> value) {
    return std::exchange(*address, *address ^ value);
}
template <AtomicInteger T>
T atomicMax(T* address, std::type_identity_t<T> value) {
    return std::exchange(*address, *address < value ? value : *address);
}

// The runtime. A call that waits for kernels throws what these have thrown.

enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorInvalidDeviceFunction = 98,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorIllegalState = 401,
    cudaErrorNotReady = 600,
    cudaErrorLaunchFailure = 719,
    cudaErrorCooperativeLaunchTooLarge = 720,
    cudaErrorNotSupported = 801,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorStreamCaptureIsolation = 905,
    cudaErrorStreamCaptureWrongThread = 908,
    cudaErrorInvalidClusterSize = 912,
    cudaErrorUnknown = 999
};
using cudaError_t = cudaError;

const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();

// Devices

struct cudaDeviceProp {
    char name[256];
    int major;
    int minor;
    int multiProcessorCount;
    std::size_t sharedMemPerBlockOptin;
};

cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceSynchronize();

// Memory

using cudaStream_t = struct CUstream_st*;

enum cudaMemcpyKind {
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3
};

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaMalloc(void** pointer, std::size_t bytes);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaMallocHost(void** pointer, std::size_t bytes, unsigned flags = 0);
cudaError_t cudaFreeHost(void* pointer);
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream = nullptr);
cudaError_t cudaMemsetAsync(void* pointer, int value, std::size_t bytes,
                            cudaStream_t stream = nullptr);

template <class T>
cudaError_t cudaMalloc(T** pointer, std::size_t bytes) {
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, bytes);
    if (error == cudaSuccess) *pointer = static_cast<T*>(memory);
    return error;
}
template <class T>
cudaError_t cudaMallocHost(T** pointer, std::size_t bytes, unsigned flags = 0) {
    void* memory = nullptr;
    const cudaError_t error = cudaMallocHost(&memory, bytes, flags);
    if (error == cudaSuccess) *pointer = static_cast<T*>(memory);
    return error;
}

// Streams, events and graphs

using cudaEvent_t = struct CUevent_st*;
using cudaGraph_t = struct CUgraph_st*;
using cudaGraphExec_t = struct CUgraphExec_st*;

// The only kinds of streams, events and captures: others are refused.
inline constexpr unsigned cudaStreamNonBlocking = 1;
inline constexpr unsigned cudaEventDisableTiming = 2;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum cudaStreamCaptureStatus {
    cudaStreamCaptureStatusNone = 0,
    cudaStreamCaptureStatusActive = 1,
    cudaStreamCaptureStatusInvalidated = 2
};

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);

// Kernels

struct cudaFuncAttributes {
    std::size_t sharedSizeBytes;
    std::size_t constSizeBytes;
    std::size_t localSizeBytes;
    int maxThreadsPerBlock;
    int numRegs;
    int ptxVersion;
    int binaryVersion;
    int maxDynamicSharedSizeBytes;
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel);
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel,
                                                          int block_size, std::size_t shared_bytes);

template <class Kernel>
requires std::is_function_v<Kernel> cudaError_t cudaFuncSetAttribute(Kernel* kernel,
                                                                     cudaFuncAttribute attribute,
                                                                     int value) {
    return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
template <class Kernel>
requires std::is_function_v<Kernel> cudaError_t
cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel* kernel) {
    return cudaFuncGetAttributes(attributes, reinterpret_cast<const void*>(kernel));
}
template <class Kernel>
requires std::is_function_v<Kernel> cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(
    int* blocks, Kernel* kernel, int block_size, std::size_t shared_bytes) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks, reinterpret_cast<const void*>(kernel), block_size, shared_bytes);
}

enum cudaLaunchAttributeID {
    cudaLaunchAttributeCooperative = 2,
    cudaLaunchAttributeClusterDimension = 4,
    cudaLaunchAttributeProgrammaticStreamSerialization = 6
};
union cudaLaunchAttributeValue {
    char pad[64];
    int cooperative;
    struct {
        unsigned x, y, z;
    } clusterDim;
    int programmaticStreamSerializationAllowed;
};
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim;
    dim3 blockDim;
    std::size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute* attrs;
    unsigned numAttrs;
};

cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* kernel,
                                           const cudaLaunchConfig_t* config);
template <class Kernel>
requires std::is_function_v<Kernel> cudaError_t
cudaOccupancyMaxActiveClusters(int* clusters, Kernel* kernel, const cudaLaunchConfig_t* config) {
    return cudaOccupancyMaxActiveClusters(clusters, reinterpret_cast<const void*>(kernel), config);
}

namespace nca::executor {
// Queues the launch; `thread` is what each of its threads does.
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel,
                   std::function<void()> thread);
}  // namespace nca::executor

template <class... ExpTypes, class... ActTypes>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(ExpTypes...),
                               ActTypes&&... args) {
    static_assert((std::is_trivially_copyable_v<ExpTypes> && ...));
    const std::tuple<ExpTypes...> copies(std::forward<ActTypes>(args)...);
    return nca::executor::launch(*config, reinterpret_cast<const void*>(kernel),
                                 [kernel, copies] { std::apply(kernel, copies); });
}
