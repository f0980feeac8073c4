// SPDX-License-Identifier: MIT
#pragma once

#include "cuda/device/device.cuh"
#include "cuda/rule/model.hpp"

namespace nca::cuda {

// How many tiles cover a grid.
NCA_HOST_DEVICE constexpr int tiles_down(const BatchShape& grid) {
    return (grid.height + Traits::tile_height - 1) / Traits::tile_height;
}
NCA_HOST_DEVICE constexpr int tiles_across(const BatchShape& grid) {
    return (grid.width + Traits::tile_width - 1) / Traits::tile_width;
}
// More than 2^31 would be 16 TiB of states.
NCA_HOST_DEVICE constexpr int tile_count(const BatchShape& grid) {
    return grid.batch * tiles_down(grid) * tiles_across(grid);
}

// Where a tile lies. Tiles are numbered sample by sample, row by row; those at the lower and right
// edge may reach beyond the grid.
struct Tile {
    int sample;
    int top;
    int left;
};

__device__ inline Tile tile_at(const BatchShape& grid, int index) {
    const int across = tiles_across(grid);
    const int per_sample = tiles_down(grid) * across;
    const int within = index % per_sample;
    return {index / per_sample, within / across * Traits::tile_height,
            within % across * Traits::tile_width};
}

// The index of the first cell of a tile's sample, in [cells].
__device__ inline std::size_t first_cell(const BatchShape& grid, const Tile& tile) {
    return std::size_t(tile.sample) * grid.height * grid.width;
}

__device__ inline int wrapped(int i, int size) {
    i %= size;
    return i < 0 ? i + size : i;
}

// The cell at (y, x), which may lie outside the grid: there it is a cell on the opposite side, or
// -1 beyond a zero edge. An index within the sample.
__device__ inline int cell_at(const BatchShape& grid, bool circular, int y, int x) {
    const bool inside = y >= 0 && y < grid.height && x >= 0 && x < grid.width;
    if (!inside) {
        if (!circular) return -1;
        y = wrapped(y, grid.height);
        x = wrapped(x, grid.width);
    }
    return y * grid.width + x;
}

// Places in a tile. Own cells are numbered row by row, and so are those of the tile with its halo.
__device__ inline int own_y(int own) { return own / Traits::tile_width; }
__device__ inline int own_x(int own) { return own % Traits::tile_width; }
__device__ inline int halo_of_own(int own) {
    return (own_y(own) + 1) * Traits::halo_width + own_x(own) + 1;
}

// The index within the sample of an own cell; -1 where the tile reaches beyond the grid.
__device__ inline int own_cell(const BatchShape& grid, const Tile& tile, int own) {
    const int y = tile.top + own_y(own), x = tile.left + own_x(own);
    return y < grid.height && x < grid.width ? y * grid.width + x : -1;
}
__device__ inline int halo_cell(const BatchShape& grid, bool circular, const Tile& tile, int halo) {
    return cell_at(grid, circular, tile.top + halo / Traits::halo_width - 1,
                   tile.left + halo % Traits::halo_width - 1);
}

// Whether a flag is set anywhere in the 3x3 around a place of an array of that width.
__device__ inline bool any_around(const std::uint8_t* flags, int place, int width) {
    int any = 0;
#pragma unroll
    for (int dy = -1; dy <= 1; ++dy) {
#pragma unroll
        for (int dx = -1; dx <= 1; ++dx) any |= flags[place + dy * width + dx];
    }
    return any != 0;
}

// Copies the states of a tile and its halo to shared memory, [halo_cells, channels], zero beyond a
// zero edge. They are there after wait_for_copies and a barrier. All threads of the block take
// part.
__device__ inline void load_halo_states(float* shared, const float* state, const BatchShape& grid,
                                        bool circular, const Tile& tile, int thread) {
    const float* sample = state + first_cell(grid, tile) * Traits::channels;
    for (int i = thread; i < Traits::halo_cells * Traits::quads; i += Traits::threads) {
        const int cell = halo_cell(grid, circular, tile, i / Traits::quads);
        float* to = shared + i * 4;
        if (cell < 0) {
            store4(to, zero4());
        } else {
            copy_async(to, sample + std::size_t(cell) * Traits::channels + i % Traits::quads * 4);
        }
    }
}

}  // namespace nca::cuda
