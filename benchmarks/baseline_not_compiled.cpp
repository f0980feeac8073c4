// SPDX-License-Identifier: MIT
#include "benchmarks/baseline.hpp"

#include <nca/error.hpp>

namespace nca::bench {

bool has_unfused() { return false; }
std::unique_ptr<Unfused> make_unfused(const Model&, int, int, int, int, bool) {
    throw NotCompiled("this build of bench_step has no cuBLAS");
}

}  // namespace nca::bench
