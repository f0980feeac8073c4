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
    not_run,  // an earlier iteration of its queue failed
};

// A batch's or a sample's loss above this has exploded. Colours are in 0..1: a blank grid has < 1.
inline constexpr double exploded_loss = 1000;
// A gradient norm above this has exploded. Adam squares it; infinite moments would stay infinite.
inline constexpr double exploded_gradient = 1e18;

struct IterationOutcome {
    Verdict verdict = Verdict::not_run;
    int dead = 0;              // samples without a living cell where the loss is
    int reset = 0;             // states of the pool that became the start cell
    double loss = 0;           // mean over the batch
    double gradient_norm = 0;  // L2 norm over all tensors, before normalisation
};

}  // namespace nca
