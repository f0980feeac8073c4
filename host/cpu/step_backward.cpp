// SPDX-License-Identifier: MIT
#include "host/cpu/step.hpp"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace nca::cpu {

BackwardWork::BackwardWork(int height, int width)
    : grad_p(nullptr, &std::free),
      row_begin(height),
      row_end(height),
      bands_{height},
      width_(width) {
    const std::ptrdiff_t words = std::ptrdiff_t(height) * BitGrid::words_for(width);
    bits_.resize(2 * words);
    may_be_nonzero = {bits_.data(), height, width};
    row_cells = {bits_.data() + words, height, width};
    // Room for every cell. Memory pages of rows that do not exist are never touched, and so cost
    // nothing.
    const std::size_t rows = row_start(bands_.count());
    cells = std::make_unique_for_overwrite<Place[]>(rows);
    const std::size_t bytes = (rows * perception * sizeof(float) + 63) / 64 * 64;
    grad_p.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    if (!grad_p) throw std::bad_alloc();
}

std::ptrdiff_t BackwardWork::row_start(int band) const {
    return std::ptrdiff_t(bands_.top(band)) * width_ + std::ptrdiff_t(band) * 2 * row_tile;
}

void backward_rows(float* grad_state, PackedGradients& gradients, BackwardWork& work,
                   Scratch& scratch, const RolloutConstants& rollout, const Slot& now,
                   const Slot& next, int step, int sample, int band) {
    const int height = now.may_live.height;
    const int width = now.may_live.width;
    const Bands bands{height};
    Place* cells = work.cells.get() + work.row_start(band);
    float* grad_p = work.grad_p.get() + work.row_start(band) * perception;
    alignas(64) float shared_grad_u[channels] = {};
    bool any_shared = false;
    int count = 0;
    for (int y = bands.top(band); y < bands.bottom(band); ++y) {
        work.row_begin[y] = count;
        for (int w = 0; w < next.may_live.words(); ++w) {
            const std::uint64_t life = next.may_live.word(y, w);
            for_each_bit(work.may_be_nonzero.word(y, w) & ~life, [&](int i) {
                std::fill_n(cell_at(grad_state, width, y, w * 64 + i), channels, 0.0F);
            });
            const std::uint64_t fired = rollout.fired(step, sample, now.may_live, y, w, life);
            // Empty cells all have p = 0, so their rows differ only in grad_u. Their grad_p goes to
            // cells that are zero before this step, where the life mask of the step before clears
            // it. So the shared row, with the sum of their grad_u, stands for all of them. Before
            // step 0 there is no life mask, so there every cell has its own row.
            const std::uint64_t near = step == 0 ? life : now.may_live.dilated(y, w, rollout.edges);
            for_each_bit(fired & near, [&](int i) { cells[count++] = {y, w * 64 + i}; });
            for_each_bit(fired & ~near, [&](int i) {
                const float* grad = cell_at(grad_state, width, y, w * 64 + i);
                for (int c = 0; c < channels; ++c) shared_grad_u[c] += rollout.step_size * grad[c];
                any_shared = true;
            });
            work.row_cells.word(y, w) = fired & near;
        }
        work.row_end[y] = count;
    }

    const int total = count + int(any_shared);
    for (int first = 0; first < total; first += chunk_rows) {
        const int here = std::min(chunk_rows, count - first);  // without the shared row
        perceive(scratch.p, rollout.stencil, now.state, height, width, cells + first, here);
        gather_gradient(scratch.u, grad_state, rollout.step_size, width, cells + first, here);
        const int rows = padded_rows(std::min(chunk_rows, total - first));
        std::fill(scratch.p + here * perception, scratch.p + rows * perception, 0.0F);
        std::fill(scratch.u + here * channels, scratch.u + rows * channels, 0.0F);
        if (any_shared && here < chunk_rows) {
            std::copy_n(shared_grad_u, channels, scratch.u + here * channels);
        }
        mlp_backward(grad_p + std::ptrdiff_t(first) * perception, gradients, scratch.h,
                     scratch.grad_h, rollout.weights, scratch.p, scratch.u, rows);
    }
}

void backward_stencil(float* grad_state, BackwardWork& work, const RolloutConstants& rollout,
                      const Slot& next, int band) {
    const int height = next.may_live.height;
    const int width = next.may_live.width;
    const Bands bands{height};
    const int top = bands.top(band);
    const int bottom = bands.bottom(band);
    const auto add_rows = [&](int source_band, int first_y, int last_y) {
        const int begin = work.row_begin[first_y];
        const std::ptrdiff_t start = work.row_start(source_band) + begin;
        perceive_adjoint(grad_state, rollout.stencil, work.grad_p.get() + start * perception,
                         height, width, top, bottom, work.cells.get() + start,
                         work.row_end[last_y] - begin);
    };
    // The cells just above and below the band have neighbours in it, so their rows are added too.
    // Where the band is the whole grid there are no others; perceive_adjoint goes around the edge.
    const int last_band = bands.count() - 1;
    const bool around = rollout.edges == Edges::circular && last_band > 0;
    if (band > 0 || around) {
        const int above = band > 0 ? band - 1 : last_band;
        add_rows(above, bands.bottom(above) - 1, bands.bottom(above) - 1);
    }
    add_rows(band, top, bottom - 1);
    if (band < last_band || around) {
        const int below = band < last_band ? band + 1 : 0;
        add_rows(below, bands.top(below), bands.top(below));
    }
    for (int y = top; y < bottom; ++y) {
        for (int w = 0; w < next.may_live.words(); ++w) {
            work.may_be_nonzero.word(y, w) =
                next.may_live.word(y, w) | work.row_cells.dilated(y, w, rollout.edges);
        }
    }
}

}  // namespace nca::cpu
