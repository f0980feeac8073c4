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
      needs_life_before(rule.life == Life::pre_and_post),
      step_size(rule.step_size) {
    // The same tiles that compute every other row, so that skipping changes no bit.
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
    life_before = grid(2);
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
                // Not a number is other than zero too.
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

float* cell_at(float* grid, int width, int y, int x) {
    return grid + (std::ptrdiff_t(y) * width + x) * channels;
}

// One cell, of a size that the compiler knows: copy_n and fill_n would call the library.
void copy(float* to, const float* from) { std::memcpy(to, from, channels * sizeof(float)); }
void clear(float* cell) { std::memset(cell, 0, channels * sizeof(float)); }

// The gathered rows through perception, MLP and update, and the alpha bits of their results.
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
            // A fired cell among zeros moves by a constant, and no alpha that is not above the
            // threshold keeps anything alive: where that constant does not live by itself, only
            // the neighbours of cells that may live matter here.
            const std::uint64_t near = now.may_live.dilated(y, w, rollout.edges);
            const std::uint64_t wanted = rollout.empty_step_lives ? now.may_live.valid(w) : near;
            const std::uint64_t fired = rollout.fire.word(
                step, sample, std::uint32_t(y) * std::uint32_t(width) + std::uint32_t(w) * 64,
                wanted);
            const std::uint64_t active = fired & near;
            const std::uint64_t kept = now.may_live.word(y, w) & ~active;
            const std::uint64_t stale = next.may_live.word(y, w) & ~(active | kept);

            work.written.word(y, w) = active | kept;
            work.alpha_after.word(y, w) = (work.alpha_before.word(y, w) & ~active) |
                                          (rollout.empty_step_lives ? fired & ~near : 0);
            if (rollout.needs_life_before) {
                work.life_before.word(y, w) = work.alpha_before.dilated(y, w, rollout.edges);
            }
            // The tape's next state was last touched an iteration ago: ask early for the row below.
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
            if (rollout.needs_life_before) life &= work.life_before.word(y, w);
            for_each_bit(work.written.word(y, w) & ~life,
                         [&](int i) { clear(cell_at(next.state, width, y, w * 64 + i)); });
            // Living cells that fired among zeros; the first phase left them out.
            const std::uint64_t empty = life & ~now.may_live.dilated(y, w, rollout.edges);
            const std::uint64_t born = rollout.fire.word(
                step, sample, std::uint32_t(y) * std::uint32_t(width) + std::uint32_t(w) * 64,
                empty);
            for_each_bit(born, [&](int i) {
                copy(cell_at(next.state, width, y, w * 64 + i), rollout.empty_step);
            });
            next.may_live.word(y, w) = life;
            work.alpha_before.word(y, w) = work.alpha_after.word(y, w) & life;
        }
    }
}

}  // namespace nca::cpu
