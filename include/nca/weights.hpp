// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>
#include <nca/sizes.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

namespace nca {

/// The four tensors of the weights, in host or device memory. Does not own them and does not know
/// where they lie: an engine takes pointers to its own memory, and cannot check that they are. b2
/// is null where the automaton has no output bias.
template <class T>
struct BasicWeightsView {
    T* w1 = nullptr;  ///< [hidden, perception]
    T* b1 = nullptr;  ///< [hidden]
    T* w2 = nullptr;  ///< [channels, hidden]
    T* b2 = nullptr;  ///< [channels] or null

    /// Converts to a view that only reads. A template, because no class can convert to itself.
    template <class U>
    requires std::is_same_v<U, const T>
    operator BasicWeightsView<U>() const { return {w1, b1, w2, b2}; }
};
/// A view of weights, or of their gradients, that may be written.
using WeightsView = BasicWeightsView<float>;
/// A view of weights that are only read.
using ConstWeightsView = BasicWeightsView<const float>;

// The layout of the weights in one contiguous array: w1, b1, w2, b2.

/// How many floats w1 has.
inline constexpr std::size_t w1_size = std::size_t{hidden} * perception;
/// How many floats b1 has.
inline constexpr std::size_t b1_size = hidden;
/// How many floats w2 has.
inline constexpr std::size_t w2_size = std::size_t{channels} * hidden;
/// How many floats b2 has.
inline constexpr std::size_t b2_size = channels;

/// How many floats all weights have.
constexpr std::size_t parameter_count(bool output_bias) {
    return w1_size + b1_size + w2_size + (output_bias ? b2_size : 0);
}

/// The view of a contiguous array of parameter_count(output_bias) values: w1, b1, w2, b2. It may be
/// in host or device memory.
template <class T>
constexpr BasicWeightsView<T> view_parameters(T* all, bool output_bias) {
    return {all, all + w1_size, all + w1_size + b1_size,
            output_bias ? all + w1_size + b1_size + w2_size : nullptr};
}

/// The weights in host memory, all zero at first. Weights that were moved from have no values until
/// they are assigned to: functions that take weights or a model throw InvalidArgument for them.
class NCA_API Weights {
public:
    /// Weights with an output bias.
    Weights() : Weights(true) {}
    /// Weights with or without an output bias.
    explicit Weights(bool output_bias)
        : values_(parameter_count(output_bias)), output_bias_(output_bias) {}

    /// Whether there is a b2.
    bool has_output_bias() const { return output_bias_; }
    /// All values in one array: w1, b1, w2, b2. Empty where they were moved from.
    std::span<float> all() { return values_; }
    /// The same, to read.
    std::span<const float> all() const { return values_; }
    /// The four tensors. Null pointers where they were moved from.
    WeightsView view() { return view_of<float>(values_); }
    /// The same, to read.
    ConstWeightsView view() const { return view_of<const float>(values_); }

    /// Whether all values are equal.
    bool operator==(const Weights&) const = default;

private:
    template <class T>
    BasicWeightsView<T> view_of(std::span<T> values) const {
        if (values.empty()) return {};
        return view_parameters(values.data(), output_bias_);
    }

    std::vector<float> values_;
    bool output_bias_;
};

/// One tensor of the weights.
struct ParameterTensor {
    const char* name;                 ///< in files: "net.0.weight", ...
    std::size_t offset;               ///< into Weights::all()
    std::size_t size;                 ///< in floats
    std::vector<std::int64_t> shape;  ///< of PyTorch's 1x1 convolutions
};
/// All tensors, in the order of Weights::all().
NCA_API std::vector<ParameterTensor> parameter_tensors(bool output_bias);

}  // namespace nca
