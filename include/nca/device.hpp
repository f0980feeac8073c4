// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace nca {

// What the CUDA engine's matrix products are computed in. Sums, states and everything else are
// float32 in all of them; the CPU engine computes in float32 whatever is asked for.
enum class Precision {
    exact,    // float32 on the ordinary cores
    precise,  // tensor cores, each float32 operand as the sum of two numbers of 11 significant
              // bits (fp16, scaled by powers of two): float32's accuracy, nearly
    fast,     // tensor cores, operands rounded to one such number; one kernel a step takes states
              // of at most 65504
};

// From the most exact to the fastest.
inline constexpr std::array all_precisions = {Precision::exact, Precision::precise,
                                              Precision::fast};

// "exact", "precise" or "fast".
NCA_API std::string_view name(Precision precision);
// The other way round. Throws InvalidArgument for any other name, listing these.
NCA_API Precision parse_precision(std::string_view text);

// How the CUDA engine runs the steps of a rollout.
enum class RolloutForm {
    automatic,  // bands where the device, the rule and the grid allow it and the precision is not
                // exact, steps otherwise
    steps,      // one kernel a step
    bands,      // all steps in one kernel, by a cluster of blocks for each sample, each with a band
                // of its rows; compute capability 9.0
};

// Which engine to make and how.
struct NCA_API Device {
    enum class Kind { automatic, cpu, cuda };

    Kind kind = Kind::automatic;
    int index = 0;    // of the CUDA device
    int threads = 0;  // of the CPU engine; 0: one for each processor
    // Of the CUDA engine. Where there is none, the engine decides when it is made: precise on a
    // device that runs rollouts in bands, exact on others (Engine::precision tells).
    std::optional<Precision> precision = std::nullopt;
    RolloutForm rollout = RolloutForm::automatic;  // of the CUDA engine
    // Engines that work on the CUDA device side by side, this one among them: each takes its part
    // of the device.
    int engines_on_device = 1;

    // A CUDA device where there is one, the CPU otherwise.
    static Device automatic() { return {}; }
    static Device cpu(int threads = 0) { return {.kind = Kind::cpu, .threads = threads}; }
    static Device cuda(int index = 0) { return {.kind = Kind::cuda, .index = index}; }

    // "auto", "cpu", "cuda" or "cuda:1". Throws InvalidArgument for anything else.
    static Device parse(std::string_view text);
};

}  // namespace nca
