// SPDX-License-Identifier: MIT
// A step forward of any grid on tensor cores: step_forward.cu's formula and buffers. Every warp
// goes down a strip of 28 columns by itself, row by row, and waits for nobody.
//
// With two more columns on each side a strip has 32: which cells of a row live, fire or have an
// alpha above the threshold is a word of bits, made by a ballot. Rows are copied to shared memory
// ahead of their use. When its life mask is known, a row is read once: masked, it is stored for the
// MLP, as fp16 for `fast` and as float32 for `precise`, and its passive cells go to the next state.
// The active cells wait in a queue until there are 32, or until their rows are about to be
// overwritten. Four lanes have a cell, four channels each. They perceive in the registers that they
// multiply: lane 4 g + t has channels 4 t to 4 t + 3 of a filter in A and B, and of u in the two C.
//
// Scales. `precise` takes cells as they are, `fast` takes 1/8 of them, so that a Sobel filter's sum
// is at most the largest cell. All other factors are in the weights; they suit states of at most
// 65504, for `precise` below 64. `precise` sorts cells of 64 and more, and their neighbours, by
// levels, and computes each level by itself, scaled by 2^-8 for each level, which is enough up to
// 2^126. What is lost below is 2^-22 of a cell, or 2^-25 of a perception. The state is added in
// float32, because tensor cores cut their sums.
//
// Per cell: 64 bytes read, times 8 / 7 for the strip's edges, 64 written. Results do not depend on
// which warp has a strip. Reference: host/reference/step.hpp. Tests: tests/stream_test.cpp.

#include <algorithm>
#include <climits>
#include <type_traits>

#include "cuda/device/launch.cuh"
#include "cuda/rule/grid.cuh"
#include "cuda/rule/operands.cuh"
#include "cuda/rule/philox.hpp"
#include "cuda/step/step_kernels.hpp"
#include "cuda/step/stream_plan.hpp"

namespace nca::cuda {
namespace {

struct StreamTraits {
    static constexpr int wide = 32;  // columns that a warp looks at
    // A row as it comes, in floats: four pieces of eight cells, and 16 bytes between them so that
    // alphas do not all lie in two banks.
    static constexpr int piece = 8 * Traits::channels + 4;
    static constexpr int row = 4 * piece;
    static constexpr int rows = 4;  // of them; a power of two
    static constexpr int masked_rows = 6;
    static constexpr int group = 32;  // cells computed at a time
    static constexpr int queue = 2 * group;
    static constexpr std::size_t most_shared_bytes = 227 * 1024;
};
constexpr unsigned looked_at = 0x7ffffffeU;  // columns whose neighbours the strip has
constexpr std::uint32_t two_pairs = 0x40004000U, eighth_pairs = 0x30003000U;  // 2 and 1/8, twice

// Four channels of a masked cell.
template <int parts>
using MaskedQuad = std::conditional_t<parts == 1, uint2, float4>;

// A cell that waits for the MLP.
struct QueuedCell {
    // Where its column begins in its masked row, in bytes; in the upper half the same in the row
    // above; dead: the state is not to be read.
    std::uint32_t places;
    std::uint32_t cell;  // of the sample

    static constexpr std::uint32_t dead = 1U << 31;
};

template <int parts>
struct StreamWarp {
    alignas(16) float rows[StreamTraits::rows * StreamTraits::row];
    alignas(16)
        MaskedQuad<parts> masked[StreamTraits::masked_rows * StreamTraits::wide * Traits::quads];
    alignas(16) QueuedCell queue[StreamTraits::queue];
};

template <int parts>
struct StreamShared {
    alignas(16) uint4 operands[parts][StreamWeights::blocks][4][32];
    alignas(16) float4 b1[StreamWeights::blocks][2][4];
    alignas(16) float4 b2[2][2][4];
    alignas(16) float u0[Traits::channels];
    float u_factor;
    FireKey key;
    std::uint32_t last_to_fire;  // the largest random number that lets a cell fire,
    std::uint32_t if_any_fire;   // unless none does: all bits or none
    StreamWarp<parts> warps[1];  // as many as the block has
};

// What all warps read. There after wait_for_copies and a barrier.
template <int parts>
__device__ void prepare(StreamShared<parts>& shared, const StepForwardArgs& args, int thread,
                        int threads) {
    const StreamWeights& weights = args.model->stream;
    const auto copy = [&](auto& to, const auto& from) {
        static_assert(sizeof to % 16 == 0 && sizeof to <= sizeof from);
        for (int i = thread; i < int(sizeof to / 16); i += threads) {
            copy_async(reinterpret_cast<float*>(&to) + i * 4,
                       reinterpret_cast<const float*>(&from) + i * 4);
        }
    };
    copy(shared.operands, weights.operands);
    copy(shared.b1, weights.b1);
    copy(shared.b2, weights.b2);
    copy(shared.u0, weights.u0);
    if (thread == 0) {
        shared.u_factor = weights.u_factor;
        shared.key = args.model->key;
        shared.last_to_fire = std::uint32_t(args.rule.fire_threshold - 1);
        shared.if_any_fire = args.rule.fire_threshold > 0 ? ~0U : 0U;
    }
}

// Any of a column and those beside it.
__device__ inline unsigned widened(unsigned bits) { return bits | bits << 1 | bits >> 1; }

// Elements below 64 are small, for `precise`; as bits.
constexpr std::uint32_t smallest_large = (127U + 6) << 23;
// The level of cells whose largest element is given as bits: 0 below 64, one more for each 2^8.
__device__ inline int level_of(std::uint32_t largest) {
    constexpr int small = smallest_large >> 23, most = 15;
    const int exponent = int(largest >> 23);
    const int level = (exponent - small + 8) >> 3;
    return exponent < small ? 0 : level < most ? level : most;
}

template <int parts>
class Strip {
public:
    using Warp = StreamWarp<parts>;
    using Quad = MaskedQuad<parts>;

