// SPDX-License-Identifier: MIT
#include "tests/support/executor/executor.hpp"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace nca::executor {
namespace {

// A piece of work in a stream.
struct Operation {
    std::function<void()> work;
    CUstream_st* stream;
    std::vector<std::shared_ptr<Operation>> after;  // to run before, in other streams
    bool done = false;
};

using Work = std::function<void()>;

struct Capture {
    std::vector<Work> work;
    std::thread::id thread;
    bool valid = true;
};

}  // namespace
}  // namespace nca::executor

struct CUstream_st {
    int device;
    bool destroyed = false;
    std::deque<std::shared_ptr<nca::executor::Operation>> queue{};
    std::unique_ptr<nca::executor::Capture> capture{};
};

struct CUevent_st {
    int device;
    std::shared_ptr<nca::executor::Operation> last{};  // null before the first record
};

struct CUgraph_st {
    std::vector<nca::executor::Work> work;
};

struct CUgraphExec_st {
    std::vector<nca::executor::Work> work;
    std::shared_ptr<nca::executor::Operation> last{};  // of its previous launch
};

namespace nca::executor {
namespace {

constexpr std::size_t shared_without_asking = 48 << 10;
constexpr int blocks_per_multiprocessor = 2;

// Multiprocessors are in groups (GPCs). The blocks of a cluster run within one group.
constexpr int gpc_multiprocessors = 16;
constexpr unsigned most_cluster_blocks = 8;  // without a special attribute
constexpr std::size_t memory_alignment = 256;

// Outside of Runtime, because kernels read it often.
std::atomic<int> running_code = 75;

thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;

// Stores an error as the last one. Every call returns through this.
cudaError_t report(cudaError_t error) {
    if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
    return error;
}

struct FreeMemory {
    void operator()(char* memory) const { std::free(memory); }
};

// Memory of one kind, by address.
class Allocations {
public:
    // Null where there is no memory left. Exactly of that size, so that address sanitizer sees an
    // index beyond it.
    void* add(std::size_t bytes) {
        void* memory = nullptr;
        if (posix_memalign(&memory, memory_alignment, bytes) != 0) return nullptr;
        std::memset(memory, 0xff, bytes);
        blocks_[static_cast<char*>(memory)] = {bytes, Memory(static_cast<char*>(memory))};
        in_use_ += bytes;
        return memory;
    }
    bool remove(void* memory) {
        const auto found = blocks_.find(static_cast<char*>(memory));
        if (found == blocks_.end()) return false;
        in_use_ -= found->second.bytes;
        // Code that still uses the memory finds NaN, at least for a while.
        std::memset(memory, 0xff, found->second.bytes);
        blocks_.erase(found);
        return true;
    }
    bool holds_any_of(const void* begin, std::size_t bytes) const {
        const char* const first = static_cast<const char*>(begin);
        const auto next = blocks_.lower_bound(first + bytes);
        if (next == blocks_.begin()) return false;
        const auto& [start, block] = *std::prev(next);
        return start + block.bytes > first;
    }
    bool holds_all_of(const void* begin, std::size_t bytes) const {
        const char* const first = static_cast<const char*>(begin);
        const auto next = blocks_.upper_bound(first);
        if (next == blocks_.begin()) return false;
        const auto& [start, block] = *std::prev(next);
        return first + bytes <= start + block.bytes;
    }
    std::size_t in_use() const { return in_use_; }

private:
    using Memory = std::unique_ptr<char, FreeMemory>;
    struct Block {
        std::size_t bytes;
        Memory memory;
    };
    std::map<const char*, Block, std::less<>> blocks_;
    std::size_t in_use_ = 0;
};

class Runtime {
public:
    ~Runtime() {
        if (!unreported) return;
        try {
            std::rethrow_exception(unreported);
        } catch (const std::exception& error) {
            std::fprintf(stderr, "nobody was told: %s\n", error.what());
        } catch (...) {
            std::fprintf(stderr, "nobody was told what a kernel threw\n");
        }
        std::abort();
    }

