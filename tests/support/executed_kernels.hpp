// SPDX-License-Identifier: MIT
#pragma once

// Kernels of the executor's own tests: their memory, and how they are launched.

#include "tests/support/catch.hpp"
#include "tests/support/executor/executor.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/tensor_device.hpp"

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

namespace nca::test {

using executor::Interleaving;
using executor::Order;

// Device memory for `size` numbers.
template <class T>
class Numbers {
public:
    explicit Numbers(std::size_t size) : size_(size) {
        REQUIRE(cudaMalloc(&data_, size * sizeof(T)) == cudaSuccess);
    }
    explicit Numbers(const std::vector<T>& values) : Numbers(values.size()) {
        REQUIRE(cudaMemcpy(data_, values.data(), values.size() * sizeof(T),
                           cudaMemcpyHostToDevice) == cudaSuccess);
    }
    ~Numbers() { cudaFree(data_); }
    Numbers(const Numbers&) = delete;
    Numbers& operator=(const Numbers&) = delete;

    T* data() const { return data_; }
    std::size_t bytes() const { return size_ * sizeof(T); }
    std::vector<T> download() const {
        std::vector<T> values(size_);
        REQUIRE(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost) == cudaSuccess);
        return values;
    }

private:
    T* data_ = nullptr;
    std::size_t size_;
};

inline constexpr auto all_interleavings = {Interleaving::by_barrier,
                                           Interleaving::as_far_as_possible,
                                           Interleaving::one_block_late, Interleaving::random};

struct Shape {
    unsigned blocks = 1;
    unsigned threads = 1;  // of a block
    std::size_t shared_bytes = 0;
    cudaStream_t stream = nullptr;
    bool cooperative = false;
    unsigned cluster_blocks = 0;  // no clusters
};

inline Shape in_clusters(unsigned cluster_blocks, unsigned blocks, unsigned threads,
                         std::size_t shared_bytes = 0) {
    return {blocks, threads, shared_bytes, nullptr, false, cluster_blocks};
}

inline Shape cooperative(unsigned blocks, unsigned threads, std::size_t shared_bytes = 0) {
    return {blocks, threads, shared_bytes, nullptr, true};
}

template <class... Types, class... Arguments>
cudaError_t launch(const Shape& shape, void (*kernel)(Types...), Arguments... arguments) {
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeCooperative;
    attributes[0].val.cooperative = shape.cooperative;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim = {shape.cluster_blocks, 1, 1};
    const cudaLaunchConfig_t config{shape.blocks,       shape.threads,
                                    shape.shared_bytes, shape.stream,
                                    attributes,         shape.cluster_blocks == 0 ? 1U : 2U};
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// The `size` numbers that a kernel writes.
template <class T, class... Types, class... Arguments>
std::vector<T> result_of(std::size_t size, const Shape& shape, void (*kernel)(T*, Types...),
                         Arguments... arguments) {
    const Numbers<T> result(size);
    REQUIRE(launch(shape, kernel, result.data(), arguments...) == cudaSuccess);
    return result.download();
}

// The message of the kernel's std::logic_error.
template <class... Types, class... Arguments>
std::string complaint(const Shape& shape, void (*kernel)(Types...), Arguments... arguments) {
    REQUIRE(launch(shape, kernel, arguments...) == cudaSuccess);
    return message_of<std::logic_error>([] { cudaDeviceSynchronize(); });
}

inline void nothing_kernel() {}

inline auto contains(const std::string& part) { return Catch::Matchers::ContainsSubstring(part); }

}  // namespace nca::test