    __device__ Strip(const StepForwardArgs& args_, const StreamShared<parts>& shared_, Warp& own_,
                     int lane_)
        : args(args_),
          shared(shared_),
          own(own_),
          lane(lane_),
          quad(lane_ % Traits::quads),
          cell_of_piece(lane_ / Traits::quads),
          lane_bit(opaque(1U << lane_)),
          lanes_before(opaque((1U << lane_) - 1)),
          masked(opaque_shared_address(&own_.masked[quad])),
          operands_of_lane(opaque_shared_address(&shared_.operands[0][0][0][lane_])),
          b1_of_lane(opaque_shared_address(&shared_.b1[0][0][quad])) {}

    // One segment of a strip.
    __device__ void run(const StreamPlan& plan, int item) {
        begin(plan, item);
#pragma unroll 1
        for (int y = top - 1; y <= bottom; ++y) {
            wait_for_older_copies();
            __syncwarp();  // the second row below is there, and nobody reads what is overwritten
            const Row row = look(y);
            take(row);
            ask_for(y + 4, slot);
            end_copy_group();
            queue_row_above(y, row);
        }
    }

private:
    static constexpr unsigned cell_bytes = Traits::quads * sizeof(Quad);
    static constexpr unsigned masked_row = StreamTraits::wide * cell_bytes;
    static constexpr unsigned last_masked_row = (StreamTraits::masked_rows - 1) * masked_row;
    static_assert(last_masked_row + masked_row <= 1U << 15, "a place takes 15 bits");

    // What is known of a row when it is read.
    struct Row {
        unsigned columns;  // own ones
        unsigned active;   // that go through the MLP
        unsigned empty;    // empty ones that fire
        unsigned life_below;
        unsigned alpha_second_below;
    };

    __device__ bool is_masked() const { return args.rule.pre_and_post && !args.first; }

    // The row or column in which the grid has one that may lie beyond it; -1 beyond a zero edge.
    __device__ int source(int i, int size) const {
        if (i >= 0 && i < size) return i;
        if (!args.rule.circular) return -1;
        i += i < 0 ? size : -size;
        return i >= 0 && i < size ? i : wrapped(i, size);
    }
    __device__ int source_column(int column) const {
        return source(left + column - 2, args.grid.width);
    }
    __device__ std::size_t floats_of(int cell) const {
        return std::size_t(cell) * Traits::channels;
    }

