// SPDX-License-Identifier: MIT
#include "cuda/engine/load_kernels.hpp"

#include "cuda/bands/band_cut.hpp"
#include "cuda/device/loaded_kernel.hpp"
#include "cuda/training/training_kernels.hpp"

namespace nca::cuda {
namespace {

void load_step_kernels(const StepKernels& kernels) {
    const Precision precision = kernels.precision;
    launch_step_forward({}, 1, false, nullptr);  // in every precision, for filters of any kind
    if (precision == Precision::exact) {
        launch_step_backward({}, false, nullptr);
    } else {
        StepForwardArgs args = {};
        args.grid = {1, 4096, 4096};  // so large that a block has as many warps as it can
        launch_stream_forward(args, precision, kernels.stream, false, nullptr);
        launch_step_backward_tensor({}, precision, false, nullptr);
    }
    launch_mask_state({}, nullptr);
    launch_reduce_gradients({}, nullptr, nullptr, 0, false, nullptr);
    launch_gather_gradient(nullptr, nullptr, nullptr, nullptr, nullptr, {}, {}, nullptr);
}

// Narrow grids and wide ones have kernels of their own.
void load_band_kernels(Precision precision) {
    for (const int width : {1, most_band_width}) {
        const int height = most_bands * fewest_band_rows;
        const BandRollout rollout = {.grid = {1, height, width},
                                     .rule = {},
                                     .cut = cut_bands(height, most_bands, fewest_band_rows, {})};
        launch_band_fire(rollout, nullptr);
        launch_band_forward(rollout, precision, nullptr);
        launch_band_lists(rollout, precision, nullptr);
        launch_band_backward(rollout, precision, nullptr);
    }
    launch_update_weights({}, 1, nullptr);
}

}  // namespace

void load_kernels(const CudaDevice& device) {
    const LoadingOnly loading;
    launch_pack_model(nullptr, {}, {}, {}, nullptr, device.kernels.precision, nullptr);
    load_step_kernels(device.kernels);
    if (device.limits.band_clusters > 0) load_band_kernels(device.kernels.precision);
    launch_loss(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, {}, nullptr,
                nullptr);
    launch_adam({}, nullptr);
    const int none[1] = {};
    launch_put_steps(nullptr, none, nullptr);
    const float* const no_gradient[1] = {};
    launch_put_pointers(nullptr, no_gradient, nullptr);
    launch_plan_steps(nullptr, nullptr, 0, nullptr, nullptr);
    launch_start_states(nullptr, {}, {}, nullptr);
    launch_take_samples(nullptr, {}, {}, nullptr, nullptr);
    launch_put_samples({}, nullptr, nullptr, nullptr, {}, nullptr, nullptr);
    launch_close_iteration(nullptr, nullptr);
}

}  // namespace nca::cuda
