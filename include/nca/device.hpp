// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace nca {

/// What the CUDA engine computes its matrix products in. Sums, states and everything else are
/// always float32. The CPU engine always computes in float32.
enum class Precision {
    /// float32 on the ordinary cores.
    exact,
    /// Tensor cores; each operand is the sum of two fp16 numbers (11 significant bits each), scaled
    /// by powers of two. Nearly as accurate as float32. Needs compute capability 8.0 or later.
    precise,
    /// Tensor cores; each operand is rounded to one such fp16 number. RolloutForm::steps then needs
    /// states of magnitude 65504 at most. Needs compute capability 8.0 or later.
    fast,
};

/// All precisions, from the most exact to the fastest.
inline constexpr std::array all_precisions = {Precision::exact, Precision::precise,
                                              Precision::fast};

/// The name of a precision: "exact", "precise" or "fast".
NCA_API std::string_view name(Precision precision);
/// The precision of that name. Throws InvalidArgument for any other name.
NCA_API Precision parse_precision(std::string_view text);

/// How the CUDA engine runs the steps of a rollout.
enum class RolloutForm {
    /// Bands where the device, the rule and the grid allow them and the precision is not exact;
    /// otherwise steps.
    automatic,
    /// One kernel for each step.
    steps,
    /// One kernel for all steps: each sample has a cluster of blocks, each block a band of the
    /// sample's rows. Needs compute capability 9.0 or later. Where it is not possible, whatever
    /// runs a rollout throws CudaError, which says why.
    bands,
};

/// Which engine make_engine() makes, and how.
struct NCA_API Device {
    /// Where the engine computes.
    enum class Kind {
        automatic,  ///< on the CUDA device where it can be used, otherwise on the CPU
        cpu,        ///< on the CPU
        cuda,       ///< on the CUDA device
    };

    Kind kind = Kind::automatic;  ///< where the engine computes
    int index = 0;                ///< which CUDA device, from 0
    int threads = 0;              ///< of the CPU engine, at most 1024; 0: one for each processor
    /// What the CUDA engine computes its matrix products in. nullopt: precise where rollout is
    /// RolloutForm::bands, or where the device runs bands and rollout is RolloutForm::automatic;
    /// otherwise exact. Engine::precision says which it is.
    std::optional<Precision> precision = std::nullopt;
    RolloutForm rollout = RolloutForm::automatic;  ///< how the CUDA engine runs steps
    /// How many engines of this process train on the CUDA device at the same time, this one
    /// included. Each takes its share of the device. Where the number is too small, they may wait
    /// for each other for ever. A number below 1 counts as 1.
    int engines_on_device = 1;

    /// CUDA device 0 where it can be used, otherwise the CPU with all processors.
    static Device automatic() { return {}; }
    /// The CPU with that many threads; 0: one for each processor.
    static Device cpu(int threads = 0) { return {.kind = Kind::cpu, .threads = threads}; }
    /// The CUDA device of that index, from 0.
    static Device cuda(int index = 0) { return {.kind = Kind::cuda, .index = index}; }

    /// Reads "auto", "cpu", "cuda" or "cuda:N" with N in 0..63. Throws InvalidArgument for any
    /// other text.
    static Device parse(std::string_view text);
};

}  // namespace nca