    __device__ void begin(const StreamPlan& plan, int item) {
        const BatchShape& grid = args.grid;
        const int strip = item % plan.strips, rest = item / plan.strips;
        const int segment = rest % plan.segments;
        sample = rest / plan.segments;
        left = strip * StreamPlan::width;
        top = segment * plan.rows;
        bottom = min(top + plan.rows, grid.height);
        own_columns = uniform(((1U << min(grid.width - left, StreamPlan::width)) - 1) << 2);
        const bool interior = left >= 2 && left + StreamTraits::wide - 2 <= grid.width;
        if_interior = uniform(interior ? ~0U : 0U);
        lane_column = source_column(lane);
        columns_inside = ballot(lane_column >= 0);
        const bool noted = args.life_out != nullptr || args.marks_out != nullptr;
        if_noted = uniform(noted ? ~0U : 0U);
        rows_inside = int(uniform(args.rule.circular ? INT_MAX : unsigned(grid.height)));
        cells_before = std::size_t(sample) * grid.height * grid.width;
        state = opaque(args.state + cells_before * Traits::channels + quad * 4);
        next = opaque(args.next + cells_before * Traits::channels + quad * 4);
        if (is_masked()) {
            living_before_in = opaque(args.living_before + cells_before + max(lane_column, 0));
        }
        if (args.rule.pre_and_post)
            living_before_out = opaque(args.living_before_out + cells_before + lane);

#pragma unroll 1
        for (int i = 0; i < 4; ++i) ask_for(top - 2 + i, unsigned(i));
        wait_for_copies();
        __syncwarp();  // the rows are there
        row_cell = (top - 1) * grid.width + left - 2;
        alpha_here = alphas(1);
        alpha_below = alphas(2);
        life_here = (top > 0 || args.rule.circular ? columns_inside : 0) &
                    ballot(living_before(top - 1) != 0) &
                    (args.first ? holding(1) : widened(alphas(0) | alpha_here | alpha_below)) &
                    looked_at;
        living_before_below = living_before(top);
        __syncwarp();  // everybody has looked at the first row
        ask_for(top + 2, 0);
        end_copy_group();

        life_above = both_above = active_above = columns = 0;
        slot = 1;
        place = last_masked_row;
        place_above = last_masked_row - masked_row;
        // What lies in the queue can always be read.
        own.queue[lane] = own.queue[lane + StreamTraits::group] = {
            cell_bytes | cell_bytes << 16 | QueuedCell::dead, 0};
        head = queued = 0;
        queued_above = queued_second_above = 0;
        largest_second_above = largest_above = 0;
        level = 0;
        fire_words_of_four = 0;
    }

    // The value, which is the same in all lanes; the compiler then knows that it is.
    __device__ static unsigned uniform(unsigned value) { return __shfl_sync(whole_warp, value, 0); }
    __device__ static unsigned ballot(bool condition) {
        return __ballot_sync(whole_warp, condition);
    }

    // Starts copies of a row to a slot.
    __device__ void ask_for(int y, unsigned to_slot) {
        if (y > bottom + 1) return;
        float* const to = own.rows + to_slot * StreamTraits::row + lane * 4;
        if (if_interior != 0 && unsigned(y) < unsigned(args.grid.height)) {
            const float* const from =
                state + floats_of(y * args.grid.width + left - 2 + cell_of_piece);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                copy_async(to + i * StreamTraits::piece, from + i * 8 * Traits::channels);
            }
            return;
        }
        const int row = source(y, args.grid.height);
#pragma unroll 1
        for (int i = 0; i < 4; ++i) {
            const int from = source_column(i * 8 + cell_of_piece);
            if (row < 0 || from < 0) {
                store4(to + i * StreamTraits::piece, zero4());
            } else {
                copy_async(to + i * StreamTraits::piece,
                           state + floats_of(row * args.grid.width + from));
            }
        }
    }

    // living_before of the lane's column of a row, as the step that made the state left it: not
    // zero where the cell is in it. Beyond the grid it is any number.
    __device__ unsigned living_before(int y) const {
        if (!is_masked()) return 1;
        if (unsigned(y) >= unsigned(args.grid.height)) {
            y = max(source(y, args.grid.height), 0);
        }
        return load_byte(living_before_in + std::ptrdiff_t(y) * args.grid.width);
    }

    // The lane's column in a slot.
    __device__ const float* cell_in(unsigned of_slot) const {
        return own.rows + of_slot * StreamTraits::row + lane / 8 * StreamTraits::piece +
               lane % 8 * Traits::channels;
    }
    __device__ unsigned alphas(unsigned of_slot) const {
        return ballot(cell_in(of_slot)[alpha_channel] > living_threshold);
    }
    __device__ unsigned holding(unsigned of_slot) const {
        bool any = false;
#pragma unroll
        for (int i = 0; i < Traits::quads; ++i) {
            const float4 four = load4(cell_in(of_slot) + i * 4);
            any |= four.x != 0 || four.y != 0 || four.z != 0 || four.w != 0;
        }
        return ballot(any);
    }

    // Which cells fire, in four rows: eight lanes have the word of a row, a bit for each column.
    __device__ unsigned draw(int y) const {
        const unsigned first = unsigned(y + lane / 8) * unsigned(args.grid.width) + unsigned(left);
        const unsigned of_row = unsigned(lane) % 8;
        const PhiloxBlock block =
            fire_words(shared.key, args.step, std::uint32_t(sample), first + 4 * of_row);
        unsigned word = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) word |= unsigned{block.words[i] <= shared.last_to_fire} << i;
        word <<= of_row * 4;
#pragma unroll
        for (int distance = 1; distance < 8; distance *= 2) {
            word |= __shfl_xor_sync(whole_warp, word, distance);
        }
        // It begins with the first cell that shares its random numbers with others.
        return word >> (first % 4) << 2 & shared.if_any_fire;
    }

