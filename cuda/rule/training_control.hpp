// SPDX-License-Identifier: MIT
#pragma once

#include <nca/random.hpp>

#include "host/core/adam_rates.hpp"
#include "host/iteration/iteration.hpp"

namespace nca::cuda {

// What the host wants of one iteration.
struct DevicePlan {
    FireKey key;
    AdamRates rates;
    int set_anchor;
};

inline constexpr int most_queued_iterations = 32;

// The part of a training run that lives on the device, so that a whole queue of iterations runs
// without the host: an iteration reads its plan at the cursor and writes its outcome there. After
// an iteration that failed, those behind it change nothing.
struct TrainingControl {
    int cursor;
    int failed;
    int bad_weight;  // a weight of this iteration's update is not finite
    DevicePlan plans[most_queued_iterations];
    IterationOutcome outcomes[most_queued_iterations];
};

}  // namespace nca::cuda
