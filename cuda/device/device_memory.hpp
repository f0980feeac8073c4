// SPDX-License-Identifier: MIT
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <string_view>

namespace nca::cuda {

// Uninitialised memory of the current device. Throws CudaError that says how many bytes were wanted
// for what, and what lowers them. cudaFree waits for all work of the device, so memory may be freed
// while kernels that use it are still queued.
void* allocate(std::size_t count, std::size_t element_bytes, std::string_view what);

template <class T>
struct DeviceDeleter {
    void operator()(T* pointer) const { cudaFree(pointer); }
};

// An array of device memory. Move-only, empty at first.
template <class T>
class DeviceArray {
public:
    DeviceArray() = default;
    DeviceArray(std::size_t size, std::string_view what)
        : data_(static_cast<T*>(allocate(size, sizeof(T), what))), size_(size) {}

    T* data() const { return data_.get(); }
    std::size_t size() const { return size_; }
    // The caller frees it by cudaFree.
    T* release() {
        size_ = 0;
        return data_.release();
    }

    bool fits(std::size_t size) const { return size <= size_; }
    // Keeps what it has where that is large enough. The contents are lost otherwise.
    void reserve(std::size_t size, std::string_view what) {
        if (fits(size)) return;
        *this = {};  // before asking for more
        *this = DeviceArray(size, what);
    }

private:
    std::unique_ptr<T, DeviceDeleter<T>> data_;
    std::size_t size_ = 0;
};

// Makes a device the calling thread's current one and puts the old one back.
class DeviceGuard {
public:
    explicit DeviceGuard(int index);
    ~DeviceGuard();
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

private:
    int before_ = 0;
    bool changed_ = false;
};

}  // namespace nca::cuda