    // Finds the life mask of the row below, and what becomes of the row's cells.
    __device__ Row look(int y) {
        Row row;
        const unsigned below = (slot + 1) % StreamTraits::rows;
        row.alpha_second_below = alphas((slot + 2) % StreamTraits::rows);
        row.life_below = (y + 1 < rows_inside ? columns_inside : 0) & looked_at &
                         (args.first ? holding(below)
                                     : widened(alpha_here | alpha_below | row.alpha_second_below));
        if (is_masked()) {
            row.life_below &= ballot(living_before_below != 0);
            living_before_below = living_before(y + 2);
        }
        row.columns = columns;
        const int of_four = (y - top) & 3;
        if (of_four == 0) fire_words_of_four = draw(y);
        const unsigned fires =
            __shfl_sync(whole_warp, fire_words_of_four, of_four * 8) & row.columns;
        row.active = fires & widened(life_above | life_here | row.life_below);
        row.empty = fires & ~row.active;
        return row;
    }

    // Reads the row: masked, it is stored for the MLP, and its passive cells go to the next state.
    __device__ void take(const Row& row) {
        float4 z[4];
        const float* const from = own.rows + slot * StreamTraits::row + lane * 4;
#pragma unroll
        for (int i = 0; i < 4; ++i) z[i] = load4(from + i * StreamTraits::piece);
        if (life_here != looked_at) {
            const unsigned lives = life_here >> cell_of_piece;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if ((lives >> (i * 8) & 1) == 0) z[i] = zero4();
            }
        }
        put(z);
        if (row.columns != 0) {
            const std::size_t at = floats_of(row_cell + cell_of_piece);
            if (args.state_out != nullptr) {
                const std::size_t tape = cells_before * Traits::channels + quad * 4 + at;
                store_cells(args.state_out + tape, z, row.columns);
            }
            if (row.empty != 0) {
                const float4 u0 = load4(shared.u0 + quad * 4);
                const unsigned empty = row.empty >> cell_of_piece;
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    if ((empty >> (i * 8) & 1) != 0) z[i] = u0;
                }
            }
            store_cells(next + at, z, row.columns & ~row.active);
        }
        note_life(row);
    }
    __device__ void put(const float4 (&z)[4]) {
        const unsigned to = masked + place + unsigned(cell_of_piece) * cell_bytes;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            Quad& quad_of_cell = at_shared_address<Quad>(to + i * 8 * cell_bytes);
            if constexpr (parts == 1) {
                quad_of_cell =
                    make_uint2(multiply_pairs(rounded_to_fp16(z[i].x, z[i].y), eighth_pairs),
                               multiply_pairs(rounded_to_fp16(z[i].z, z[i].w), eighth_pairs));
            } else {
                quad_of_cell = z[i];
            }
        }
        if constexpr (parts == 2) {
            const float largest = fmaxf(fmaxf(largest_element(z[0]), largest_element(z[1])),
                                        fmaxf(largest_element(z[2]), largest_element(z[3])));
            largest_here = largest_over_warp(__float_as_uint(largest));
        }
    }
    __device__ void store_cells(float* to, const float4 (&z)[4], unsigned cells) const {
        cells >>= cell_of_piece;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            store4_if(cells & 1U << (i * 8), to + i * 8 * Traits::channels, z[i]);
        }
    }

    // Writes the bytes of the row's own cells that are wanted.
    __device__ void note_life(const Row& row) {
        const unsigned both = life_here & alpha_here;
        const bool is_own = (row.columns & lane_bit) != 0;
        if (args.rule.pre_and_post && is_own) {
            const unsigned both_below = row.life_below & alpha_below;
            store_byte(living_before_out + row_cell,
                       widened(both_above | both | both_below) >> lane & 1);
        }
        both_above = both;
        if (if_noted != 0 && is_own) note_marks(row);
    }
    __device__ void note_marks(const Row& row) {
        const std::size_t cell = cells_before + std::size_t(row_cell + lane);
        if (args.life_out != nullptr) args.life_out[cell] = life_here >> lane & 1;
        if (args.marks_out == nullptr || (row.active >> lane & 1) != 0) return;
        const unsigned u0_above = shared.u0[alpha_channel] > living_threshold ? row.empty : 0;
        const unsigned is_above = ((both_above & ~row.empty) | u0_above) >> lane & 1;
        const unsigned holds = (life_here | row.empty) >> lane & 1;
        args.marks_out[cell] = std::uint8_t(is_above * mark_above | holds * mark_holds);
    }

    // Queues the active cells of the row above, whose neighbours are all there now. Computes what
    // is queued when it is enough, or when its rows are about to be overwritten.
    __device__ void queue_row_above(int y, const Row& row) {
        const int count = __popc(active_above);
        // Cells of the last three rows that were queued may stay.
        const int may_stay = y == bottom ? 0 : count + queued_above + queued_second_above;
        unsigned waiting = active_above;
        int level_of_cell = 0;
        bool has_levels = false;  // the row, or what is queued
        if constexpr (parts == 2) {
            const auto larger = [](std::uint32_t a, std::uint32_t b) { return a > b ? a : b; };
            const std::uint32_t largest =
                larger(larger(largest_second_above, largest_above), largest_here);
            has_levels = largest >= smallest_large || level > 0;
            if (has_levels) level_of_cell = level_of(largest_around());
        }
#pragma unroll 1
        while (true) {
            if (waiting != 0) {
                unsigned now = waiting;
                if (parts == 2 && has_levels) {
                    // All that is queued is of one level.
                    if (queued == 0) level = __shfl_sync(whole_warp, level_of_cell, __ffs(now) - 1);
                    now &= ballot(level_of_cell == level);
                    __syncwarp();  // nobody reads what was queued
                }
                push(now);
                waiting &= ~now;
            }
            __syncwarp();  // the row and the queue are there
            if (waiting == 0 && queued < StreamTraits::group && queued <= may_stay) break;
            const int here = min(queued, StreamTraits::group);
            if (parts == 2 && level > 0) {
                compute<2, true>(here);
            } else if (here > 16) {
                compute<2, false>(here);
            } else {
                compute<1, false>(here);
            }
            queued -= here;
            head = queued == 0 ? 0 : head ^ StreamTraits::group;
        }
        queued_second_above = queued_above;
        queued_above = count;

        life_above = life_here;
        life_here = row.life_below;
        alpha_here = alpha_below;
        alpha_below = row.alpha_second_below;
        active_above = row.active;
        slot = (slot + 1) % StreamTraits::rows;
        place_above = place;
        place = place == last_masked_row ? 0 : place + masked_row;
        row_cell += args.grid.width;
        columns = y + 1 < bottom ? own_columns : 0;  // of the next row
        largest_second_above = largest_above;
        largest_above = largest_here;
    }

    // Queues cells of the row above.
    __device__ void push(unsigned cells) {
        if ((cells & lane_bit) != 0) {
            const int before = __popc(cells & lanes_before);
            const unsigned of_column = unsigned(lane) * cell_bytes;
            const std::uint32_t dead = (life_above & lane_bit) != 0 ? 0 : QueuedCell::dead;
            own.queue[unsigned(head + queued + before) % StreamTraits::queue] = {
                (place_above + of_column) | (place_second_above() + of_column) << 16 | dead,
                std::uint32_t(row_cell - args.grid.width + lane)};
        }
        queued += __popc(cells);
    }
    __device__ unsigned place_second_above() const {
        return place_above == 0 ? last_masked_row : place_above - masked_row;
    }
    // The largest element of the 3x3 around the lane's cell of the row above, as bits.
    __device__ std::uint32_t largest_around() const {
        const unsigned column = unsigned(min(max(lane, 1), StreamTraits::wide - 2));
        __syncwarp();  // the row is there
        const unsigned cell = masked - unsigned(quad) * sizeof(Quad) + column * cell_bytes;
        float largest = 0;
#pragma unroll 1
        for (unsigned i = 0; i < 3 * Traits::quads; ++i) {
            const unsigned at =
                cell + i * sizeof(Quad) - cell_bytes;  // of three cells side by side
            for (const unsigned of_row : {place_second_above(), place_above, place}) {
                largest = fmaxf(largest, largest_element(at_shared_address<float4>(at + of_row)));
            }
        }
        return __float_as_uint(largest);
    }

    // A lane's part of the operands A: what some queued cells perceive.
    template <int groups>
    struct Operands {
        std::uint32_t p[groups][filter_count][parts][4];
    };

    // z' of so many queued cells, in groups of 16. What lies behind them in the queue is read, too.
    // shrinks: their level is not 0.
    template <int groups, bool shrinks>
    __device__ void compute(int count) {
        const QueuedCell* const cells = own.queue + head + lane / 4;
        const float shrink = shrinks ? power_of_two(-8 * level) : 1.0F;
        Operands<groups> operands;
        Accumulator u[groups][2];
        float4 x[groups][2];
#pragma unroll
        for (int g = 0; g < groups; ++g) {
#pragma unroll
            for (int lower = 0; lower < 2; ++lower) {
                const QueuedCell cell = cells[g * 16 + lower * 8];
                if constexpr (parts == 1) x[g][lower] = state_of(cell);
                perceive<shrinks>(operands.p[g], lower, cell.places, shrink);
            }
        }
        add_hidden<shrinks>(u, operands, shrink);
        if constexpr (!shrinks) {
            // A NaN makes all sums of its cell NaN.
            float any = 0;
#pragma unroll
            for (int g = 0; g < groups; ++g) any += u[g][0].sums[0] + u[g][0].sums[2];
            if (ballot(any != any) != 0) add_hidden<true>(u, operands, 1);
        }
        const float factor = shrinks ? shared.u_factor * power_of_two(8 * level) : shared.u_factor;
#pragma unroll
        for (int g = 0; g < groups; ++g) {
#pragma unroll
            for (int lower = 0; lower < 2; ++lower) {
                const QueuedCell cell = cells[g * 16 + lower * 8];
                float4 z = x[g][lower];
                if constexpr (parts == 2) z = at_shared_address<float4>(masked + place_of(cell));
                add_scaled(z, factor,
                           make_float4(u[g][0].sums[lower * 2], u[g][0].sums[lower * 2 + 1],
                                       u[g][1].sums[lower * 2], u[g][1].sums[lower * 2 + 1]));
                const bool is_there = g * 16 + lower * 8 + lane / 4 < count;
                store4_if(is_there, next + cell.cell * std::size_t{Traits::channels}, z);
                x[g][lower] = z;
            }
        }
        if (args.marks_out != nullptr) mark<groups>(x, count);
    }

    template <int groups>
    __device__ void mark(const float4 (&z)[groups][2], int count) const {
        if (quad != alpha_channel / 4) return;
#pragma unroll
        for (int i = 0; i < 2 * groups; ++i) {
            const int of_group = i * 8 + lane / 4;
            if (of_group >= count) return;
            args.marks_out[cells_before + own.queue[head + of_group].cell] =
                z[i / 2][i % 2].w > living_threshold ? mark_above | mark_holds : mark_holds;
        }
    }

    __device__ static unsigned place_of(const QueuedCell& cell) { return cell.places & 0x7fffU; }
    __device__ float4 state_of(const QueuedCell& cell) const {
        return load4_if(~cell.places & QueuedCell::dead,
                        state + cell.cell * std::size_t{Traits::channels});
    }

    // Perception of the first or second eight cells of an A. Sobel's sums are made of the diagonals
    // of the nine cells and of twice what lies across and down; their factor is in the weights.
    // shrink: 2^-8 for each level.
    template <bool shrinks>
    __device__ void perceive(std::uint32_t (&p)[filter_count][parts][4], int lower,
                             std::uint32_t places, float shrink) const {
        const unsigned here = places & 0x7fffU;
        const unsigned middle = masked + here, above = masked + (places >> 16 & 0x7fffU);
        const unsigned below =
            here >= last_masked_row ? middle - last_masked_row : middle + masked_row;
        const auto at = [](unsigned address) { return at_shared_address<Quad>(address); };
        const Quad x0 = at(above - cell_bytes), x1 = at(above), x2 = at(above + cell_bytes);
        const Quad x3 = at(middle - cell_bytes), x5 = at(middle + cell_bytes);
        const Quad x6 = at(below - cell_bytes), x7 = at(below), x8 = at(below + cell_bytes);
        if constexpr (parts == 1) {
            const auto sobel = [&](int word, auto of) {
                const auto down = subtract_pairs(of(x8), of(x0));
                const auto up = subtract_pairs(of(x2), of(x6));
                p[1][0][2 * word + lower] = multiply_add_pairs(subtract_pairs(of(x5), of(x3)),
                                                               two_pairs, add_pairs(down, up));
                p[2][0][2 * word + lower] = multiply_add_pairs(subtract_pairs(of(x7), of(x1)),
                                                               two_pairs, subtract_pairs(down, up));
            };
            sobel(0, [](const uint2& pairs) { return pairs.x; });
            sobel(1, [](const uint2& pairs) { return pairs.y; });
            // One word at a time: the two that are multiplied together do not lie together.
            p[0][0][lower] = at_shared_address<volatile std::uint32_t>(middle);
            p[0][0][2 + lower] =
                at_shared_address<volatile std::uint32_t>(middle + sizeof(std::uint32_t));
        } else {
            const float4 down = difference(x8, x0), up = difference(x2, x6);
            float4 filters[filter_count] = {at(middle), sum_of(down, up), difference(down, up)};
            add_scaled(filters[1], 2, difference(x5, x3));
            add_scaled(filters[2], 2, difference(x7, x1));
#pragma unroll
            for (int k = 0; k < filter_count; ++k) {
                if constexpr (shrinks) filters[k] = scaled(filters[k], shrink);
                std::uint32_t low[parts], high[parts];
                make_parts<parts>(low, filters[k].x, filters[k].y);
                make_parts<parts>(high, filters[k].z, filters[k].w);
#pragma unroll
                for (int part = 0; part < parts; ++part) {
                    p[k][part][lower] = low[part], p[k][part][2 + lower] = high[part];
                }
            }
        }
    }

    // u, b2 included. careful: b1 and b2 are scaled by shrink, and a hidden unit that is NaN is
    // off, as in float32 arithmetic; both take instructions.
    template <bool careful, int groups>
    __device__ void add_hidden(Accumulator (&u)[groups][2], const Operands<groups>& operands,
                               float shrink) const {
#pragma unroll
        for (int g = 0; g < groups; ++g) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                float4 b2 = shared.b2[g][j][quad];
                if constexpr (careful) b2 = scaled(b2, shrink);
                u[g][j] = {{b2.x, b2.y, b2.z, b2.w}};
            }
        }
        // Sums of the small products, apart: added to a large sum, they would lose bits.
        Accumulator small[groups][2] = {};
        unsigned weights = operands_of_lane, b1 = b1_of_lane;
