// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>
#include <nca/sizes.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

namespace nca {

/// Where memory lies. An engine checks the space of each StateView that it is given, and throws
/// InvalidArgument where it is not its own.
enum class MemorySpace {
    host,    ///< the processor's memory: that of the CPU engine
    device,  ///< the memory of a CUDA device: that of the CUDA engine
};

/// A batch of grids, [batch, height, width, channels] floats, contiguous. Does not own its memory.
/// Its functions only compute pointers: they check no index, and work for device memory, too.
template <class T>
struct BasicStateView {
    T* data = nullptr;                      ///< the first float
    int batch = 0;                          ///< how many grids
    int height = 0;                         ///< of a grid, in cells
    int width = 0;                          ///< of a grid, in cells
    MemorySpace space = MemorySpace::host;  ///< where data lies

    /// How many cells all grids have.
    std::size_t cells() const { return std::size_t(batch) * height * width; }
    /// How many floats all grids have.
    std::size_t size() const { return cells() * channels; }
    /// The channels of the cell in row y, column x of a grid.
    T* cell(int sample, int y, int x) const {
        return data + ((std::size_t(sample) * height + y) * width + x) * channels;
    }
    /// One grid of the batch.
    BasicStateView sample(int index) const {
        return {data + std::size_t(index) * height * width * channels, 1, height, width, space};
    }
    /// Converts to a view that only reads. A template, because no class can convert to itself.
    template <class U>
    requires std::is_same_v<U, const T>
    operator BasicStateView<U>() const { return {data, batch, height, width, space}; }
};
/// A view of states, or of their gradients, that may be written.
using StateView = BasicStateView<float>;
/// A view of states that are only read.
using ConstStateView = BasicStateView<const float>;

/// What check_state() finds in a state.
struct StateCheck {
    std::int64_t living = 0;  ///< how many cells have an alpha above living_threshold
    bool finite = true;       ///< false: a value is NaN or infinite
    float largest = 0;        ///< the largest magnitude of a value; NaN is passed over
};

/// Looks at all cells of a state in host memory. Where none is living the automaton has died: the
/// rule clears cells that have no living neighbour. Where a value is not finite, or far above the
/// 10 or so that trained automata reach, most likely the weights were trained with another rule.
/// Throws InvalidArgument where the view is null or in device memory; Simulator::check() is for
/// both.
NCA_API StateCheck check_state(ConstStateView state);

/// Owns floats in an engine's memory. Move-only; made by Engine::allocate. It may outlive the
/// engine.
class NCA_API Buffer {
public:
    /// A function that frees the memory.
    using Release = void (*)(float*);

    Buffer() = default;
    /// Takes `size` floats, which release will free. For engines.
    Buffer(float* data, std::size_t size, MemorySpace space, Release release)
        : data_(data, release), size_(size), space_(space) {}

    /// The first float, in the engine's memory. Null where the buffer was moved from.
    float* data() const { return data_.get(); }
    /// How many floats it was made with.
    std::size_t size() const { return size_; }
    /// Where the floats lie.
    MemorySpace space() const { return space_; }

private:
    std::unique_ptr<float, Release> data_{nullptr, [](float*) {}};
    std::size_t size_ = 0;
    MemorySpace space_ = MemorySpace::host;
};

/// Owns a batch of grids in an engine's memory. Move-only; made by Engine::make_state, zero at
/// first. It may outlive the engine.
class NCA_API State {
public:
    State() = default;
    /// Takes a buffer of batch * height * width * channels floats. For engines.
    State(Buffer buffer, int batch, int height, int width)
        : buffer_(std::move(buffer)), batch_(batch), height_(height), width_(width) {}

    /// The grids, [batch, height, width, channels]. Valid while the state lives. Its pointer is
    /// null where the state was moved from.
    StateView view() { return {buffer_.data(), batch_, height_, width_, buffer_.space()}; }
    /// The same, to read.
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
