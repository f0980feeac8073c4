// SPDX-License-Identifier: MIT
#pragma once

#include "benchmarks/measure.hpp"

#include <nca/trainer.hpp>

#include <functional>

namespace nca::bench {

// Runs so many trainings at the same time, each with an engine and a thread of its own.
// Milliseconds of an iteration: the time that passes, divided by the iterations of all of them.
// make is called in those threads. Throws what one of them threw.
Timing time_side_by_side(int automata, int count, const std::function<Trainer()>& make);

}  // namespace nca::bench