#pragma unroll 1
        for (int block = 0; block < StreamWeights::blocks; ++block) {
            multiply_block<careful>(u, small, operands, weights, b1, shrink);
            weights += sizeof shared.operands[0][0];
            b1 += sizeof shared.b1[0];
        }
        if constexpr (parts == 2) {
#pragma unroll
            for (int g = 0; g < groups; ++g) {
#pragma unroll
                for (int i = 0; i < 8; ++i) u[g][i / 4].sums[i % 4] += small[g][i / 4].sums[i % 4];
            }
        }
    }

    // Adds what 16 hidden units give to u, and their small products.
    template <bool careful, int groups>
    __device__ void multiply_block(Accumulator (&u)[groups][2], Accumulator (&small)[groups][2],
                                   const Operands<groups>& operands, unsigned weights,
                                   unsigned biases, float shrink) const {
        // Three B for each of two groups of eight columns, and two B of the second product.
        std::uint32_t w[8][parts][2];
#pragma unroll
        for (int part = 0; part < parts; ++part) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const auto two =
                    at_shared_address<uint4>(weights + part * sizeof shared.operands[0] +
                                             i * sizeof shared.operands[0][0][0]);
                w[2 * i][part][0] = two.x, w[2 * i][part][1] = two.y;
                w[2 * i + 1][part][0] = two.z, w[2 * i + 1][part][1] = two.w;
            }
        }
        Accumulator a[groups][2];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            auto b1 = at_shared_address<float4>(biases + j * sizeof shared.b1[0][0]);
            if constexpr (careful) b1 = scaled(b1, shrink);
            const Accumulator first = {{b1.x, b1.y, b1.z, b1.w}};
