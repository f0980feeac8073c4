// SPDX-License-Identifier: MIT
#pragma once

namespace nca {

// How a training iteration went. Only a good one changes weights, moments and anchor.
enum class Verdict : int {
    good,
    loss_not_finite,
    loss_exploded,
    all_dead,
    gradient_exploded,
    weight_not_finite,
    not_run,  // an earlier one of the same queue failed
};

// Of a batch or of one sample. Colours are in 0..1, a blank grid's loss is below 1.
inline constexpr double exploded_loss = 1000;
// Adam squares gradients, and a second moment that is infinite once stays so for ever.
inline constexpr double exploded_gradient = 1e18;

struct IterationOutcome {
    Verdict verdict = Verdict::not_run;
    int dead = 0;              // samples without a living cell at the end
    int reset = 0;             // states of the pool that became the start cell
    double loss = 0;           // mean over the batch
    double gradient_norm = 0;  // L2 norm over all tensors, before normalisation
};

}  // namespace nca