    // The stream of a handle; null where there is no such stream.
    CUstream_st* find(cudaStream_t handle) {
        if (!handle) {
            return &default_streams.try_emplace(current_device, CUstream_st{current_device})
                        .first->second;
        }
        const auto found = std::ranges::find_if(
            streams, [&](const CUstream_st& s) { return &s == handle && !s.destroyed; });
        return found == streams.end() ? nullptr : &*found;
    }

    // Queues the work or, where the stream captures, records it.
    cudaError_t submit(CUstream_st& stream, Work work,
                       std::vector<std::shared_ptr<Operation>> after = {}) {
        if (stream.capture) {
            if (!stream.capture->valid) return cudaErrorStreamCaptureInvalidated;
            stream.capture->work.push_back(std::move(work));
            return cudaSuccess;
        }
        stream.queue.push_back(
            std::make_shared<Operation>(Operation{std::move(work), &stream, std::move(after)}));
        return cudaSuccess;
    }

    // Runs the stream's next piece of work, and before it the work that it waits for.
    void step(CUstream_st& stream) {
        const std::shared_ptr<Operation> operation = stream.queue.front();
        for (const auto& other : operation->after) complete(*other);
        if (operation->work) operation->work();
        finish(*operation);
        stream.queue.pop_front();
    }
    void complete(const Operation& operation) {
        while (!operation.done) step(*operation.stream);
    }
    void drain(CUstream_st& stream) {
        while (!stream.queue.empty()) step(stream);
    }
    void drain_device(int device) {
        std::vector<CUstream_st*> all = {find(nullptr)};
        for (CUstream_st& stream : streams) all.push_back(&stream);
        if (order() == Order::reverse) std::ranges::reverse(all);
        for (CUstream_st* stream : all) {
            if (stream->device == device) drain(*stream);
        }
    }
    void drain_all() {
        for (auto& [device, stream] : default_streams) drain(stream);
        for (CUstream_st& stream : streams) drain(stream);
        streams.remove_if([](const CUstream_st& stream) { return stream.destroyed; });
    }

    // Drops all queued work, as a GPU does after a kernel has failed.
    void abandon() {
        const auto empty = [](CUstream_st& stream) {
            for (const auto& operation : stream.queue) finish(*operation);
            stream.queue.clear();
        };
        for (auto& [device, stream] : default_streams) empty(stream);
        for (CUstream_st& stream : streams) empty(stream);
    }

    // The capture of this OS thread, which may not call what waits; null where there is none.
    Capture* capture_here() {
        for (CUstream_st& stream : streams) {
            if (stream.capture && stream.capture->thread == std::this_thread::get_id()) {
                return stream.capture.get();
            }
        }
        return nullptr;
    }
    cudaError_t refuse_in_capture() {
        Capture* const capture = capture_here();
        if (!capture) return cudaSuccess;
        capture->valid = false;
        return cudaErrorStreamCaptureUnsupported;
    }

    cudaError_t usable() const {
        if (driver_missing) return cudaErrorInsufficientDriver;
        return device_count == 0 ? cudaErrorNoDevice : cudaSuccess;
    }
    cudaError_t check_device(int device) const {
        if (const cudaError_t error = usable()) return error;
        return device >= 0 && device < device_count ? cudaSuccess : cudaErrorInvalidDevice;
    }
    cudaError_t check_kernel(const void* kernel) const {
        if (const cudaError_t error = usable()) return error;
        if (!kernel) return cudaErrorInvalidDeviceFunction;
        return architecture_supported ? cudaSuccess : cudaErrorNoKernelImageForDevice;
    }
    std::size_t shared_limit(const void* kernel) const {
        const auto found = shared_limits.find({current_device, kernel});
        return found == shared_limits.end() ? shared_without_asking : found->second;
    }

    void choose_code() { running_code = std::min(newest_code, major * 10 + minor); }