#pragma unroll
            for (int g = 0; g < groups; ++g) {
                const auto& p = operands.p[g];
                if constexpr (parts == 1) {
                    a[g][j] = mma_fp16_from(first, p[0][0], w[3 * j][0]);
                } else {
                    a[g][j] = mma_fp16_from(first, p[0][1], w[3 * j][0]);
                    mma_fp16(a[g][j], p[0][0], w[3 * j][1]);
                }
            }
        }
#pragma unroll
        for (int k = 1; k < filter_count; ++k) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
#pragma unroll
                for (int g = 0; g < groups; ++g) {
                    multiply_small<parts>(a[g][j], operands.p[g][k], w[3 * j + k]);
                }
            }
        }
#pragma unroll
        for (int k = parts == 1 ? 1 : 0; k < filter_count; ++k) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
#pragma unroll
                for (int g = 0; g < groups; ++g) {
                    mma_fp16(a[g][j], operands.p[g][k][0], w[3 * j + k][0]);
                }
            }
        }
#pragma unroll
        for (int g = 0; g < groups; ++g) {
            std::uint32_t h[parts][4];
            make_hidden<careful>(h, a[g]);
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                multiply_small<parts>(small[g][j], h, w[6 + j]);
                mma_fp16(u[g][j], h[0], w[6 + j][0]);
            }
        }
    }

    // h = relu(a) of 16 hidden units and 16 cells as an operand A.
    template <bool careful>
    __device__ static void make_hidden(std::uint32_t (&h)[parts][4], Accumulator (&a)[2]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float* const two = a[i / 2].sums + i % 2 * 2;
            if constexpr (careful) two[0] = fmaxf(two[0], 0.0F), two[1] = fmaxf(two[1], 0.0F);
            if constexpr (parts == 1) {
                h[0][i] = relu_rounded_to_fp16(two[0], two[1]);
            } else {
                // What was cut off is not negative. Where a is negative, both parts are 0.
                h[0][i] = relu_cut_to_fp16(two[0], two[1]);
                const float2 cut = halves(h[0][i]);
                h[1][i] = relu_rounded_to_fp16(two[0] - cut.x, two[1] - cut.y);
            }
        }
    }

    const StepForwardArgs& args;
    const StreamShared<parts>& shared;
    Warp& own;
    const int lane, quad, cell_of_piece;
    const unsigned lane_bit, lanes_before;
    // Addresses of the lane's quads, operands and b1.
    const unsigned masked, operands_of_lane, b1_of_lane;

    // Of the segment.
    int sample, left, top, bottom;
    unsigned own_columns, columns;  // of the segment's rows, and of the row
    unsigned columns_inside;        // of the grid, or beyond a circular edge
    unsigned if_interior;           // whether all columns are: all bits or none
    unsigned if_noted;              // the same: whether the life mask or marks are wanted
    int rows_inside;                // the first row below the grid
    int lane_column;                // of the grid, that the lane looks at
    std::size_t cells_before;
    const float* state;
    float* next;
    const std::uint8_t* living_before_in;  // in the lane's column; where there is a mask
    std::uint8_t* living_before_out;       // likewise, for the step to come

    // Of the row above, of the row itself and of the one below.
    unsigned life_above, life_here, both_above, active_above, alpha_here, alpha_below;
    std::uint32_t largest_second_above, largest_above, largest_here = 0;  // elements, as bits
    unsigned living_before_below;                                         // of the lane's column
    unsigned fire_words_of_four;
    unsigned slot, place, place_above;
    int row_cell;  // the index of column 0
    int head, queued;
    int queued_above, queued_second_above;  // of the rows above the one that is queued
    int level;                              // of what is queued
};

