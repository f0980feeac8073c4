// SPDX-License-Identifier: MIT
#include "cuda/rollout_form.hpp"

#include <nca/error.hpp>

#include <fmt/format.h>

#include <string_view>

namespace nca::cuda {
namespace {

std::string version(int code) { return fmt::format("{}.{}", code / 10, code % 10); }

// Throws CudaError, which says what else there is, where the device or this build's code for it
// lacks what came with a compute capability.
void require_code(const DeviceLimits& limits, int since, std::string_view what,
                  std::string_view otherwise) {
    if (limits.code >= since) return;
    if (limits.compute_capability < since) {
        throw CudaError(fmt::format("{} needs compute capability {} or later, {} has {}: {}", what,
                                    version(since), limits.name, version(limits.compute_capability),
                                    otherwise));
    }
    throw CudaError(
        fmt::format("{} needs code for compute capability {} or later, and this build's newest for "
                    "{} is for {}: "
                    "build with -DCMAKE_CUDA_ARCHITECTURES={}, or {}",
                    what, version(since), limits.name, version(limits.code),
                    limits.compute_capability, otherwise));
}

}  // namespace

RolloutPlan plan_rollout(const DeviceLimits&, const Device& asked_for, const Grid&) {
    if (asked_for.rollout == RolloutForm::bands) {
        throw CudaError(
            "a rollout in bands cannot be had: this build has no kernels for it; leave the form to "
            "the engine");
    }
    return {.text = "one kernel a step"};
}

void check_precision(const DeviceLimits& limits, Precision precision) {
    if (precision == Precision::exact) return;
    require_code(limits, 80, fmt::format("precision {}, for its tensor cores,", name(precision)),
                 "use --precision exact");
}

}  // namespace nca::cuda
