// SPDX-License-Identifier: MIT
// Stands in for the kernels of rollouts in bands until they are there: definitions of the same
// functions elsewhere take precedence. Nothing runs in bands meanwhile.

#include <nca/error.hpp>

#include "cuda/band_rollout.hpp"

#define NCA_UNTIL_IT_IS_THERE __attribute__((weak))

namespace nca::cuda {
namespace {

[[noreturn]] void fail() { throw CudaError("this build has no kernels for rollouts in bands"); }

// What a band would take at least: two states of its rows and of one on each side.
bool has_room(const Grid& grid, const BandCut& cut) {
    const auto rows = static_cast<std::size_t>(cut.most_rows()) + 2;
    return 2 * rows * static_cast<std::size_t>(grid.width) * Traits::channels * sizeof(float) <=
           most_band_shared_bytes;
}

}  // namespace

NCA_UNTIL_IT_IS_THERE std::size_t band_list_bytes(const Grid& grid, const BandCut& cut, Precision) {
    return static_cast<std::size_t>(cut.most_rows()) * static_cast<std::size_t>(grid.width);
}
NCA_UNTIL_IT_IS_THERE bool band_forward_fits(const Grid& grid, const BandCut& cut, Precision) {
    return has_room(grid, cut);
}
NCA_UNTIL_IT_IS_THERE bool band_backward_fits(const Grid& grid, const BandCut& cut, Precision) {
    return has_room(grid, cut);
}
NCA_UNTIL_IT_IS_THERE void launch_band_fire(const BandRollout&, cudaStream_t) { fail(); }
NCA_UNTIL_IT_IS_THERE void launch_band_forward(const BandRollout&, Precision, cudaStream_t) {
    fail();
}
NCA_UNTIL_IT_IS_THERE void launch_band_lists(const BandRollout&, Precision, cudaStream_t) {
    fail();
}
NCA_UNTIL_IT_IS_THERE void launch_band_backward(const BandRollout&, Precision, cudaStream_t) {
    fail();
}
NCA_UNTIL_IT_IS_THERE int active_band_clusters(Precision) { return 0; }

}  // namespace nca::cuda