    // Loads a kernel. Every call with a kernel does this first.
    cudaError_t load(const void* kernel) {
        if (const cudaError_t error = check_kernel(kernel)) return error;
        if (loaded.count({current_device, kernel}) > 0) return cudaSuccess;
        if (const cudaError_t error = refuse_in_capture()) return error;
        loaded.insert({current_device, kernel});
        return cudaSuccess;
    }
    int resident_clusters(unsigned blocks) const {
        int clusters = 0;
        for (int left = multiprocessors; left > 0; left -= gpc_multiprocessors) {
            const int gpc = std::min(left, gpc_multiprocessors);
            clusters += gpc * blocks_per_multiprocessor / static_cast<int>(blocks);
        }
        return clusters;
    }
    cudaError_t check_cluster(unsigned blocks, unsigned cluster_blocks) const {
        if (major < 9) return cudaErrorNotSupported;
        const bool fits = cluster_blocks > 0 && cluster_blocks <= most_cluster_blocks &&
                          blocks % cluster_blocks == 0;
        return fits ? cudaSuccess : cudaErrorInvalidClusterSize;
    }

    std::recursive_mutex mutex;
    int device_count = 1;
    bool driver_missing = false;
    bool architecture_supported = true;
    std::size_t memory_limit = std::size_t{8} << 30;
    int multiprocessors = 2;
    int major = 7;
    int minor = 5;
    std::size_t shared_at_most = 64 << 10;
    int newest_code = 1000;
    int graph_launches_left = -1;  // before one fails; negative: none fails

    Allocations device_memory;
    Allocations host_memory;
    std::map<std::pair<int, const void*>, std::size_t> shared_limits;
    std::set<std::pair<int, const void*>> loaded;
    std::set<std::string> kernels;

    std::map<int, CUstream_st> default_streams;
    std::list<CUstream_st> streams;  // destroyed ones stay until their work is done
    std::list<CUevent_st> events;
    std::list<CUgraph_st> graphs;
    std::list<CUgraphExec_st> executables;
    std::exception_ptr unreported;

private:
    static void finish(Operation& operation) {
        operation.done = true;
        operation.work = nullptr;
        operation.after.clear();
    }
};

Runtime& runtime() {
    static Runtime the_runtime;
    return the_runtime;
}

// Runs a call that holds the lock of the runtime.
template <class Call>
cudaError_t locked(Call call) {
    const std::lock_guard lock(runtime().mutex);
    return report(call(runtime()));
}

// For calls that wait. Throws what the kernels have thrown.
template <class Wait>
cudaError_t waiting(Runtime& cuda, Wait wait) {
    if (cuda.unreported) std::rethrow_exception(std::exchange(cuda.unreported, nullptr));
    try {
        wait();
    } catch (...) {
        cuda.abandon();
        throw;
    }
    return cudaSuccess;
}

template <class T>
T* find_in(std::list<T>& all, T* handle) {
    const auto found = std::ranges::find_if(all, [&](const T& one) { return &one == handle; });
    return found == all.end() ? nullptr : handle;
}
template <class T>
cudaError_t destroy_in(std::list<T>& all, T* handle) {
    if (!find_in(all, handle)) return cudaErrorInvalidResourceHandle;
    all.remove_if([&](const T& one) { return &one == handle; });
    return cudaSuccess;
}

cudaError_t check_copy(const Runtime& cuda, const void* to, const void* from, std::size_t bytes,
                       cudaMemcpyKind kind) {
    const auto valid = [&](const void* memory, bool device) {
        return device ? cuda.device_memory.holds_all_of(memory, bytes)
                      : !cuda.device_memory.holds_any_of(memory, bytes);
    };
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    const bool good = valid(to, to_device) && valid(from, from_device);
    return good ? cudaSuccess : cudaErrorInvalidValue;
}

struct ErrorText {
    cudaError_t error;
    const char* name;
    const char* text;
};
constexpr ErrorText error_texts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorIllegalState, "cudaErrorIllegalState",
     "the operation cannot be performed in the present state"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorCooperativeLaunchTooLarge, "cudaErrorCooperativeLaunchTooLarge",
     "too many blocks in cooperative launch"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorStreamCaptureWrongThread, "cudaErrorStreamCaptureWrongThread",
     "attempt to terminate a thread-local capture sequence from another thread"},
    {cudaErrorInvalidClusterSize, "cudaErrorInvalidClusterSize", "cluster misconfiguration"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};
constexpr ErrorText unrecognized{cudaErrorUnknown, "unrecognized error code",
                                 "unrecognized error code"};

// Null where the launch has no such attribute.
const cudaLaunchAttributeValue* find_attribute(const cudaLaunchConfig_t& config,
                                               cudaLaunchAttributeID id) {
    const std::span attributes(config.attrs, config.numAttrs);
    const auto found = std::ranges::find(attributes, id, &cudaLaunchAttribute::id);
    return found == attributes.end() ? nullptr : &found->val;
}

const ErrorText& text_of(cudaError_t error) {
    const auto* const found = std::ranges::find(error_texts, error, &ErrorText::error);
    return found == std::end(error_texts) ? unrecognized : *found;
}

}  // namespace

