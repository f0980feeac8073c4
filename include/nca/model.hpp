// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>
#include <nca/rule.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace nca {

// The four parameter tensors, in the memory of whoever owns them. b2 is null where the automaton
// has no output bias.
template <class T>
struct BasicWeightsView {
    T* w1 = nullptr;  // [hidden, perception]
    T* b1 = nullptr;  // [hidden]
    T* w2 = nullptr;  // [channels, hidden]
    T* b2 = nullptr;  // [channels] or null

    // To a view that only reads. A template, since no type converts to itself.
    template <class U>
    requires std::is_same_v<U, const T>
    operator BasicWeightsView<U>() const { return {w1, b1, w2, b2}; }
};
using WeightsView = BasicWeightsView<float>;
using ConstWeightsView = BasicWeightsView<const float>;

// Layout of the parameters in one contiguous array: w1, b1, w2, b2.
inline constexpr std::size_t w1_size = std::size_t{hidden} * perception;
inline constexpr std::size_t b1_size = hidden;
inline constexpr std::size_t w2_size = std::size_t{channels} * hidden;
inline constexpr std::size_t b2_size = channels;

constexpr std::size_t parameter_count(bool output_bias) {
    return w1_size + b1_size + w2_size + (output_bias ? b2_size : 0);
}

template <class T>
constexpr BasicWeightsView<T> view_parameters(T* all, bool output_bias) {
    return {all, all + w1_size, all + w1_size + b1_size,
            output_bias ? all + w1_size + b1_size + w2_size : nullptr};
}

// The parameters in host memory, all zero at first.
class NCA_API Weights {
public:
    Weights() : Weights(true) {}
    explicit Weights(bool output_bias)
        : values_(parameter_count(output_bias)), output_bias_(output_bias) {}

    bool has_output_bias() const { return output_bias_; }
    std::span<float> all() { return values_; }
    std::span<const float> all() const { return values_; }
    WeightsView view() { return view_parameters(values_.data(), output_bias_); }
    ConstWeightsView view() const { return view_parameters(values_.data(), output_bias_); }

    bool operator==(const Weights&) const = default;

private:
    std::vector<float> values_;
    bool output_bias_;
};

// One parameter tensor by its name in files ("net.0.weight", ...), for loops over all of them.
struct ParameterTensor {
    const char* name;
    std::size_t offset;  // into Weights::all()
    std::size_t size;
    std::vector<std::int64_t> shape;  // as PyTorch's 1x1 convolutions have it
};
NCA_API std::vector<ParameterTensor> parameter_tensors(bool output_bias);

// How a model came to be; shown by `nca info`, kept in the file, not needed to run it.
struct TrainingHistory {
    std::string preset;  // empty: unknown
    std::string target;  // file name of the target
    std::int64_t iterations = 0;
    int height = 0;  // the grid it was trained on, in cells; 0: unknown
    int width = 0;
    int padding = 0;  // dead cells around the target, on each side
    double loss = 0;  // mean of the last 100 iterations
    std::uint32_t seed = 0;

    bool operator==(const TrainingHistory&) const = default;
};

// A rule and its weights.
struct Model {
    Rule rule;
    Weights weights;
    TrainingHistory history;
    bool rule_in_file = true;  // false: the file had no rule and the notebook's was assumed

    // Reads a safetensors file (docs/file-formats.md). Throws IoError where it cannot be read,
    // FormatError where it is not such a file, has other shapes, or holds a value that is not
    // finite.
    NCA_API static Model load(const std::filesystem::path& path);

    // Writes a safetensors file that the notebook's PyTorch module loads unchanged. The old file
    // stays until the new one is whole. Throws IoError, and InvalidArgument where a weight is not
    // finite.
    NCA_API void save(const std::filesystem::path& path) const;
};

// Reads a model of the web demo of the Distill article (Mordvintsev et al., 2020): json with the
// weights in 8 bits (docs/file-formats.md). The rule is distill_demo_rule(), there is an output
// bias, and the history is unknown. Throws IoError where the file cannot be read, FormatError where
// it is not such a file.
NCA_API Model load_distill_json(const std::filesystem::path& path);

// Writes a model for the web demo. The file holds weights and nothing else: the demo runs them by
// distill_demo_rule() whatever the model's rule, which the caller should compare. Each weight is
// rounded to the nearest of 256 values, so it changes by at most 1/255 of the largest magnitude in
// its tensor; a tensor of zeros, as an absent output bias is written, stays zero. The old file
// stays until the new one is whole. Throws IoError, and InvalidArgument where a weight is not
// finite or above 1.7e38, half of the largest float.
NCA_API void save_distill_json(const std::filesystem::path& path, const Model& model);

}  // namespace nca
