// SPDX-License-Identifier: MIT
#include "host/cpu/step.hpp"

#include <algorithm>
#include <cstring>

namespace nca::cpu {

RolloutConstants::RolloutConstants(const Rule& rule, const PackedWeights& packed,
                                   const FireKey& key)
    : weights(packed),
      stencil{rule.filters, rule.edges},
      fire(key, rule.fire_rate),
      edges(rule.edges),
      needs_living_before(rule.life == Life::pre_and_post),
      step_size(rule.step_size) {
    // By the code that computes every other row, so that an empty cell gets the same bits as it
    // would get as a row.
    alignas(64) const float p[row_tile * perception] = {};
    alignas(64) float h[row_tile * hidden];
    alignas(64) float u0[row_tile * channels];
    mlp_forward(u0, h, weights, p, row_tile);
    for (int c = 0; c < channels; ++c) empty_step[c] = step_size * u0[c];
    empty_step_lives = empty_step[alpha_channel] > living_threshold;
}

ForwardWork::ForwardWork(int height, int width) {
    const std::ptrdiff_t words = std::ptrdiff_t(height) * BitGrid::words_for(width);
    bits_.resize(4 * words);
    const auto grid = [&](int i) { return BitGrid{bits_.data() + i * words, height, width}; };
    alpha_before = grid(0);
    alpha_after = grid(1);
    living_before = grid(2);
    written = grid(3);
}

void scan_state(const Slot& slot, ForwardWork& work, int top, int bottom) {
    const float* cell = slot.state + std::ptrdiff_t(top) * slot.may_live.width * channels;
    for (int y = top; y < bottom; ++y) {
        for (int w = 0; w < slot.may_live.words(); ++w) {
            std::uint64_t nonzero = 0;
            std::uint64_t alpha = 0;
            const int count = std::min(64, slot.may_live.width - w * 64);
            for (int i = 0; i < count; ++i, cell += channels) {
                // NaN counts as nonzero.
                const bool any = std::any_of(cell, cell + channels, [](float v) { return v != 0; });
                nonzero |= std::uint64_t(any) << i;
                alpha |= std::uint64_t(cell[alpha_channel] > living_threshold) << i;
            }
            slot.may_live.word(y, w) = nonzero;
            work.alpha_before.word(y, w) = alpha;
        }
    }
}

namespace {

// For one cell. memcpy and memset of a constant size are inlined; copy_n and fill_n would call the
// library.
void copy(float* to, const float* from) { std::memcpy(to, from, channels * sizeof(float)); }
void clear(float* cell) { std::memset(cell, 0, channels * sizeof(float)); }

// Perception, MLP and update of the gathered rows; sets their bits in alpha_after.
void update_rows(const Slot& next, const Slot& now, ForwardWork& work, Scratch& scratch,
                 const RolloutConstants& rollout, const Place* cells, int count) {
    if (count == 0) return;
    const auto [bits, height, width] = now.may_live;
    perceive(scratch.p, rollout.stencil, now.state, height, width, cells, count);
    const int rows = padded_rows(count);
    std::fill(scratch.p + count * perception, scratch.p + rows * perception, 0.0F);
    mlp_forward(scratch.u, scratch.h, rollout.weights, scratch.p, rows);
    apply_update(next.state, now.state, scratch.u, rollout.step_size, width, cells, count);
    for (int r = 0; r < count; ++r) {
        const auto [y, x] = cells[r];
        const bool alpha = cell_at(next.state, width, y, x)[alpha_channel] > living_threshold;
        work.alpha_after.word(y, x / 64) |= std::uint64_t(alpha) << x % 64;
    }
}

}  // namespace

void update_band(const Slot& next, const Slot& now, ForwardWork& work, Scratch& scratch,
                 const RolloutConstants& rollout, int step, int sample, int top, int bottom) {
    const int width = now.may_live.width;
    Place cells[chunk_rows];
    int count = 0;
    for (int y = top; y < bottom; ++y) {
        for (int w = 0; w < now.may_live.words(); ++w) {
            // near: the cells that are not empty. Where an empty cell fires it becomes empty_step,
            // the same for all. mask_band writes these cells; here only their alpha matters, and
            // only if it is above the threshold.
            const std::uint64_t near = now.may_live.dilated(y, w, rollout.edges);
            const std::uint64_t wanted = rollout.empty_step_lives ? now.may_live.valid(w) : near;
            const std::uint64_t fired = rollout.fired(step, sample, now.may_live, y, w, wanted);
            const std::uint64_t active = fired & near;
            const std::uint64_t kept = now.may_live.word(y, w) & ~active;
            const std::uint64_t stale = next.may_live.word(y, w) & ~(active | kept);

            work.written.word(y, w) = active | kept;
            work.alpha_after.word(y, w) = (work.alpha_before.word(y, w) & ~active) |
                                          (rollout.empty_step_lives ? fired & ~near : 0);
            if (rollout.needs_living_before) {
                work.living_before.word(y, w) = work.alpha_before.dilated(y, w, rollout.edges);
            }
            // The memory of the next state was last used an iteration ago and is in no cache:
            // prefetch the row below.
            if (y + 1 < bottom) {
                for_each_bit(near, [&](int i) {
                    __builtin_prefetch(cell_at(next.state, width, y + 1, w * 64 + i), 1);
                });
            }
            for_each_bit(stale, [&](int i) { clear(cell_at(next.state, width, y, w * 64 + i)); });
            for_each_bit(kept, [&](int i) {
                copy(cell_at(next.state, width, y, w * 64 + i),
                     cell_at(now.state, width, y, w * 64 + i));
            });
            for_each_bit(active, [&](int i) {
                cells[count++] = {y, w * 64 + i};
                if (count == chunk_rows) {
                    update_rows(next, now, work, scratch, rollout, cells, count);
                    count = 0;
                }
            });
        }
    }
    update_rows(next, now, work, scratch, rollout, cells, count);
}

void mask_band(const Slot& next, const Slot& now, ForwardWork& work,
               const RolloutConstants& rollout, int step, int sample, int top, int bottom) {
    const int width = now.may_live.width;
    for (int y = top; y < bottom; ++y) {
        for (int w = 0; w < now.may_live.words(); ++w) {
            std::uint64_t life = work.alpha_after.dilated(y, w, rollout.edges);
            if (rollout.needs_living_before) life &= work.living_before.word(y, w);
            for_each_bit(work.written.word(y, w) & ~life,
                         [&](int i) { clear(cell_at(next.state, width, y, w * 64 + i)); });
            // Empty cells that live; update_band did not write those that fired.
            const std::uint64_t empty = life & ~now.may_live.dilated(y, w, rollout.edges);
            const std::uint64_t fired = rollout.fired(step, sample, now.may_live, y, w, empty);
            for_each_bit(fired, [&](int i) {
                copy(cell_at(next.state, width, y, w * 64 + i), rollout.empty_step);
            });
            next.may_live.word(y, w) = life;
            work.alpha_before.word(y, w) = work.alpha_after.word(y, w) & life;
        }
    }
}

}  // namespace nca::cpu
