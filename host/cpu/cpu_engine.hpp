// SPDX-License-Identifier: MIT
#pragma once

#include <nca/engine.hpp>

#include <memory>

namespace nca::cpu {

// The engine that runs on the CPU. threads is in 0..1024, 0 for one for each processor; otherwise
// throws InvalidArgument.
std::unique_ptr<Engine> make_cpu_engine(int threads);

}  // namespace nca::cpu