template <int parts>
constexpr int most_warps = parts == 1 ? 12 : 8;

template <int parts>
__global__ void __launch_bounds__(most_warps<parts>* Traits::warp_size, 1)
    stream_forward_kernel(const __grid_constant__ StepForwardArgs args,
                          const __grid_constant__ StreamPlan plan) {
    auto& shared = shared_storage<StreamShared<parts>, StreamTraits::most_shared_bytes>();
    const int thread = int(threadIdx.x), threads = int(blockDim.x);
    // The same in all lanes, and the compiler knows it.
    const int warp = __shfl_sync(whole_warp, thread / Traits::warp_size, 0);
    const int warps = threads / Traits::warp_size;
    let_dependents_start();
    prepare(shared, args, thread, threads);
    wait_for_copies();
    __syncthreads();  // the weights are there
    wait_for_predecessor();
    Strip<parts> strip(args, shared, shared.warps[warp], thread % Traits::warp_size);
    const int blocks = int(gridDim.x);
    for (int item = warp * blocks + int(blockIdx.x); item < plan.items; item += warps * blocks) {
        strip.run(plan, item);
    }
}

template <int parts>
void launch_parts(const StepForwardArgs& args, const StreamLimits& limits, bool dependent,
                  cudaStream_t stream) {
    constexpr int each = sizeof(StreamWarp<parts>), rest = sizeof(StreamShared<parts>) - each;
    const int most = std::clamp((int(limits.shared_bytes) - rest) / each, 1, most_warps<parts>);
    const StreamPlan plan = plan_stream(args.grid, most * limits.multiprocessors);
    // A multiprocessor has one block, with no more warps than it has items.
    const int blocks = std::min(plan.items, limits.multiprocessors);
    const int warps = std::min((plan.items + blocks - 1) / blocks, most);
    launch("stream_forward_kernel", stream_forward_kernel<parts>,
           {.blocks = blocks,
            .threads = warps * Traits::warp_size,
            .shared_bytes = std::size_t(rest + warps * each),
            .dependent = dependent},
           stream, args, plan);
}

}  // namespace

void launch_stream_forward(const StepForwardArgs& args, Precision precision,
                           const StreamLimits& limits, bool dependent, cudaStream_t stream) {
    if (precision == Precision::fast) {
        launch_parts<1>(args, limits, dependent, stream);
    } else {
        launch_parts<2>(args, limits, dependent, stream);
    }
}

}  // namespace nca::cuda
