// SPDX-License-Identifier: MIT
#pragma once

#include <nca/sizes.hpp>

// A function that kernels and the host call. Only nvcc knows the two words.
#ifdef __CUDACC__
#define NCA_HOST_DEVICE __host__ __device__
#else
#define NCA_HOST_DEVICE
#endif

namespace nca::cuda {

// The sizes that all kernels share, and the only place where they are written.
struct Traits {
    static constexpr int channels = nca::channels;      // 16
    static constexpr int hidden = nca::hidden;          // 128
    static constexpr int perception = nca::perception;  // 48
    static constexpr int quads = channels / 4;          // 16-byte pieces of a cell

    // A block owns a tile of cells. 16 x 8 cuts both presets' patterns into 15 tiles a sample, 120
    // for a batch of 8, one wave on the 132 multiprocessors of an H100 or H200; and a tile in which
    // half of the cells fire has 64 rows, 8 for each warp.
    static constexpr int tile_height = 16;
    static constexpr int tile_width = 8;
    static constexpr int tile_cells = tile_height * tile_width;
    static constexpr int threads = 256;
    static constexpr int warp_size = 32;
    static constexpr int warps = threads / warp_size;

    // The tile with one cell more on each side, and with two.
    static constexpr int halo_width = tile_width + 2;
    static constexpr int halo_cells = (tile_height + 2) * halo_width;
    static constexpr int wide_width = tile_width + 4;
    static constexpr int wide_cells = (tile_height + 4) * wide_width;

    // Rows of the MLP lie in shared memory with these distances, in floats. 52 mod 32 = 20 and
    // 132 mod 32 = 4: eight neighbouring rows start in eight different groups of four banks.
    static constexpr int p_pitch = perception + 4;
    static constexpr int grad_u_pitch = channels + 4;
    static constexpr int hidden_pitch = hidden + 4;

    static constexpr int forward_rows = 8;    // that a warp computes at a time going forward
    static constexpr int backward_rows = 32;  // that a block computes at a time going back

    // Sums of weight gradients are kept per block, and a large grid has its tiles shared out among
    // so many: the same number on every GPU, so that the order of the sums is the same.
    static constexpr int most_backward_blocks = 512;

    // What a block may have on the smallest GPU that is supported, compute capability 7.5.
    static constexpr int shared_bytes = 64 * 1024;
    // The same on the smallest GPU whose tensor cores are used, compute capability 8.6.
    static constexpr int tensor_shared_bytes = 99 * 1024;

    static_assert(threads >= wide_cells, "one thread for each cell that a tile looks at");
    static_assert(tile_cells % warp_size == 0 && tile_cells <= 255, "a tile's cells fit a byte");
    static_assert(hidden == 16 * warps, "going back, a warp owns 16 hidden units");
    static_assert(channels == 16 && perception == 3 * channels);
};

}  // namespace nca::cuda
