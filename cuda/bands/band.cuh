// SPDX-License-Identifier: MIT
#pragma once

// What the kernels of a rollout in bands have in common: a block's place, rows of bits, and
// perception. docs/cuda.md, "A rollout in bands".

#include <type_traits>

#include "cuda/bands/band_rollout.hpp"
#include "cuda/rule/grid.cuh"
#include "cuda/rule/operands.cuh"

namespace nca::cuda {

struct BandTraits {
    static constexpr int alpha_rows = 3;  // of a neighbour, whose bits a band has
    static constexpr int cell_bytes = Traits::channels * sizeof(float);
    static constexpr int grad_p_bytes = 128;  // Sobel x and y of 16 channels
};

__extension__ typedef unsigned __int128 FourWords;
// A row of cells, cell x at bit x.
template <int words>
using RowBits = std::conditional_t<words == 2, std::uint64_t, FourWords>;

template <class Bits>
__device__ inline std::uint32_t word_of(Bits bits, int i) {
    return std::uint32_t(bits >> (32 * i));
}
__device__ inline int count_bits(std::uint64_t bits) { return __popcll(bits); }
__device__ inline int count_bits(FourWords bits) {
    return __popcll(std::uint64_t(bits)) + __popcll(std::uint64_t(bits >> 64));
}
template <class Bits>
__device__ inline Bits whole_row(int width) {
    return ~Bits{0} >> (int(sizeof(Bits)) * 8 - width);
}

template <class Bits, class Move>
__device__ inline Bits move_halves(Bits bits, Move move) {
    const std::uint64_t low = move(std::uint64_t(bits));
    if constexpr (sizeof(Bits) == sizeof low) {
        return low;
    } else {
        return low | Bits{move(std::uint64_t(bits >> 64))} << 64;
    }
}
template <class Bits>
__device__ inline Bits from_lane(Bits bits, int lane) {
    return move_halves(bits, [lane](auto half) { return __shfl_sync(whole_warp, half, lane); });
}
template <class Bits>
__device__ inline Bits from_lane_above(Bits bits) {
    return move_halves(bits, [](auto half) { return __shfl_up_sync(whole_warp, half, 1); });
}
template <class Bits>
__device__ inline Bits from_lane_below(Bits bits) {
    return move_halves(bits, [](auto half) { return __shfl_down_sync(whole_warp, half, 1); });
}

// As two values of 32 bits, which takes fewer instructions.
__device__ inline std::uint64_t opaque(std::uint64_t value) {
    return opaque(std::uint32_t(value)) | std::uint64_t(opaque(std::uint32_t(value >> 32))) << 32;
}

// All bits if the condition holds, else none; and a row of equal words.
__device__ inline std::uint32_t all_if(bool condition) { return condition ? ~0U : 0U; }
template <class Bits>
__device__ inline Bits row_of_words(std::uint32_t word) {
    const std::uint64_t half = std::uint64_t(word) << 32 | word;
    if constexpr (sizeof(Bits) == sizeof half) {
        return half;
    } else {
        return Bits{half} << 64 | half;
    }
}

// The left and right ends of rows.
template <class Bits>
class RowEdges {
public:
    __device__ RowEdges(int width, bool circular)
        : last(opaque(std::uint32_t(width - 1 - first_of_end))),
          cells(opaque(whole_row<std::uint64_t>(width - first_of_end))),
          beside(opaque(circular ? cells : 0)) {}

    // Whether any bit of the 3x3 around a cell is set. A lane has a row; the results of the first
    // and the last lane mean nothing.
    __device__ Bits around(Bits b) const {
        const Bits line = widened(b);
        return line | from_lane_above(line) | from_lane_below(line);
    }

private:
    static constexpr int first_of_end = int(sizeof(Bits)) * 8 - 64;

    // A row's cells and those to their left and right.
    __device__ Bits widened(Bits b) const {
        const Bits line = b | b << 1 | b >> 1;
        const auto end = std::uint64_t(line >> first_of_end) & cells;
        // The first cell at the last one's place, and the other way round.
        const std::uint64_t first_cell = std::uint64_t(b) << last;
        const auto last_cell = std::uint32_t(std::uint64_t(b >> first_of_end) >> last);
        if constexpr (first_of_end == 0) {
            return end | ((first_cell | last_cell) & beside);
        } else {
            return Bits{end | (first_cell & beside)} << first_of_end | std::uint64_t(line) |
                   (last_cell & beside);
        }
    }

    // Of a row's last 64 bits: the place of the last cell; which bits are cells; the same where
    // edges are circular, else none.
    std::uint32_t last;
    std::uint64_t cells, beside;
};

// A block's place.
struct Band {
    int sample;
    int rank;
    int bands;
    int first_row;
    int rows;
    int width;
    unsigned above, below;  // ranks of the neighbours, or no_band
    int row_bytes;
    int index;  // of [batch, bands]