std::set<std::string> launched_kernels() {
    const std::lock_guard lock(runtime().mutex);
    return runtime().kernels;
}
void set_device_count(int count) {
    const std::lock_guard lock(runtime().mutex);
    runtime().device_count = count;
}
void set_driver_missing(bool missing) {
    const std::lock_guard lock(runtime().mutex);
    runtime().driver_missing = missing;
}
void set_memory_limit(std::size_t bytes) {
    const std::lock_guard lock(runtime().mutex);
    runtime().memory_limit = bytes;
}
std::size_t memory_in_use() {
    const std::lock_guard lock(runtime().mutex);
    return runtime().device_memory.in_use();
}
void set_architecture_supported(bool supported) {
    const std::lock_guard lock(runtime().mutex);
    runtime().architecture_supported = supported;
}

void set_multiprocessors(int count) {
    const std::lock_guard lock(runtime().mutex);
    runtime().multiprocessors = count;
}
void set_compute_capability(int major, int minor) {
    const std::lock_guard lock(runtime().mutex);
    runtime().major = major;
    runtime().minor = minor;
    runtime().choose_code();
}
void set_shared_limit(std::size_t bytes) {
    const std::lock_guard lock(runtime().mutex);
    runtime().shared_at_most = bytes;
}

void set_newest_code(int code) {
    const std::lock_guard lock(runtime().mutex);
    runtime().newest_code = code;
    runtime().choose_code();
}
int code() { return running_code; }
void fail_graph_launch(int after) {
    const std::lock_guard lock(runtime().mutex);
    runtime().graph_launches_left = after;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, Work thread) {
    return locked([&](Runtime& cuda) {
        if (const cudaError_t error = cuda.load(kernel)) return error;
        std::string name = name_of_kernel(kernel);
        const auto* const early =
            find_attribute(config, cudaLaunchAttributeProgrammaticStreamSerialization);
        if (early && early->programmaticStreamSerializationAllowed != 0 && code() < 90) {
            throw std::logic_error(name +
                                   " is launched as a dependent, and its code does not wait");
        }
        const auto row = [](const dim3& size, unsigned most) {
            return size.x >= 1 && size.x <= most && size.y == 1 && size.z == 1;
        };
        if (!row(config.blockDim, 1024) || !row(config.gridDim, 0x7fffffff)) {
            return cudaErrorInvalidConfiguration;
        }
        const unsigned blocks = config.gridDim.x;
        if (config.dynamicSmemBytes > cuda.shared_limit(kernel)) return cudaErrorInvalidValue;
        const auto* const together = find_attribute(config, cudaLaunchAttributeCooperative);
        const bool cooperative = together && together->cooperative != 0;
        unsigned cluster_blocks = 1;
        if (const auto* const shape = find_attribute(config, cudaLaunchAttributeClusterDimension)) {
            cluster_blocks = shape->clusterDim.x;
            if (const cudaError_t error = cuda.check_cluster(blocks, cluster_blocks)) return error;
        }
        const int clusters = cuda.resident_clusters(cluster_blocks);
        if (clusters == 0) return cudaErrorInvalidClusterSize;
        if (cooperative && blocks > std::uint64_t(clusters) * cluster_blocks) {
            return cudaErrorCooperativeLaunchTooLarge;
        }
        CUstream_st* const stream = cuda.find(config.stream);
        if (!stream || stream->device != current_device) return cudaErrorInvalidResourceHandle;
        return cuda.submit(*stream, [launch = Launch{std::move(name), blocks, config.blockDim.x,
                                                     config.dynamicSmemBytes, std::move(thread),
                                                     cooperative, cluster_blocks},
                                     &cuda] {
            cuda.kernels.insert(launch.kernel);
            run(launch);
        });
    });
}

}  // namespace nca::executor

