// SPDX-License-Identifier: MIT
// The executor: streams, events, graphs, and what its runtime refuses.
#include "tests/support/executed_kernels.hpp"
#include "tests/support/executor/memory.hpp"

#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace nca::test;

namespace {

class Stream {
public:
    Stream() { REQUIRE(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) == cudaSuccess); }
    ~Stream() { cudaStreamDestroy(stream_); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    operator cudaStream_t() const { return stream_; }

private:
    cudaStream_t stream_ = nullptr;
};

class Event {
public:
    Event() { REQUIRE(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming) == cudaSuccess); }
    ~Event() { cudaEventDestroy(event_); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    operator cudaEvent_t() const { return event_; }

private:
    cudaEvent_t event_ = nullptr;
};

__global__ void throwing_kernel(unsigned culprit) {
    __syncthreads();
    if (threadIdx.x == culprit) throw std::runtime_error("thread " + std::to_string(culprit));
    __syncthreads();
}

template <class T>
struct Wrapped {
    T value;
};
template <class T, int number>
__global__ void template_kernel(T) {}

__global__ void set_kernel(int* result, int value) { *result = value; }
__global__ void twice_plus_kernel(int* result, int value) { *result = *result * 2 + value; }

struct Big {
    int values[40];
};
__global__ void sum_kernel(int* result, const __grid_constant__ Big big) {
    *result = std::accumulate(std::begin(big.values), std::end(big.values), 0);
}

// CUDA loads a kernel at its first launch.
template <class Kernel>
void load(Kernel* kernel) {
    cudaFuncAttributes attributes;
    REQUIRE(cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess);
}

// No other test launches this one, so that it is not loaded yet.
__global__ void never_loaded_kernel() {}

__global__ void cluster_place_kernel() { nca::executor::cluster_rank(); }

}  // namespace

TEST_CASE("what a kernel throws comes out of the call that waits, and later kernels run") {
    const BlockSchedule schedule(GENERATE(Order::forward, Order::reverse));
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

TEST_CASE("kernels are known by their names, without namespaces and template arguments") {
    const auto has_run = [](const char* name) {
        return nca::executor::launched_kernels().count(name) == 1;
    };
    REQUIRE(launch({}, template_kernel<Wrapped<int>, 3>, Wrapped<int>{}) == cudaSuccess);
    REQUIRE_FALSE(has_run("template_kernel"));
    REQUIRE(launch({}, nothing_kernel) == cudaSuccess);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    REQUIRE(has_run("template_kernel"));
    REQUIRE(has_run("nothing_kernel"));
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

TEST_CASE("older code has what it was compiled for, on a newer device too") {
    const ExecutedDevice device(9, 0, 2, 64 << 10);
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
    CHECK(cudaEventRecord(event) == cudaErrorInvalidResourceHandle);
    CHECK(cudaEventDestroy(event) == cudaErrorInvalidResourceHandle);
}
