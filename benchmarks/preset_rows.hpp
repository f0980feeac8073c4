// SPDX-License-Identifier: MIT
#pragma once

#include "benchmarks/setting.hpp"

namespace nca::bench {

// The rows of every preset: our engine on every device of the options, trainings side by side where
// that is asked for, and the steps without fusing.
void bench_presets(const Setting& setting);

}  // namespace nca::bench
