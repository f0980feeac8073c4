// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>
#include <nca/sizes.hpp>

#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

namespace nca {

// Where memory lies. An engine checks the space of each view that it is given, and throws
// InvalidArgument where it is not its own.
enum class MemorySpace { host, device };

// A batch of grids, [batch, height, width, channels] floats, contiguous. Does not own its memory.
template <class T>
struct BasicStateView {
    T* data = nullptr;
    int batch = 0;
    int height = 0;
    int width = 0;
    MemorySpace space = MemorySpace::host;

    std::size_t cells() const { return std::size_t(batch) * height * width; }
    std::size_t size() const { return cells() * channels; }
    T* cell(int sample, int y, int x) const {
        return data + ((std::size_t(sample) * height + y) * width + x) * channels;
    }
    // One grid of the batch.
    BasicStateView sample(int index) const {
        return {data + std::size_t(index) * height * width * channels, 1, height, width, space};
    }
    // Converts to a view that only reads. A template, because no class can convert to itself.
    template <class U>
    requires std::is_same_v<U, const T>
    operator BasicStateView<U>() const { return {data, batch, height, width, space}; }
};
using StateView = BasicStateView<float>;
using ConstStateView = BasicStateView<const float>;

// Owns floats in an engine's memory. Move-only; made by Engine::allocate.
class NCA_API Buffer {
public:
    using Release = void (*)(float*);  // frees the memory

    Buffer() = default;
    Buffer(float* data, std::size_t size, MemorySpace space, Release release)
        : data_(data, release), size_(size), space_(space) {}

    float* data() const { return data_.get(); }
    std::size_t size() const { return size_; }  // in floats
    MemorySpace space() const { return space_; }

private:
    std::unique_ptr<float, Release> data_{nullptr, [](float*) {}};
    std::size_t size_ = 0;
    MemorySpace space_ = MemorySpace::host;
};

// Owns a batch of grids in an engine's memory. Move-only; made by Engine::make_state, zero at
// first.
class NCA_API State {
public:
    State() = default;
    State(Buffer buffer, int batch, int height, int width)
        : buffer_(std::move(buffer)), batch_(batch), height_(height), width_(width) {}

    StateView view() { return {buffer_.data(), batch_, height_, width_, buffer_.space()}; }
    ConstStateView view() const {
        return {buffer_.data(), batch_, height_, width_, buffer_.space()};
    }

private:
    Buffer buffer_;
    int batch_ = 0;
    int height_ = 0;
    int width_ = 0;
};

}  // namespace nca