    static constexpr unsigned no_band = ~0U;
    __device__ bool has_above() const { return above != no_band; }
    __device__ bool has_below() const { return below != no_band; }
};

__device__ inline Band band_of_block(const BandRollout& args) {
    Band band;
    band.bands = args.cut.bands;
    band.index = int(blockIdx.x);
    band.rank = int(cluster_rank());
    band.sample = band.index / band.bands;
    band.first_row = args.cut.first_row[band.rank];
    band.rows = args.cut.first_row[band.rank + 1] - band.first_row;
    band.width = args.grid.width;
    const bool first = band.rank == 0, last = band.rank == band.bands - 1;
    band.above = unsigned(first ? band.bands - 1 : band.rank - 1);
    band.below = unsigned(last ? 0 : band.rank + 1);
    if (!args.rule.circular && first) band.above = Band::no_band;
    if (!args.rule.circular && last) band.below = Band::no_band;
    band.row_bytes = band.width * BandTraits::cell_bytes;
    return band;
}

// A row that may lie beyond the sample's edge: then the one on the other side.
__device__ inline int wrapped_row(int row, int height) {
    return row < 0 ? row + height : row >= height ? row - height : row;
}

// Where row `row` of the sample lies in arrays [.., batch, height, words], at step `step`.
template <class Bits>
__device__ inline Bits& row_of(std::uint32_t* bits, const BandRollout& args, int step, int sample,
                               int row) {
    const BatchShape& grid = args.grid;
    return reinterpret_cast<Bits*>(
        bits)[(std::size_t(step) * grid.batch + sample) * grid.height + row];
}

// A cell to compute, in a list: how many bytes it lies behind the band's first, whether it is a
// row's first or last, and its row.
constexpr std::uint32_t first_of_row = 1U << 18, last_of_row = 1U << 19;
__device__ inline std::uint32_t listed_cell(int row, int x, int width) {
    return std::uint32_t((row * width + x) * BandTraits::cell_bytes) | (x == 0 ? first_of_row : 0) |
           (x == width - 1 ? last_of_row : 0) | std::uint32_t(row) << 24;
}
__device__ inline unsigned offset_of_listed(std::uint32_t listed) {
    return listed & (first_of_row - 1);
}
__device__ inline int row_of_listed(std::uint32_t listed) { return int(listed >> 24); }

template <class T>
__device__ inline T& at(unsigned address) {
    return at_shared_address<T>(address);
}

// Perception of four channels, times a scale.
struct Perception {
    float4 filters[filter_count];  // the cell, Sobel x, Sobel y
};

// Perception of a listed cell. Its piece of 16 bytes in shared memory lies at `middle`, those of
// its neighbours above and below at `up` and `down`; `zero` is a piece of zeros.
__device__ inline Perception perceive(std::uint32_t listed, unsigned up, unsigned middle,
                                      unsigned down, unsigned zero, const Band& band,
                                      const StepRule& rule, float scale) {
    constexpr unsigned cell = BandTraits::cell_bytes;
    const unsigned first = listed / first_of_row % 2, last = listed / last_of_row % 2;
    const unsigned row = unsigned(band.row_bytes);
    const unsigned left = first * row - cell, right = cell - last * row;
    unsigned up_left = up + left, up_right = up + right;
    unsigned middle_left = middle + left, middle_right = middle + right;
    unsigned down_left = down + left, down_right = down + right;
    if (!rule.circular) {
        if (first != 0) up_left = middle_left = down_left = zero;
        if (last != 0) up_right = middle_right = down_right = zero;
    }
    const float4 x0 = at<float4>(up_left), x1 = at<float4>(up), x2 = at<float4>(up_right);
    const float4 x3 = at<float4>(middle_left), x5 = at<float4>(middle_right);
    const float4 x6 = at<float4>(down_left), x7 = at<float4>(down), x8 = at<float4>(down_right);
    const float corner = sobel_corner(rule) * scale, side = 2 * corner;
    Perception result;
    result.filters[0] = scaled(at<float4>(middle), scale);
    result.filters[1] = scaled(sum_of(difference(x2, x0), difference(x8, x6)), corner);
    add_scaled(result.filters[1], side, difference(x5, x3));
    result.filters[2] = scaled(sum_of(difference(x6, x0), difference(x8, x2)), corner);
    add_scaled(result.filters[2], side, difference(x7, x1));
    return result;
}

// Writes p as operands to a row's address, the second part to part_bytes behind it.
template <int parts>
__device__ inline void store_perception(unsigned row, int part_bytes, int quad,
                                        const Perception& p) {
#pragma unroll
    for (int k = 0; k < filter_count; ++k) {
        std::uint32_t low[parts], high[parts];
        make_parts<parts>(low, p.filters[k].x, p.filters[k].y);
        make_parts<parts>(high, p.filters[k].z, p.filters[k].w);
#pragma unroll
        for (int part = 0; part < parts; ++part) {
            at<uint2>(row + part * part_bytes + k * 32 + quad * 8) =
                make_uint2(low[part], high[part]);
        }
    }
}

// Calls work(std::integral_constant parts, std::integral_constant words) for a rollout.
template <class Work>
auto with_band_kernel(Precision precision, int width, Work work) {
    const auto with_words = [&](auto parts) {
        if (band_words(width) == 2) return work(parts, std::integral_constant<int, 2>{});
        return work(parts, std::integral_constant<int, 4>{});
    };
    if (precision == Precision::fast) return with_words(std::integral_constant<int, 1>{});
    return with_words(std::integral_constant<int, 2>{});
}

}  // namespace nca::cuda
