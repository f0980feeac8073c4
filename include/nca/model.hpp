// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>
#include <nca/place.hpp>
#include <nca/rule.hpp>
#include <nca/weights.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

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
    /// The cells of that grid that it grew from, all different, at most most_start_cells; empty:
    /// the one in the middle, {height / 2, width / 2}.
    std::vector<Place> start_cells = {};
    /// Whose weights it started from, in words, as "lizard.safetensors, 8000 iterations of growing
    /// on lizard.png"; empty: from random ones.
    std::string init = {};
    double stop_at = 0;  ///< loss that ended training early (--stop-at); 0: none did

    /// Whether all values are equal.
    bool operator==(const TrainingHistory&) const = default;
};

/// The order of the 48 inputs of the first layer in a file. In memory it is always `channel`.
enum class InputOrder {
    channel,  ///< input channel * 3 + filter: this library, the notebook, many others
    filter,   ///< input filter * 16 + channel: programs that join the results of three filters
};

/// What a file does not say that has weights and no rule. What is not given here is guessed.
struct LoadOptions {
    std::string rule = {};  ///< "notebook", "growing" or "demo" (distill_demo_rule()), or empty
    std::optional<Edges> edges = {};        ///< in place of the rule's
    std::optional<float> sobel_scale = {};  ///< times -1, 0, 1, -2, 0, 2, -1, 0, 1; finite
    /// Whether the first filter is the identity. False: all zero, as in programs that copied the
    /// authors' PyTorch notebook as it is printed. Not given: false where the weights behind it
    /// look as no training has changed them.
    std::optional<bool> identity_filter = {};
    std::optional<Life> life = {};               ///< in place of the rule's
    std::optional<StartCell> start_cell = {};    ///< in place of the rule's
    std::optional<float> fire_rate = {};         ///< in place of the rule's, in 0..1
    std::optional<float> step_size = {};         ///< in place of the rule's; finite
    std::optional<bool> premultiplied = {};      ///< in place of the rule's
    std::optional<InputOrder> input_order = {};  ///< of the file
    /// Whether the program that trained it had x and y exchanged. Without this its pictures come
    /// out mirrored along their diagonal.
    bool transposed = false;

    /// Whether all values are equal.
    bool operator==(const LoadOptions&) const = default;
};

/// Where the rule of a model is from.
enum class RuleSource {
    file,     ///< from its file; or the model was made in memory
    format,   ///< the file's format has one rule for all models
    options,  ///< from LoadOptions
    guess,    ///< guessed: the first rule of a list under which the automaton lives
};

/// How a model came out of its file, for people. Not stored.
struct ModelOrigin {
    RuleSource rule_source = RuleSource::file;  ///< where the rule is from
    std::string rule;  ///< the rule's name in LoadOptions; empty where it is from the file
    InputOrder input_order = InputOrder::channel;  ///< that of the file
    std::vector<std::string> notes;                ///< what was converted or left out, a line each

    /// Whether all values are equal.
    bool operator==(const ModelOrigin&) const = default;
};

/// A rule and its weights, in host memory.
struct Model {
    Rule rule;                ///< how a step is computed
    Weights weights;          ///< what training changes
    TrainingHistory history;  ///< how it was trained
    ModelOrigin origin = {};  ///< how it was read

    /// Reads a model that this library wrote, a safetensors or PyTorch file of other programs, json
    /// of the Distill article's web demo or the graph that its notebook exports: the kind is what
    /// the file is, whatever its name (docs/weights-from-elsewhere.md). Where it has no rule,
    /// options say which, and the rest is guessed: of the notebook's rule and that of the preset
    /// growing, each with both orders of inputs, the first is taken under which the automaton lives
    /// and stays bounded for 96 steps on the CPU, some 20 ms; origin says so. Throws IoError where
    /// the file cannot be read; FormatError where it is of no known kind, has other shapes, cannot
    /// be told apart from something else, or holds a value that is not finite; InvalidArgument
    /// where there are options for a file that says it itself, or where it lives under no rule.
    NCA_API static Model load(const std::filesystem::path& path, const LoadOptions& options = {});

    /// Writes a safetensors file that the notebook's PyTorch module loads unchanged where there is
    /// no output bias. The old file stays until the new one is complete. Throws IoError where the
    /// file cannot be written, InvalidArgument where the rule or the history's start cells are not
    /// valid, a weight is not finite or there are no weights, as in a model that was moved from.
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
