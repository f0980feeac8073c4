// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace nca {

// What the CUDA engine computes its matrix products in. Sums, states and everything else are always
// float32. The CPU engine always computes in float32.
enum class Precision {
    exact,    // float32 on the ordinary cores
    precise,  // tensor cores; each operand is the sum of two fp16 numbers (11 significant bits
              // each), scaled by powers of two. Nearly as accurate as float32
    fast,     // tensor cores; each operand is rounded to one such fp16 number. RolloutForm::steps
              // then needs states of magnitude 65504 at most
};

// From the most exact to the fastest.
inline constexpr std::array all_precisions = {Precision::exact, Precision::precise,
                                              Precision::fast};

// "exact", "precise" or "fast".
NCA_API std::string_view name(Precision precision);
// The precision of that name. Throws InvalidArgument for any other name.
NCA_API Precision parse_precision(std::string_view text);

// How the CUDA engine runs the steps of a rollout.
enum class RolloutForm {
    automatic,  // bands where the device, the rule and the grid allow them and the precision is not
                // exact; otherwise steps
    steps,      // one kernel for each step
    bands,      // one kernel for all steps: each sample has a cluster of blocks, each block a band
                // of the sample's rows. Needs compute capability 9.0
};

// Which engine make_engine makes, and how.
struct NCA_API Device {
    enum class Kind { automatic, cpu, cuda };

    Kind kind = Kind::automatic;
    int index = 0;    // of the CUDA device, from 0
    int threads = 0;  // of the CPU engine, at most 1024; 0: one for each processor
    // Of the CUDA engine. nullopt: precise on a device that runs rollouts in bands, exact on other
    // devices. Engine::precision says which it is.
    std::optional<Precision> precision = std::nullopt;
    RolloutForm rollout = RolloutForm::automatic;  // of the CUDA engine
    // How many engines share the CUDA device, this one included. Each uses its share of it.
    int engines_on_device = 1;

    // CUDA device 0 where it can be used, otherwise the CPU.
    static Device automatic() { return {}; }
    static Device cpu(int threads = 0) { return {.kind = Kind::cpu, .threads = threads}; }
    static Device cuda(int index = 0) { return {.kind = Kind::cuda, .index = index}; }

    // Reads "auto", "cpu", "cuda" or "cuda:N" with N in 0..63. Throws InvalidArgument for any other
    // text.
    static Device parse(std::string_view text);
};

}  // namespace nca
