// SPDX-License-Identifier: MIT
#pragma once

#include <nca/export.hpp>

#include <string>
#include <string_view>

namespace nca {

// Which engine to make and how.
struct NCA_API Device {
    enum class Kind { automatic, cpu, cuda };

    Kind kind = Kind::automatic;
    int index = 0;    // of the CUDA device
    int threads = 0;  // of the CPU engine; 0: one for each processor

    // A CUDA device where there is one, the CPU otherwise.
    static Device automatic() { return {}; }
    static Device cpu(int threads = 0) { return {Kind::cpu, 0, threads}; }
    static Device cuda(int index = 0) { return {Kind::cuda, index, 0}; }

    // "auto", "cpu", "cuda" or "cuda:1". Throws InvalidArgument for anything else.
    static Device parse(std::string_view text);
};

}  // namespace nca
