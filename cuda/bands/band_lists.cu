// SPDX-License-Identifier: MIT
// Two kernels for all steps of a rollout in bands at once. Before it: which cells fire, as bits, a
// word by a thread. Between forward and back: which cells the way back computes
// (cuda/bands/band_lists.cuh), a band and step by a warp. Reads 8 or 16 bytes a row of cells,
// writes some 600 bytes a band and step. Tests: tests/band_test.cpp.

#include "cuda/bands/band_lists.cuh"
#include "cuda/device/launch.cuh"
#include "cuda/rule/philox.hpp"

namespace nca::cuda {
namespace {

constexpr int list_warps = 4;  // of a block

__global__ void __launch_bounds__(Traits::threads)
    band_fire_kernel(const __grid_constant__ BandRollout args, int words) {
    let_dependents_start();
    const BatchShape& grid = args.grid;
    const FireKey key =
        args.control != nullptr ? args.control->plans[args.control->cursor].key : args.model->key;
    const std::size_t all = std::size_t(args.steps) * grid.batch * grid.height * words;
    const std::size_t stride = std::size_t(gridDim.x) * Traits::threads;
    for (std::size_t i = std::size_t(blockIdx.x) * Traits::threads + threadIdx.x; i < all;
         i += stride) {
        // A row has two or four words, and all steps have fewer than 2^32 rows
        // (most_rows_in_bands): no division in 64 bits is needed.
        const int first = (int(i) & (words - 1)) * 32;
        const auto row_index = std::uint32_t(i >> words / 2);
        const std::uint32_t sample_index = row_index / std::uint32_t(grid.height);
        const auto row = int(row_index % std::uint32_t(grid.height));
        const std::uint32_t sample = sample_index % std::uint32_t(grid.batch);
        const std::uint32_t step = sample_index / std::uint32_t(grid.batch);
        PhiloxBlock block = {};
        std::uint32_t bits = 0;
        for (int bit = 0; bit < 32 && first + bit < grid.width; ++bit) {
            const auto cell = std::uint32_t(row * grid.width + first + bit);
            if (bit == 0 || cell % 4 == 0) {
                block = fire_words(key, args.first_step + step, sample, cell);
            }
            if (word_of_cell(block, cell) < args.rule.fire_threshold) bits |= 1U << bit;
        }
        args.fire[i] = bits;
    }
}

template <int parts, int words>
__global__ void __launch_bounds__(list_warps* Traits::warp_size)
    band_lists_kernel(const __grid_constant__ BandRollout args, std::size_t list_bytes) {
    using Bits = RowBits<words>;
    let_dependents_start();
    wait_for_predecessor();
    const auto thread = int(threadIdx.x);
    const int lane = thread % Traits::warp_size;
    const int bands = args.cut.bands, each = args.grid.batch * bands;
    const int index = int(blockIdx.x) * list_warps + thread / Traits::warp_size;
    if (index >= args.steps * each) return;
    const int step = index / each, sample = index % each / bands, rank = index % bands;
    Band band = {};
    band.width = args.grid.width;
    band.first_row = args.cut.first_row[rank];
    band.rows = args.cut.first_row[rank + 1] - band.first_row;

    Bits any = 0;  // of the sample, where there are gradients
    for (int row = lane; row < args.grid.height; row += Traits::warp_size) {
        any |= life_before<Bits>(args, step, sample, row) |
               row_of<Bits>(args.life, args, step + 1, sample, row);
    }
    int first = band.width, last = -1;
#pragma unroll
    for (int word = 0; word < words; ++word) {
        const std::uint32_t bits = any_bits_over_warp(word_of(any, word));
        if (bits == 0) continue;
        if (last < 0) first = word * 32 + __ffs(int(bits)) - 1;
        last = word * 32 + 31 - __clz(int(bits));
    }
    if (last < 0) first = last = 0;
    // One more on each side. Beyond a circular edge that is at the other end: all columns.
    --first;
    ++last;
    if (first < 0 || last >= band.width) {
        first = args.rule.circular || first < 0 ? 0 : first;
        last = args.rule.circular || last >= band.width ? band.width - 1 : last;
    }

    auto& list = *reinterpret_cast<BandList<parts, words>*>(args.lists + index * list_bytes);
    const int row = band.first_row + (lane < band.rows ? lane : 0);
    const Bits listed = lane < band.rows ? listed_in_row<Bits>(args, step, sample, row) : Bits{0};
    const int count = write_window(list, band, args.rule.circular, listed,
                                   life_before<Bits>(args, step, sample, row), 0, lane);
    if (lane == 0) {
        list.header = {
            count, first, last - first + 1,
            args.magnitude[(std::size_t(step) * args.grid.batch + sample) * bands + rank]};
    }
}

}  // namespace

std::size_t band_list_bytes(const BatchShape& grid, const BandCut& cut, Precision precision) {
    return with_band_kernel(precision, grid.width, [&](auto parts, auto words) {
        return BandList<parts, words>::bytes(cut.most_rows());
    });
}

void launch_band_fire(const BandRollout& rollout, cudaStream_t stream) {
    const int words = band_words(rollout.grid.width);
    const long long all =
        static_cast<long long>(rollout.steps) * rollout.grid.batch * rollout.grid.height * words;
    launch(NCA_KERNEL(band_fire_kernel),
           {.blocks = elementwise_blocks(all), .threads = Traits::threads}, stream, rollout, words);
}

void launch_band_lists(const BandRollout& rollout, Precision precision, cudaStream_t stream) {
    const int all = rollout.steps * rollout.grid.batch * rollout.cut.bands;
    const std::size_t bytes = band_list_bytes(rollout.grid, rollout.cut, precision);
    with_band_kernel(precision, rollout.grid.width, [&](auto parts, auto words) {
        launch("band_lists_kernel", band_lists_kernel<parts, words>,
               {.blocks = (all + list_warps - 1) / list_warps,
                .threads = list_warps * Traits::warp_size,
                .dependent = true},
               stream, rollout, bytes);
    });
}

}  // namespace nca::cuda
