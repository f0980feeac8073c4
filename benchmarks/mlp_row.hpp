// SPDX-License-Identifier: MIT
#pragma once

#include "benchmarks/table.hpp"

namespace nca::bench {

// Times the CPU engine's multilayer perceptron alone, on rows that are all computed, on one core,
// and prints its rate beside the core's peak. Returns both for the json file.
Row bench_mlp(int count);

}  // namespace nca::bench
