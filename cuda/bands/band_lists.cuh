// SPDX-License-Identifier: MIT
#pragma once

// Lists of the cells of a band and step that the way back computes: those that fire and live after
// the step, in their order. A list has a window of them, as many as there is room for at a time.

#include "cuda/bands/band.cuh"

namespace nca::cuda {

struct BandListHeader {
    int count;  // of all windows
    // The sample's columns that have gradients; neighbours send each other these.
    int first_column;
    int columns;              // at least one
    std::uint32_t magnitude;  // of the step's a
};

// A row of the band. Listed cells as bits: bit x + 1 is that of cell x, bits 0 and width + 1 are
// those of the cells beside the row. The last word has two bits of them and, higher up, the places
// in the list of the row's first and last.
template <int words>
struct alignas(16) BandListRow {
    std::uint32_t listed[words];
    std::uint32_t last_word;
    std::uint32_t life_before[words];

    static constexpr int first_shift = 8, last_shift = 16;
};

template <int parts, int words>
struct BandList {
    // Rows of operands in a block's shared memory; a multiple of 16.
    static constexpr int rows = parts == 2 && words == 4 ? 64 : 96;

    alignas(16) BandListHeader header;
    std::uint32_t cells[rows];        // listed_cell
    BandListRow<words> band_rows[1];  // as many as the band has, and one that is not used

    static std::size_t bytes(int band_rows) {
        return sizeof(BandList) + band_rows * sizeof(BandListRow<words>);
    }
};

// Those set bits whose place in the whole list lies in a window: `count` of them from `from` on.
// place: the first bit's.
template <class Bits>
__device__ inline Bits in_window(Bits bits, int place, int from, int count) {
    const int set = count_bits(bits);
    if (place >= from && place + set <= from + count) return bits;
    Bits result = 0;
    for (int i = place; bits != 0; ++i) {
        const Bits lowest = bits & (~bits + 1);
        if (i >= from && i < from + count) result |= lowest;
        bits ^= lowest;
    }
    return result;
}

// Writes rows and cells of a window by a warp, a row of the band a lane. listed and life_before
// are the lane's. Returns how many are listed in all.
template <int parts, int words>
__device__ inline int write_window(BandList<parts, words>& list, const Band& band, bool circular,
                                   RowBits<words> listed, RowBits<words> life_before, int from,
                                   int lane) {
    using Bits = RowBits<words>;
    constexpr int most = BandList<parts, words>::rows;
    const auto all = std::uint32_t(count_bits(listed));
    std::uint32_t until = all;  // this row's last, inclusive
#pragma unroll
    for (int distance = 1; distance < Traits::warp_size; distance *= 2) {
        const std::uint32_t above = __shfl_up_sync(whole_warp, until, distance);
        if (lane >= distance) until += above;
    }
    const auto place = int(until - all);
    const Bits here = in_window(listed, place, from, most);
    const int first = place > from ? place - from : 0;  // in the window, if here is not empty
    const int count = count_bits(here);
    if (lane < band.rows) {
        const int width = band.width;
        const bool left = circular && (here >> (width - 1) & 1) != 0;  // beside the first cell
        const bool right = circular && (here & 1) != 0;
        BandListRow<words>& row = list.band_rows[lane];
        const Bits shifted = here << 1 | Bits{left};
        // Bits width and width + 1, which may not fit.
        std::uint32_t beyond = std::uint32_t(here >> (words * 32 - 1));
        const Bits beside = Bits{right};
        const int place_beside = width + 1;
        Bits low = shifted;
        if (place_beside < words * 32) {
            low |= beside << place_beside;
        } else {
            beyond |= std::uint32_t(right) << (place_beside - words * 32);
        }
#pragma unroll
        for (int word = 0; word < words; ++word) {
            row.listed[word] = word_of(low, word);
            row.life_before[word] = word_of(life_before, word);
        }
        const int last = count > 0 ? first + count - 1 : 0;
        row.last_word = beyond | std::uint32_t(first) << BandListRow<words>::first_shift |
                        std::uint32_t(last) << BandListRow<words>::last_shift;
    }
#pragma unroll 1
    for (int row = 0; row < band.rows; ++row) {
        const Bits of_row = from_lane(here, row);
        int to = __shfl_sync(whole_warp, first, row);
#pragma unroll
        for (int word = 0; word < words; ++word) {
            const std::uint32_t bits = word_of(of_row, word);
            if (bits >> lane & 1U) {
                list.cells[to + __popc(bits & ((1U << lane) - 1))] =
                    listed_cell(row, word * 32 + lane, band.width);
            }
            to += __popc(bits);
        }
    }
    return int(__shfl_sync(whole_warp, until, Traits::warp_size - 1));
}

// Which cells of a row of the sample are listed.
template <class Bits>
__device__ inline Bits listed_in_row(const BandRollout& args, int step, int sample, int row) {
    return row_of<Bits>(args.life, args, step + 1, sample, row) &
           row_of<Bits>(args.fire, args, step, sample, row);
}

// life_before of a row of the sample; the first state is not masked.
template <class Bits>
__device__ inline Bits life_before(const BandRollout& args, int step, int sample, int row) {
    if (step == 0) return whole_row<Bits>(args.grid.width);
    return row_of<Bits>(args.life, args, step, sample, row);
}

}  // namespace nca::cuda
