// SPDX-License-Identifier: MIT
#pragma once

#include <nca/rule.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>

namespace nca::cpu {

// One bit for each cell of a grid. A row has whole 64-bit words: column x is bit x % 64 of word
// x / 64, and the bits after the last column are zero. Does not own its memory.
struct BitGrid {
    std::uint64_t* bits;  // [height, words]
    int height;
    int width;

    static int words_for(int width) { return (width + 63) / 64; }
    int words() const { return words_for(width); }
    std::uint64_t& word(int y, int w) const { return bits[std::ptrdiff_t(y) * words() + w]; }

    // The bits of word w that are columns of the grid.
    std::uint64_t valid(int w) const {
        const int rest = width - w * 64;
        return rest >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << rest) - 1;
    }

    // Word w of row y of the grid in which a bit is set where any bit of its 3x3 neighbourhood is
    // set here.
    std::uint64_t dilated(int y, int w, Edges edges) const {
        const int last = words() - 1;
        const int last_bit = (width - 1) % 64;
        const std::uint64_t middle = three_rows(y, w, edges);
        std::uint64_t from_left = 0;
        std::uint64_t from_right = 0;
        if (w > 0) {
            from_left = three_rows(y, w - 1, edges) >> 63;
        } else if (edges == Edges::circular) {
            from_left = three_rows(y, last, edges) >> last_bit & 1;
        }
        if (w < last) {
            from_right = three_rows(y, w + 1, edges) << 63;
        } else if (edges == Edges::circular) {
            from_right = (three_rows(y, 0, edges) & 1) << last_bit;
        }
        return (middle | middle << 1 | middle >> 1 | from_left | from_right) & valid(w);
    }

private:
    // Word w of rows y - 1, y and y + 1, joined by or.
    std::uint64_t three_rows(int y, int w, Edges edges) const {
        std::uint64_t joined = word(y, w);
        if (y > 0) {
            joined |= word(y - 1, w);
        } else if (edges == Edges::circular) {
            joined |= word(height - 1, w);
        }
        if (y < height - 1) {
            joined |= word(y + 1, w);
        } else if (edges == Edges::circular) {
            joined |= word(0, w);
        }
        return joined;
    }
};

// Calls visit(bit index) for each set bit, lowest first.
template <class Visit>
void for_each_bit(std::uint64_t word, Visit visit) {
    for (; word != 0; word &= word - 1) visit(std::countr_zero(word));
}

}  // namespace nca::cpu
