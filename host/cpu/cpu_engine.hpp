// SPDX-License-Identifier: MIT
#pragma once

#include <nca/engine.hpp>

#include <memory>

namespace nca::cpu {

// The engine for machines without a GPU. threads 0: one for each processor.
std::unique_ptr<Engine> make_cpu_engine(int threads);

}  // namespace nca::cpu
