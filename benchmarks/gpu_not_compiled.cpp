// SPDX-License-Identifier: MIT
#include "benchmarks/gpu.hpp"

#include <nca/error.hpp>

namespace nca::bench {
namespace {

[[noreturn]] void not_compiled() { throw NotCompiled("this build of bench_step has no CUDA"); }

}  // namespace

Machine measure_gpu(int) { not_compiled(); }
double gpu_copy_rate(int, std::size_t) { not_compiled(); }
double gpu_memory_in_use() { not_compiled(); }

}  // namespace nca::bench