using namespace nca::executor;

const char* cudaGetErrorName(cudaError_t error) { return text_of(error).name; }
const char* cudaGetErrorString(cudaError_t error) { return text_of(error).text; }
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

// Devices

cudaError_t cudaGetDeviceCount(int* count) {
    return locked([&](Runtime& cuda) {
        const cudaError_t error = cuda.usable();
        *count = error ? 0 : cuda.device_count;
        return error;
    });
}

cudaError_t cudaSetDevice(int device) {
    return locked([&](Runtime& cuda) {
        const cudaError_t error = cuda.check_device(device);
        if (!error) current_device = device;
        return error;
    });
}

cudaError_t cudaGetDevice(int* device) {
    return locked([&](Runtime& cuda) {
        *device = current_device;
        return cuda.usable();
    });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    return locked([&](Runtime& cuda) {
        if (const cudaError_t error = cuda.check_device(device)) return error;
        *properties = {.name = "kernel executor",
                       .major = cuda.major,
                       .minor = cuda.minor,
                       .multiProcessorCount = cuda.multiprocessors,
                       .sharedMemPerBlockOptin = cuda.shared_at_most};
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceSynchronize() {
    return locked([](Runtime& cuda) {
        if (const cudaError_t error = cuda.usable()) return error;
        if (const cudaError_t error = cuda.refuse_in_capture()) return error;
        return waiting(cuda, [&] { cuda.drain_device(current_device); });
    });
}

// Memory

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
    return locked([&](Runtime& cuda) {
        if (const cudaError_t error = cuda.usable()) return error;
        *total = cuda.memory_limit;
        *free = cuda.memory_limit - std::min(cuda.memory_limit, cuda.device_memory.in_use());
        return cudaSuccess;
    });
}

cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
    return locked([&](Runtime& cuda) {
        if (const cudaError_t error = cuda.usable()) return error;
        if (const cudaError_t error = cuda.refuse_in_capture()) return error;
        *pointer = nullptr;
        if (bytes == 0) return cudaSuccess;
        const std::size_t in_use = cuda.device_memory.in_use();
        if (in_use > cuda.memory_limit || bytes > cuda.memory_limit - in_use) {
            return cudaErrorMemoryAllocation;
        }
        *pointer = cuda.device_memory.add(bytes);
        return *pointer ? cudaSuccess : cudaErrorMemoryAllocation;
    });
}

cudaError_t cudaFree(void* pointer) {
    return locked([&](Runtime& cuda) {
        if (!pointer) return cudaSuccess;
        if (const cudaError_t error = cuda.refuse_in_capture()) return error;
        cudaError_t error = cudaSuccess;
        try {
            cuda.drain_all();
        } catch (...) {
            cuda.unreported = std::current_exception();
            cuda.abandon();
            error = cudaErrorLaunchFailure;
        }
        return cuda.device_memory.remove(pointer) ? error : cudaErrorInvalidValue;
    });
}

cudaError_t cudaMallocHost(void** pointer, std::size_t bytes, unsigned) {
    return locked([&](Runtime& cuda) {
        if (const cudaError_t error = cuda.usable()) return error;
        if (const cudaError_t error = cuda.refuse_in_capture()) return error;
        *pointer = bytes == 0 ? nullptr : cuda.host_memory.add(bytes);
        return *pointer || bytes == 0 ? cudaSuccess : cudaErrorMemoryAllocation;
    });
}

// Does not wait: CUDA does not promise that it does.
cudaError_t cudaFreeHost(void* pointer) {
    return locked([&](Runtime& cuda) {
        if (!pointer) return cudaSuccess;
        if (const cudaError_t error = cuda.refuse_in_capture()) return error;
        return cuda.host_memory.remove(pointer) ? cudaSuccess : cudaErrorInvalidValue;
    });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    return locked([&](Runtime& cuda) {
        CUstream_st* const found = cuda.find(stream);
        if (!found) return cudaErrorInvalidResourceHandle;
        if (bytes == 0) return cudaSuccess;
        if (const cudaError_t error = check_copy(cuda, to, from, bytes, kind)) return error;
        return cuda.submit(*found, [=] { std::memcpy(to, from, bytes); });
    });
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    return locked([&](Runtime& cuda) {
        if (const cudaError_t error = cuda.refuse_in_capture()) return error;
        if (const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr)) return error;
        return waiting(cuda, [&] { cuda.drain(*cuda.find(nullptr)); });
    });
}

