// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>
#include <nca/rule.hpp>
#include <nca/weights.hpp>

#include <cstdint>
#include <filesystem>
#include <string>

namespace nca {

/// How a model was trained. Stored in the model's file, not needed to run it.
struct TrainingHistory {
    std::string preset;           ///< its name; empty: unknown
    std::string target;           ///< file name of the target
    std::int64_t iterations = 0;  ///< how many were done
    int height = 0;               ///< of the grid, in cells; 0: unknown
    int width = 0;                ///< of the grid, in cells; 0: unknown
    int padding = 0;              ///< cells of zeros around the target, on each side
    double loss = 0;              ///< mean of the last 100 good iterations; NaN: there was none
    std::uint32_t seed = 0;       ///< the seed of all random numbers

    /// Whether all values are equal.
    bool operator==(const TrainingHistory&) const = default;
};

/// A rule and its weights, in host memory.
struct Model {
    Rule rule;                 ///< how a step is computed
    Weights weights;           ///< what training changes
    TrainingHistory history;   ///< how it was trained
    bool rule_in_file = true;  ///< false: the file had no rule, so rule is notebook_rule()

    /// Reads a safetensors file (docs/file-formats.md). Throws IoError where it cannot be read,
    /// FormatError where it is not such a file, has other shapes, or holds a value that is not
    /// finite.
    NCA_API static Model load(const std::filesystem::path& path);

    /// Writes a safetensors file that the notebook's PyTorch module loads unchanged where there is
    /// no output bias. The old file stays until the new one is complete. Throws IoError where the
    /// file cannot be written, InvalidArgument where the rule is not valid, a weight is not finite
    /// or there are no weights, as in a model that was moved from.
    NCA_API void save(const std::filesystem::path& path) const;
};

/// How many iterations the run has done that wrote this model or checkpoint. 0 where the file says
/// nothing about that, is of another kind, is missing or cannot be read. Reads only the header, so
/// it takes no longer for a large file; the weights may be damaged all the same. Throws nothing.
NCA_API std::int64_t iterations_in_file(const std::filesystem::path& path);

/// Reads a model of the web demo of the Distill article (Mordvintsev et al., 2020): json with the
/// weights in 8 bits (docs/file-formats.md). The rule is distill_demo_rule(), there is an output
/// bias, and the history is unknown. Throws IoError where the file cannot be read, FormatError
/// where it is not such a file.
NCA_API Model load_distill_json(const std::filesystem::path& path);

/// Writes a model for the web demo. The file holds only weights, and the demo runs them by
/// distill_demo_rule(): the caller should check that the model has this rule. Each weight is
/// rounded to the nearest of 256 values, so it changes by at most 1/255 of the largest magnitude in
/// its tensor. A tensor of zeros stays zero; a missing output bias is written as zeros. The old
/// file stays until the new one is complete. Throws IoError where the file cannot be written,
/// InvalidArgument where a weight is not finite or has a magnitude above 1.7e38, half of the
/// largest float, or where there are no weights, as in a model that was moved from.
NCA_API void save_distill_json(const std::filesystem::path& path, const Model& model);

}  // namespace nca
