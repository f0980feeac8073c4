// SPDX-License-Identifier: MIT
#pragma once

// How the device judges an iteration of training: by its loss, its gradient and its weights. An
// iteration that failed changes nothing, and neither do those that are queued behind it.

#include "cuda/device/device.cuh"
#include "cuda/rule/training_control.hpp"

namespace nca::cuda {

inline constexpr int tensors = 4;  // w1, b1, w2, b2, as in Weights::all()

__device__ inline Verdict judge_loss(double loss, int dead, int batch) {
    if (!isfinite(loss)) return Verdict::loss_not_finite;
    if (loss > exploded_loss) return Verdict::loss_exploded;
    return dead == batch ? Verdict::all_dead : Verdict::good;
}

// Writes the batch's outcome for the host.
__device__ inline void judge_batch(TrainingControl& control, const float* loss, const float* living,
                                   int batch) {
    double sum = 0;
    int dead = 0;
    for (int sample = 0; sample < batch; ++sample) {
        sum += loss[sample];
        dead += living[sample] == 0;
    }
    IterationOutcome& outcome = control.outcomes[control.cursor];
    outcome.loss = sum / batch;
    outcome.dead = dead;
    outcome.reset = 0;
    outcome.gradient_norm = 0;
    outcome.verdict =
        control.failed != 0 ? Verdict::not_run : judge_loss(outcome.loss, dead, batch);
    if (outcome.verdict != Verdict::good) control.failed = 1;
}

// Writes the gradient's outcome for the host; returns whether the update may be made. squares: of
// the norms of the four tensors.
__device__ inline bool judge_gradient(TrainingControl& control, const double* squares,
                                      bool first_thread) {
    if (control.failed != 0) return false;
    double sum = 0;
    for (int tensor = 0; tensor < tensors; ++tensor) sum += squares[tensor];
    const double norm = sqrt(sum);
    const bool good = norm <= exploded_gradient;
    if (first_thread) {
        IterationOutcome& outcome = control.outcomes[control.cursor];
        outcome.gradient_norm = norm;
        if (!good) outcome.verdict = Verdict::gradient_exploded;
    }
    return good;
}

// Settles the verdict and moves on to the next plan.
__device__ inline void close_iteration(TrainingControl& control) {
    IterationOutcome& outcome = control.outcomes[control.cursor];
    if (outcome.verdict == Verdict::good && control.bad_weight != 0) {
        outcome.verdict = Verdict::weight_not_finite;
    }
    if (outcome.verdict != Verdict::good) control.failed = 1;
    control.bad_weight = 0;
    ++control.cursor;
}

}  // namespace nca::cuda