cudaError_t cudaMemsetAsync(void* pointer, int value, std::size_t bytes, cudaStream_t stream) {
    return locked([&](Runtime& cuda) {
        CUstream_st* const found = cuda.find(stream);
        if (!found) return cudaErrorInvalidResourceHandle;
        if (bytes == 0) return cudaSuccess;
        if (!cuda.device_memory.holds_all_of(pointer, bytes)) return cudaErrorInvalidValue;
        return cuda.submit(*found, [=] { std::memset(pointer, value, bytes); });
    });
}

// Streams

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    return locked([&](Runtime& cuda) {
        if (const cudaError_t error = cuda.usable()) return error;
        if (flags != cudaStreamNonBlocking) return cudaErrorInvalidValue;
        *stream = &cuda.streams.emplace_back(CUstream_st{current_device});
        return cudaSuccess;
    });
}

// Queued work still runs when a call waits for it.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    return locked([&](Runtime& cuda) {
        CUstream_st* const found = stream ? cuda.find(stream) : nullptr;
        if (!found) return cudaErrorInvalidResourceHandle;
        found->destroyed = true;
        found->capture.reset();
        cuda.streams.remove_if(
            [](const CUstream_st& one) { return one.destroyed && one.queue.empty(); });
        return cudaSuccess;
    });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return locked([&](Runtime& cuda) {
        CUstream_st* const found = cuda.find(stream);
        if (!found) return cudaErrorInvalidResourceHandle;
        if (found->capture) {
            found->capture->valid = false;
            return cudaErrorStreamCaptureUnsupported;
        }
        return waiting(cuda, [&] { cuda.drain(*found); });
    });
}

// Runs one operation where there is one, so that a loop of queries ends.
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    return locked([&](Runtime& cuda) {
        CUstream_st* const found = cuda.find(stream);
        if (!found) return cudaErrorInvalidResourceHandle;
        if (found->capture) {
            found->capture->valid = false;
            return cudaErrorStreamCaptureUnsupported;
        }
        if (found->queue.empty()) return cudaSuccess;
        waiting(cuda, [&] { cuda.step(*found); });
        return cudaErrorNotReady;
    });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    return locked([&](Runtime& cuda) {
        CUstream_st* const found = cuda.find(stream);
        if (!found || !find_in(cuda.events, event)) return cudaErrorInvalidResourceHandle;
        if (flags != 0) return cudaErrorInvalidValue;
        if (!event->last) return cudaSuccess;
        if (found->capture) {
            found->capture->valid = false;
            return cudaErrorStreamCaptureIsolation;
        }
        if (event->last->done) return cudaSuccess;
        return cuda.submit(*found, nullptr, {event->last});
    });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    return locked([&](Runtime& cuda) {
        CUstream_st* const found = cuda.find(stream);
        if (!found) return cudaErrorInvalidResourceHandle;
        if (!stream) return cudaErrorStreamCaptureUnsupported;
        if (found->capture) return cudaErrorIllegalState;
        found->capture = std::make_unique<Capture>();
        found->capture->thread = std::this_thread::get_id();
        return cudaSuccess;
    });
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    return locked([&](Runtime& cuda) {
        *graph = nullptr;
        CUstream_st* const found = cuda.find(stream);
        if (!found) return cudaErrorInvalidResourceHandle;
        if (!found->capture) return cudaErrorIllegalState;
        if (found->capture->thread != std::this_thread::get_id()) {
            found->capture->valid = false;
            return cudaErrorStreamCaptureWrongThread;
        }
        const std::unique_ptr<Capture> capture = std::move(found->capture);
        if (!capture->valid) return cudaErrorStreamCaptureInvalidated;
        *graph = &cuda.graphs.emplace_back(CUgraph_st{std::move(capture->work)});
        return cudaSuccess;
    });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    return locked([&](Runtime& cuda) {
        CUstream_st* const found = cuda.find(stream);
        if (!found) return cudaErrorInvalidResourceHandle;
        *status = !found->capture         ? cudaStreamCaptureStatusNone
                  : found->capture->valid ? cudaStreamCaptureStatusActive
                                          : cudaStreamCaptureStatusInvalidated;
        return cudaSuccess;
    });
}

// Events

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
    return locked([&](Runtime& cuda) {
        if (const cudaError_t error = cuda.usable()) return error;
        if (flags != cudaEventDisableTiming) return cudaErrorInvalidValue;
        *event = &cuda.events.emplace_back(CUevent_st{current_device});
        return cudaSuccess;
    });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    return locked([&](Runtime& cuda) { return destroy_in(cuda.events, event); });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return locked([&](Runtime& cuda) {
        CUstream_st* const found = cuda.find(stream);
        if (!found || !find_in(cuda.events, event) || event->device != found->device) {
            return cudaErrorInvalidResourceHandle;
        }
        if (found->capture) {
            found->capture->valid = false;
            return cudaErrorStreamCaptureUnsupported;
        }
        if (const cudaError_t error = cuda.submit(*found, nullptr)) return error;
        event->last = found->queue.back();
        return cudaSuccess;
    });
}

// Graphs

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long flags) {
    return locked([&](Runtime& cuda) {
        if (!find_in(cuda.graphs, graph) || flags != 0) return cudaErrorInvalidValue;
        *executable = &cuda.executables.emplace_back(CUgraphExec_st{graph->work});
        return cudaSuccess;
    });
}

// Launches of one executable graph run one after the other, in any streams.
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    return locked([&](Runtime& cuda) {
        CUstream_st* const found = cuda.find(stream);
        if (!found) return cudaErrorInvalidResourceHandle;
        if (!find_in(cuda.executables, executable)) return cudaErrorInvalidValue;
        if (cuda.graph_launches_left >= 0 && cuda.graph_launches_left-- == 0) {
            return cudaErrorLaunchFailure;
        }
        const auto all = [work = executable->work] {
            for (const Work& one : work) one();
        };
        std::vector<std::shared_ptr<Operation>> after;
        if (executable->last && !executable->last->done) after.push_back(executable->last);
        if (const cudaError_t error = cuda.submit(*found, all, std::move(after))) return error;
        if (!found->capture) executable->last = found->queue.back();
        return cudaSuccess;
    });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    return locked([&](Runtime& cuda) { return destroy_in(cuda.graphs, graph); });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    return locked([&](Runtime& cuda) { return destroy_in(cuda.executables, executable); });
}

// Kernels

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
    return locked([&](Runtime& cuda) {
        if (const cudaError_t error = cuda.load(kernel)) return error;
        if (value < 0 || static_cast<std::size_t>(value) > cuda.shared_at_most) {
            return cudaErrorInvalidValue;
        }
        cuda.shared_limits[{current_device, kernel}] = static_cast<std::size_t>(value);
        return cudaSuccess;
    });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
    return locked([&](Runtime& cuda) {
        if (const cudaError_t error = cuda.load(kernel)) return error;
        *attributes = {};
        attributes->maxThreadsPerBlock = 1024;
        attributes->ptxVersion = code();
        attributes->binaryVersion = cuda.major * 10 + cuda.minor;
        attributes->maxDynamicSharedSizeBytes = static_cast<int>(cuda.shared_limit(kernel));
        return cudaSuccess;
    });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int,
                                                          std::size_t) {
    return locked([&](Runtime& cuda) {
        *blocks = blocks_per_multiprocessor;
        return cuda.load(kernel);
    });
}

cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* kernel,
                                           const cudaLaunchConfig_t* config) {
    return locked([&](Runtime& cuda) {
        *clusters = 0;
        if (const cudaError_t error = cuda.load(kernel)) return error;
        const auto* const shape = find_attribute(*config, cudaLaunchAttributeClusterDimension);
        if (!shape || config->dynamicSmemBytes > cuda.shared_limit(kernel)) {
            return cudaErrorInvalidValue;
        }
        const unsigned cluster_blocks = shape->clusterDim.x;
        const cudaError_t error = cuda.check_cluster(config->gridDim.x, cluster_blocks);
        if (!error) *clusters = cuda.resident_clusters(cluster_blocks);
        return error;
    });
}
