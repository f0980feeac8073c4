// SPDX-License-Identifier: MIT
// A rollout in bands, forward: all steps of all samples in one launch (docs/cuda.md has a picture).
//
//   z = x + fire * step_size * u(x)     x' = z * living(z) [* living(x)]
//
// A cluster has a sample, and a block a band of its rows, whose state stays in shared memory and is
// updated in place. A step: from the bits of alpha above the threshold, a row a lane, each warp
// finds which cells live, which have died and which to compute. These are listed, row by row. Four
// threads a cell perceive, as operands of the tensor cores; warps multiply 16 listed cells by their
// hidden units; four threads a cell add the parts of u to the state. The neighbours get z of the
// edge rows and bits of three rows at once, by stores that report to a barrier in the neighbour's
// shared memory. There are two buffers, used in turns: a block may overwrite what it sent two steps
// ago, because the neighbour has sent for a later step since.
//
// Empty cells that fire change by u0 without being listed. Where more cells are listed than there
// is room for, they are computed in several passes, and their z waits in global memory until all
// have perceived.
// Reference: host/reference/rollout.hpp. Tests: tests/band_test.cpp.

#include "cuda/bands/band.cuh"
#include "cuda/device/launch.cuh"

namespace nca::cuda {
namespace {

constexpr int alpha_rows = BandTraits::alpha_rows;
constexpr unsigned cell_bytes = BandTraits::cell_bytes;

// What a neighbour sends of its three nearest rows: which cells have an alpha above the threshold,
// and, where life counts before and after a step, which of these are in living_before.
template <int words>
struct EdgeBits {
    RowBits<words> above[alpha_rows];
    RowBits<words> living_before[alpha_rows];
};

// The part of shared memory that has the same size for every grid. Behind it lie
//   halo [2 sides, 2 buffers, width, 16] floats, x [rows, width, 16] floats, list [rows, width]
template <int parts, int words>
struct ForwardShared {
    static constexpr int rows = 128;                   // computed at a time
    static constexpr int groups = parts == 2 ? 4 : 2;  // of hidden units
    static constexpr int part_bytes = rows * OperandTraits::p_pitch;

    alignas(16) float zero[Traits::channels];
    alignas(16) float u0[Traits::channels];                   // times the step size
    alignas(16) float b2[Traits::channels];                   // the same
    alignas(16) EdgeBits<words> edges[2][2];                  // [buffer][above, below]
    RowBits<words> above[most_band_rows];                     // alpha above the threshold, of own x
    RowBits<words> holding[most_band_rows + 2 * alpha_rows];  // of the first state
    ArrivalBarrier arrivals[2];
    std::uint32_t largest_weights[4];
    std::uint32_t magnitude;  // the largest of the step, at least that of an empty cell
    float scale[rows];        // f
    float unscale[rows];      // what u is multiplied by
    alignas(16) unsigned char p[parts * part_bytes];
    alignas(16) float u[groups][rows][Traits::channels];
};

template <int parts, int words>
std::size_t shared_bytes(const BatchShape& grid, const BandCut& cut) {
    const std::size_t cells = std::size_t(cut.most_rows()) * grid.width;
    return sizeof(ForwardShared<parts, words>) + std::size_t{4} * grid.width * cell_bytes +
           cells * (cell_bytes + sizeof(std::uint32_t));
}

// A lane's row: rows -3 to rows + 2 of the band.
template <int words>
struct LaneRow {
    using Bits = RowBits<words>;
    int row;        // of the band
    int in_sample;  // wrapped
    // All bits or none: whether it lies in the sample, or edges are circular; whether it is own;
    // whether it is inside, and own or next to an own one.
    std::uint32_t if_inside, if_own, if_near;

    Bits life = 0;           // of x
    Bits fires = 0;          // of the step before
    Bits computed = 0;       // of the same: cells that are not empty
    Bits living_before = 0;  // of the same, where life counts before and after a step
};

template <int words>
__device__ LaneRow<words> lane_row(const BandRollout& args, const Band& band, int lane) {
    const int last = band.rows + 2 * alpha_rows - 1;
    LaneRow<words> result;
    result.row = (lane < last ? lane : last) - alpha_rows;
    const int in_sample = band.first_row + result.row;
    const bool inside = args.rule.circular || (in_sample >= 0 && in_sample < args.grid.height);
    result.in_sample = inside ? wrapped_row(in_sample, args.grid.height) : band.first_row;
    const int unclamped = lane - alpha_rows;
    const bool own = unclamped >= 0 && unclamped < band.rows;
    const bool near = unclamped >= -1 && unclamped <= band.rows;
    result.if_inside = opaque(all_if(inside));
    result.if_own = opaque(all_if(own));
    result.if_near = opaque(all_if(inside && near));
    return result;
}

// The warp's weights as B of the two products.
template <int parts, int words>
struct ForwardWeightsOfWarp {
    using Shared = ForwardShared<parts, words>;
    static constexpr int hidden = Traits::hidden / Shared::groups;
    static constexpr int columns = hidden / 8;
    static constexpr int blocks = hidden / 16;
    std::uint32_t w1[columns][OperandTraits::p_blocks][parts][2];
    std::uint32_t w2[blocks][2][parts][2];
    float2 b1[columns];
};

template <int parts, int words>
__device__ ForwardWeightsOfWarp<parts, words> load_weights(const TensorWeights& weights,
                                                           const WeightScales& scales, int group,
                                                           int lane) {
    using Own = ForwardWeightsOfWarp<parts, words>;
    Own own;
#pragma unroll
    for (int j = 0; j < Own::columns; ++j) {
#pragma unroll
        for (int k = 0; k < OperandTraits::p_blocks; ++k) {
            make_b<parts>(own.w1[j][k], weights.w1_forward[group * Own::columns + j][k][lane],
                          scales.w1);
        }
    }
#pragma unroll
    for (int j = 0; j < Own::columns; ++j) {
        const float* const b1 = weights.b1 + group * Own::hidden + j * 8 + lane % 4 * 2;
        own.b1[j] = make_float2(b1[0], b1[1]);
    }
#pragma unroll
    for (int k = 0; k < Own::blocks; ++k) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            make_b<parts>(own.w2[k][j], weights.w2_forward[group * Own::blocks + k][j][lane],
                          scales.w2);
        }
    }
    return own;
}

// W2 relu(b1) + b2, times the step size: 16 threads a channel.
template <class Shared>
__device__ void compute_u0(Shared& shared, const TensorWeights& weights, float step_size,
                           int thread) {
    const int channel = thread / 16, t = thread % 4, first = thread % 16 / 4 * 2;
    float sum = 0;
#pragma unroll
    for (int k = first; k < first + 2; ++k) {
        const float4 w2 = load4(weights.w2_forward[k][channel / 8][channel % 8 * 4 + t]);
        const float* const b1 = weights.b1 + k * 16 + t * 2;
        sum += w2.x * fmaxf(b1[0], 0.0F) + w2.y * fmaxf(b1[1], 0.0F) + w2.z * fmaxf(b1[8], 0.0F) +
               w2.w * fmaxf(b1[9], 0.0F);
    }
#pragma unroll
    for (int distance = 1; distance < 16; distance *= 2) {
        sum += __shfl_xor_sync(whole_warp, sum, distance);
    }
    if (thread % 16 == 0) {
        shared.u0[channel] = step_size * (sum + weights.b2[channel]);
        shared.b2[channel] = step_size * weights.b2[channel];
    }
}

template <int parts, int words>
class Forward {
public:
    using Shared = ForwardShared<parts, words>;
    using Bits = RowBits<words>;
    using Own = ForwardWeightsOfWarp<parts, words>;

    __device__ Forward(const BandRollout& args_, Shared& shared_, int thread_)
        : args(args_),
          shared(shared_),
          band(band_of_block(args_)),
          thread(thread_),
          lane(thread_ % Traits::warp_size),
          // The same in all lanes, and the compiler knows it.
          warp(__shfl_sync(whole_warp, thread_ / Traits::warp_size, 0)),
          quad(thread_ % Traits::quads),
          zero(opaque_shared_address(&shared_)),
          row_bytes(unsigned(band.row_bytes)),
          halo(zero + unsigned(sizeof(Shared))),
          x(halo + 4 * row_bytes),
          list(x + unsigned(band.rows) * row_bytes),
          edges(band.width, args_.rule.circular) {}

    __device__ void run() {
        prepare();
        const int rows_of_step = args.grid.batch * args.grid.height;
        const Bits* fires_at = &row_of<Bits>(args.fire, args, 0, band.sample, mine.in_sample);
        Bits next_fires = *fires_at;
        for (int step = 0;; ++step) {
            const int out = step % 2, in = 1 - out;
            if (thread == 0 && step < args.steps) expect_bytes(shared.arrivals[out], arriving);
            const Bits fires = next_fires;
            next_fires = 0;
            if (step + 1 < args.steps) next_fires = *(fires_at += rows_of_step);
            if (step > 0) wait_arrivals(shared.arrivals[in], unsigned(step - 1) / 2 % 2);
            const Bits computed = live(step, in);
            const Bits listed = computed & fires & row_of_words<Bits>(mine.if_own);
            const int count = list_cells(listed, in);
            mine.fires = fires;
            mine.computed = computed;
            __syncthreads();  // A: listed; the dead are cleared
            // The blocks of band_lists_kernel are let in only shortly before the end: until then
            // idle multiprocessors are left to others.
            if (step + 4 >= args.steps) let_dependents_start();
            if (thread == last_warp) store_state(step);
            if (step == args.steps) break;
            if (if_keeps_above != 0) shared.above[mine.row] = above_living;
            compute(step, count, in, out, listed);
            __syncthreads();  // D: the state is that of the next step
            if (warp == Traits::warps - 1) send_bits(out);
        }
        if (thread == last_warp) wait_bulk_stores();
        cluster_barrier();  // no neighbour sends any more
    }

private:
    // The first thread of the last warp, which has least to do.
    static constexpr int last_warp = Traits::threads - Traits::warp_size;

    __device__ static float4& piece(unsigned address) { return at<float4>(address); }
    // Of a side (0 above, 1 below) and a buffer.
    __device__ unsigned halo_row(int side, int buffer) const {
        return halo + unsigned(side * 2 + buffer) * row_bytes;
    }

    __device__ void prepare() {
        const TensorWeights& weights = args.model->tensor;
        if (thread < 4) shared.largest_weights[thread] = 0;
        const WeightScales scales = weight_scales(weights, shared.largest_weights, thread);
        own = load_weights<parts, words>(weights, scales, warp % Shared::groups, lane);
        bound_of_sum = scales.sum;
        bound_of_bias = scales.bias;
        w1_inverse = inverse_of_power(scales.w1);
        u_factor = args.rule.step_size * inverse_of_power(scales.w2);
        compute_u0(shared, weights, args.rule.step_size, thread);
        if (thread < Traits::channels) shared.zero[thread] = 0;
        if (thread == 0) {
            shared.magnitude = magnitude_of(0);
            for (ArrivalBarrier& barrier : shared.arrivals) init_arrival_barrier(barrier, 1);
        }
        mine = lane_row<words>(args, band, lane);
        place_bits();
        number_cells();
        load_first_state();
        fence_async_proxy();
        __syncthreads();  // all is there
        const Bits inside = row_of_words<Bits>(mine.if_inside);
        mine.life = shared.holding[mine.row + alpha_rows] & inside;
        mine.living_before = inside;
        if (args.life != nullptr) {
            life_to = &row_of<Bits>(args.life, args, 0, band.sample, mine.in_sample);
        }
        const int rows_of_bits = alpha_rows * (args.rule.pre_and_post ? 2 : 1);
        const int each = band.row_bytes + rows_of_bits * int(sizeof(Bits));
        arriving = opaque(unsigned((band.has_above() + band.has_below()) * each));
        const bool u0_lives = shared.u0[alpha_channel] > living_threshold;
        if_own_and_u0_lives = opaque(mine.if_own & all_if(u0_lives));
        const std::uint32_t if_writer = all_if(warp == Traits::warps - 1) & mine.if_own;
        if_keeps_above = opaque(if_writer & all_if(args.rule.pre_and_post || u0_lives));
        if_writes_life = opaque(if_writer & all_if(args.life != nullptr));
        cluster_barrier();  // all blocks can be sent to
        wait_for_predecessor();
    }

    // Where the lane's row has its bits.
    __device__ void place_bits() {
        bits = zero;
        if (mine.if_inside == 0) return;
        const unsigned row_of_bits = sizeof(Bits);
        if (mine.row >= 0 && mine.row < band.rows) {
            bits = address_of(shared.above) + unsigned(mine.row) * row_of_bits;
            return;
        }
        const int row = mine.row < 0 ? mine.row + alpha_rows : mine.row - band.rows;
        bits =
            address_of(shared.edges[0][mine.row < 0 ? 0 : 1].above) + unsigned(row) * row_of_bits;
        bits_stride = sizeof shared.edges[0];
        living_before_offset = alpha_rows * row_of_bits;
    }
    // The parts of what the lane writes into lists.
    __device__ void number_cells() {
        lane_bit = opaque(1U << lane);
        lanes_before = opaque(lane_bit - 1);
        listed_row = opaque(listed_cell(1, 1, band.width) - listed_cell(0, 1, band.width));
#pragma unroll
        for (int word = 0; word < words; ++word) {
            listed_lane[word] = opaque(listed_cell(0, word * 32 + lane, band.width));
        }
    }
    template <class T>
    __device__ unsigned address_of(const T& of_shared) const {
        return zero + unsigned(reinterpret_cast<const unsigned char*>(&of_shared) -
                               reinterpret_cast<const unsigned char*>(&shared));
    }

    // Loads the state of own rows and of those beside them, and makes its bits.
    __device__ void load_first_state() {
        const float* const sample = args.first_state + std::size_t(band.sample) * args.grid.height *
                                                           band.width * Traits::channels;
        const int pieces = band.width * Traits::quads;
        for (int i = thread; i < band.rows * pieces; i += Traits::threads) {
            piece(x + i * 16) = load4(sample + (std::size_t(band.first_row) * pieces + i) * 4);
        }
        for (int side = 0; side < 2; ++side) {
            const int row = band.first_row + (side == 0 ? -1 : band.rows);
            const bool there = side == 0 ? band.has_above() : band.has_below();
            const float* const from =
                sample + std::size_t(wrapped_row(row, args.grid.height)) * pieces * 4;
            for (int i = thread; i < pieces; i += Traits::threads) {
                const float4 value = there ? load4(from + i * 4) : zero4();
                for (int buffer = 0; buffer < 2; ++buffer) {
                    piece(halo_row(side, buffer) + i * 16) = value;
                }
            }
        }
        for (int i = warp; i < band.rows + 2 * alpha_rows; i += Traits::warps) {
            const int row = band.first_row + i - alpha_rows;
            const bool inside = args.rule.circular || (row >= 0 && row < args.grid.height);
            const float* const from =
                sample + std::size_t(wrapped_row(row, args.grid.height)) * pieces * 4;
            Bits above = 0, holding = 0;
            for (int word = 0; word < words; ++word) {
                const int column = word * 32 + lane;
                bool is_above = false, holds = false;
                if (inside && column < band.width) {
                    const float* const cell = from + column * Traits::channels;
                    is_above = cell[alpha_channel] > living_threshold;
#pragma unroll
                    for (int q = 0; q < Traits::quads; ++q) {
                        const float4 four = load4(cell + q * 4);
                        holds |= four.x != 0 || four.y != 0 || four.z != 0 || four.w != 0;
                    }
                }
                above |= Bits{__ballot_sync(whole_warp, is_above)} << (32 * word);
                holding |= Bits{__ballot_sync(whole_warp, holds)} << (32 * word);
            }
            if (lane != 0) continue;
            shared.holding[i] = holding;
            if (i >= alpha_rows && i < band.rows + alpha_rows) {
                shared.above[i - alpha_rows] = above;
                continue;
            }
            const int side = i < alpha_rows ? 0 : 1;
            const int at_edge = side == 0 ? i : i - band.rows - alpha_rows;
            for (int buffer = 0; buffer < 2; ++buffer) {
                shared.edges[buffer][side].above[at_edge] = above;
                shared.edges[buffer][side].living_before[at_edge] = above;
            }
        }
    }

    // Finds the life mask of x and which cells near the band have to be cleared. Returns which
    // cells are not empty.
    __device__ Bits live(int step, int in) {
        const Bits inside = row_of_words<Bits>(mine.if_inside);
        const Bits near = row_of_words<Bits>(mine.if_near);
        const Bits own_row = row_of_words<Bits>(mine.if_own);
        const Bits holding = mine.life | (mine.fires & mine.computed);
        const Bits moved_by_u0 = mine.fires & ~mine.computed;
        // Alpha of z above the threshold; of x, whose other cells are zero, it is above_living.
        const unsigned from = bits + unsigned(in) * bits_stride;
        const Bits above = at<Bits>(from) | (moved_by_u0 & row_of_words<Bits>(if_own_and_u0_lives));
        Bits life = edges.around(above) & inside;
        if (args.rule.pre_and_post) {
            const Bits of_neighbour = at<Bits>(from + living_before_offset);
            above_living = (above & mine.living_before & own_row) | (of_neighbour & ~own_row);
            life &= mine.living_before;
            mine.living_before = edges.around(above_living) & inside;
        } else {
            above_living = above;
            born = moved_by_u0 & life & near;
        }
        if (step == 0) life = mine.life;
        died = holding & ~life & near;
        mine.life = life;
        if (if_writes_life != 0 && step > 0) {
            life_to += args.grid.batch * args.grid.height;
            *life_to = life;
        }
        // A cell that will not live is computed as well: its alpha may let its neighbours live.
        return edges.around(life);
    }

    // Writes the list and clears cells that died, a row a warp; returns how many are listed.
    __device__ int list_cells(Bits listed, int in) {
        const auto count = unsigned(count_bits(listed));
        const Bits changed = died | born;
#pragma unroll 1
        for (int i = warp; i < band.rows + 2; i += Traits::warps) {
            const int source = i + alpha_rows - 1, row = i - 1;
            const Bits of_row = from_lane(listed, source);
            unsigned to = list + 4 * sum_over_warp(lane < source ? count : 0U);
            const std::uint32_t first = std::uint32_t(row) * listed_row;
#pragma unroll
            for (int word = 0; word < words; ++word) {
                const std::uint32_t of_word = word_of(of_row, word);
                if ((of_word & lane_bit) != 0) {
                    const auto before = unsigned(__popc(of_word & lanes_before));
                    at<std::uint32_t>(to + 4 * before) = first + listed_lane[word];
                }
                to += 4 * unsigned(__popc(of_word));
            }
            const Bits cells = from_lane(changed, source);
            if (cells != 0) reset_cells(row, in, cells, from_lane(born, source));
        }
        return int(sum_over_warp(count));
    }

    // Cells of a row that died become zero; those of them that were empty and live now are u0.
    __device__ void reset_cells(int row, int in, Bits cells, Bits born_of_row) {
        const unsigned to = row < 0            ? halo_row(0, in)
                            : row == band.rows ? halo_row(1, in)
                                               : x + unsigned(row) * row_bytes;
#pragma unroll
        for (int word = 0; word < words; ++word) {
            if ((word_of(cells, word) & lane_bit) == 0) continue;
            const bool is_born = (word_of(born_of_row, word) & lane_bit) != 0;
            for (int q = 0; q < Traits::quads; ++q) {
                piece(to + (word * 32 + lane) * cell_bytes + q * 16) =
                    is_born ? load4(shared.u0 + q * 4) : zero4();
            }
        }
    }

    // x of a step, by one thread behind a barrier; done before barrier C of the step.
    __device__ void store_state(int step) {
        float* to = args.states != nullptr
                        ? args.states + std::size_t(step) * args.grid.batch * args.grid.height *
                                            band.width * Traits::channels
                    : step == args.steps ? args.last_state
                                         : nullptr;
        if (to == nullptr) return;
        const std::size_t row = std::size_t(band.sample) * args.grid.height + band.first_row;
        fence_async_proxy();
        bulk_store(to + row * band.width * Traits::channels, &piece(x),
                   unsigned(band.rows * band.row_bytes));
    }

    __device__ void compute(int step, int count, int in, int out, Bits listed) {
        for (int first = 0;; first += Shared::rows) {
            const int left = count - first, here = left < Shared::rows ? left : Shared::rows;
            perceive_cells(first, here, in);
            __syncthreads();  // B: p is there
            for (int row = warp / Shared::groups * 16; row < here;
                 row += Traits::warps / Shared::groups * 16) {
                multiply_rows(row);
            }
            if (first == 0) send_unchanged(here, out, listed);
            const bool last = left <= Shared::rows;
            if (last && thread == last_warp) wait_bulk_reads();
            __syncthreads();  // C: u is there; x may change
            if (args.magnitude != nullptr && thread == last_warp && last) {
                args.magnitude[step * args.grid.batch * band.bands + band.index] = shared.magnitude;
                shared.magnitude = magnitude_of(0);
            }
            finish_cells(first, here, out, count > Shared::rows);
            if (last) break;
            __syncthreads();  // u and the scales are used
        }
        if (count > Shared::rows) put_spilled(count, out);
    }

    // The magnitude (smallest_magnitude) of a row whose largest perception is as given.
    __device__ std::uint32_t magnitude_of(float largest_p) const {
        const std::uint32_t magnitude =
            __float_as_uint(largest_p * bound_of_sum + bound_of_bias) >> 23;
        return magnitude > smallest_magnitude ? magnitude : smallest_magnitude;
    }

    __device__ void perceive_cells(int first, int count, int in) {
        const int last_row = band.rows - 1;
        const unsigned quad_bytes = unsigned(quad) * 16;
        const unsigned above = halo_row(0, in);
        const unsigned below = halo_row(1, in) - unsigned(last_row) * row_bytes;
        std::uint32_t largest = 0;
#pragma unroll 1
        for (int of_warp = warp * 8; of_warp < count; of_warp += Traits::warps * 8) {
            // Lanes beyond the last cell do as it does, and store nothing.
            const int wanted = of_warp + lane / Traits::quads;
            const int i = wanted < count ? wanted : count - 1;
            const auto listed = at<std::uint32_t>(list + (first + i) * 4);
            // The cells of the first row are numbered as those above them are.
            const unsigned offset = offset_of_listed(listed) + quad_bytes;
            const unsigned middle = x + offset;
            const unsigned up = row_of_listed(listed) == 0 ? above + offset : middle - row_bytes;
            const unsigned down =
                row_of_listed(listed) == last_row ? below + offset : middle + row_bytes;
            Perception p =
                perceive(listed, up, middle, down, zero + quad_bytes, band, args.rule, 1.0F);
            float size = fmaxf(fmaxf(largest_element(p.filters[0]), largest_element(p.filters[1])),
                               largest_element(p.filters[2]));
            size = fmaxf(size, __shfl_xor_sync(whole_warp, size, 1));
            size = fmaxf(size, __shfl_xor_sync(whole_warp, size, 2));
            const std::uint32_t magnitude = magnitude_of(size);
            largest = largest > magnitude ? largest : magnitude;
            const float scale = operand_scale(magnitude);
#pragma unroll
            for (float4& filter : p.filters) filter = scaled(filter, scale * w1_inverse);
            if (wanted >= count) continue;
            store_perception<parts>(address_of(shared.p) + unsigned(i * OperandTraits::p_pitch),
                                    Shared::part_bytes, quad, p);
            if (quad == 0) {
                shared.scale[i] = scale;
                shared.unscale[i] =
                    magnitude == infinite_magnitude ? scale : inverse_of_power(scale) * u_factor;
            }
        }
        if (warp * 8 < count) atomicMax(&shared.magnitude, largest);
    }

    // The MLP of 16 listed cells and the warp's hidden units.
    __device__ void multiply_rows(int first) {
        const int group = warp % Shared::groups, t = lane % 4;
        const unsigned char* const from =
            shared.p + (first + lane % 16) * OperandTraits::p_pitch + lane / 16 * 16;
        std::uint32_t p[OperandTraits::p_blocks][parts][4];
#pragma unroll
        for (int k = 0; k < OperandTraits::p_blocks; ++k) {
            load_a<parts>(p[k], from + k * 32, Shared::part_bytes);
        }
        const float upper = shared.scale[first + lane / 4];
        const float lower = shared.scale[first + lane / 4 + 8];
        Accumulator a[Own::columns];
#pragma unroll
        for (int j = 0; j < Own::columns; ++j) {
            const float2 b1 = own.b1[j];
            a[j] = {{b1.x * upper, b1.y * upper, b1.x * lower, b1.y * lower}};
        }
#pragma unroll
        for (int k = 0; k < OperandTraits::p_blocks; ++k) {
#pragma unroll
            for (int j = 0; j < Own::columns; ++j) multiply_small<parts>(a[j], p[k], own.w1[j][k]);
        }
#pragma unroll
        for (int k = 0; k < OperandTraits::p_blocks; ++k) {
#pragma unroll
            for (int j = 0; j < Own::columns; ++j) mma_fp16(a[j], p[k][0], own.w1[j][k][0]);
        }
        Accumulator u[2][2] = {};  // of even and odd blocks of hidden units, which need not wait
#pragma unroll
        for (int k = 0; k < Own::blocks; ++k) {
            std::uint32_t h[parts][4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float* const two = a[2 * k + i / 2].sums + i % 2 * 2;
                std::uint32_t pair[parts];
                make_parts<parts>(pair, fmaxf(two[0], 0.0F), fmaxf(two[1], 0.0F));
#pragma unroll
                for (int part = 0; part < parts; ++part) h[part][i] = pair[part];
            }
#pragma unroll
            for (int j = 0; j < 2; ++j) multiply<parts>(u[k % 2][j], h, own.w2[k][j]);
        }
        const unsigned to = address_of(shared.u) +
                            unsigned(group * Shared::rows + first + lane / 4) * cell_bytes +
                            unsigned(t % 2) * 8;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            // Rows that lie eight apart have the same places.
            const unsigned place = to + u_place(j * 2 + t / 2, lane / 4) * 4;
            at<float2>(place) =
                make_float2(u[0][j].sums[0] + u[1][j].sums[0], u[0][j].sums[1] + u[1][j].sums[1]);
            at<float2>(place + 8 * cell_bytes) =
                make_float2(u[0][j].sums[2] + u[1][j].sums[2], u[0][j].sums[3] + u[1][j].sums[3]);
        }
    }

    // Where four channels of u lie in a row: eight rows one below the other have different banks.
    __device__ static unsigned u_place(int q, int row) {
        return unsigned((q ^ (row >> 1 & 1) * 2) * 4);
    }

    // Sends the cells of the edge rows that do not change in this step, by the warps that have
    // fewer rows to multiply than others, or by all.
    __device__ void send_unchanged(int count, int out, Bits listed) {
        const unsigned tiles = unsigned(count + 15) / 16;
        const int first_warp = int(tiles % (Traits::warps / Shared::groups)) * Shared::groups;
        if (warp < first_warp) return;
        const Bits top = from_lane(listed, alpha_rows);
        const Bits bottom = from_lane(listed, alpha_rows + band.rows - 1);
        const auto pieces = unsigned(band.width * Traits::quads);
        const auto share = unsigned(thread - first_warp * Traits::warp_size);
        const auto threads = unsigned(Traits::threads - first_warp * Traits::warp_size);
        const unsigned last_row = x + unsigned(band.rows - 1) * row_bytes;
#pragma unroll 1
        for (unsigned i = share; i < pieces; i += threads) {
            const unsigned column = i / Traits::quads;
            if (band.has_above() && (top >> column & 1) == 0) {
                send_piece(false, out, i * 16, piece(x + i * 16));
            }
            if (band.has_below() && (bottom >> column & 1) == 0) {
                send_piece(true, out, i * 16, piece(last_row + i * 16));
            }
        }
    }

    // To the neighbour's row of the halo: the block below has this one above it.
    __device__ void send_piece(bool below, int out, unsigned offset, float4 value) {
        store_async(&at<float>(halo_row(below ? 0 : 1, out) + offset), value, shared.arrivals[out],
                    below ? band.below : band.above);
    }

    __device__ void finish_cells(int first, int count, int out, bool spill) {
        const float4 b2 = load4(shared.b2 + quad * 4);
#pragma unroll 1
        for (int i = thread / Traits::quads; i < count; i += Traits::threads / Traits::quads) {
            const auto listed = at<std::uint32_t>(list + (first + i) * 4);
            const float4 before = piece(address_of_cell(listed));
            const unsigned from =
                address_of(shared.u) + unsigned(i) * cell_bytes + u_place(quad, i) * 4;
            float4 u = piece(from);
#pragma unroll
            for (int group = 1; group < Shared::groups; ++group) {
                u = sum_of(u, piece(from + sizeof shared.u[0] * group));
            }
            float4 update = b2;
            add_scaled(update, shared.unscale[i], u);
            const float4 z = sum_of(before, update);
            if (spill) {
                store4(spilled(first + i), z);
            } else {
                put_cell(listed, before, z, out);
            }
        }
    }

    __device__ float* spilled(int i) const {
        const std::size_t each =
            std::size_t(args.cut.most_rows() + 2) * band.width * Traits::channels;
        return args.spill + band.index * each + i * Traits::channels + quad * 4;
    }

    // Called when all cells have perceived. Each thread reads what it wrote.
    __device__ void put_spilled(int count, int out) {
#pragma unroll 1
        for (int i = thread / Traits::quads; i < count; i += Traits::threads / Traits::quads) {
            const auto listed = at<std::uint32_t>(list + i * 4);
            put_cell(listed, piece(address_of_cell(listed)), load4(spilled(i)), out);
        }
    }

    __device__ void put_cell(std::uint32_t listed, float4 before, float4 z, int out) {
        const int row = row_of_listed(listed);
        piece(address_of_cell(listed)) = z;
        if (row == 0 && band.has_above()) send_piece(false, out, address_of_cell(listed) - x, z);
        if (row == band.rows - 1 && band.has_below()) {
            send_piece(true, out, address_of_cell(listed) - x - unsigned(row) * row_bytes, z);
        }
        const bool was = before.w > living_threshold, is = z.w > living_threshold;
        if (quad == alpha_channel / 4 && was != is) {
            const unsigned column =
                (offset_of_listed(listed) - unsigned(row) * row_bytes) / cell_bytes;
            atomicXor(reinterpret_cast<unsigned*>(shared.above + row) + column / 32,
                      1U << column % 32);
        }
    }
    __device__ unsigned address_of_cell(std::uint32_t listed) const {
        return x + offset_of_listed(listed) + unsigned(quad) * 16;
    }

    // Sends the bits of own rows near the edges, with cells that u0 has brought above the
    // threshold.
    __device__ void send_bits(int out) {
        if (mine.if_own == 0) return;
        const Bits moved_by_u0 = mine.fires & ~mine.computed;
        const Bits above =
            shared.above[mine.row] | (moved_by_u0 & row_of_words<Bits>(if_own_and_u0_lives));
        const Bits living_before = above & mine.living_before;
        const auto send = [&](int side, int row, unsigned rank) {
            EdgeBits<words>& to = shared.edges[out][side];
            send_row(to.above[row], above, out, rank);
            if (args.rule.pre_and_post) send_row(to.living_before[row], living_before, out, rank);
        };
        if (mine.row < alpha_rows && band.has_above()) send(1, mine.row, band.above);
        const int from_below = mine.row - (band.rows - alpha_rows);
        if (from_below >= 0 && band.has_below()) send(0, from_below, band.below);
    }
    __device__ void send_row(Bits& to, Bits row, int out, unsigned rank) {
#pragma unroll
        for (int word = 0; word < words; word += 2) {
            store_async(reinterpret_cast<float*>(&to) + word,
                        make_float2(__uint_as_float(word_of(row, word)),
                                    __uint_as_float(word_of(row, word + 1))),
                        shared.arrivals[out], rank);
        }
    }

    const BandRollout& args;
    Shared& shared;
    const Band band;
    const int thread, lane, warp, quad;
    const unsigned zero, row_bytes, halo, x, list;  // addresses in shared memory
    const RowEdges<Bits> edges;
    Own own;
    float bound_of_sum = 0, bound_of_bias = 0, w1_inverse = 1, u_factor = 1;
    LaneRow<words> mine;
    // The address of the lane's bits in the first buffer, how much further the second is, and how
    // far behind those of alpha the others are.
    unsigned bits = 0, bits_stride = 0, living_before_offset = 0;
    unsigned arriving = 0;  // bytes that the neighbours send in a step
    // The lane and those before it, as bits; in a list, the lane's cells of row 0, and the
    // difference between the cells of a row and of the row before.
    std::uint32_t lane_bit = 0, lanes_before = 0, listed_lane[words] = {}, listed_row = 0;
    Bits above_living = 0, died = 0, born = 0;
    // All bits or none: whether the row is own and u0 above the threshold; whether the lane writes
    // above_living to shared memory; whether it writes the row's life to global memory. life_to is
    // where that of the step before is.
    std::uint32_t if_own_and_u0_lives = 0, if_keeps_above = 0, if_writes_life = 0;
    Bits* life_to = nullptr;
};

template <int parts, int words>
__global__ void __launch_bounds__(Traits::threads, 1)
    band_forward_kernel(const __grid_constant__ BandRollout args) {
    using Shared = ForwardShared<parts, words>;
    auto& shared = shared_storage<Shared, most_band_shared_bytes>();
    Forward<parts, words>(args, shared, int(threadIdx.x)).run();
}

}  // namespace

bool band_forward_fits(const BatchShape& grid, const BandCut& cut, Precision precision) {
    return with_band_kernel(precision, grid.width, [&](auto parts, auto words) {
        return shared_bytes<parts, words>(grid, cut) <= most_band_shared_bytes;
    });
}

void launch_band_forward(const BandRollout& rollout, Precision precision, cudaStream_t stream) {
    with_band_kernel(precision, rollout.grid.width, [&](auto parts, auto words) {
        launch("band_forward_kernel", band_forward_kernel<parts, words>,
               {.blocks = rollout.grid.batch * rollout.cut.bands,
                .threads = Traits::threads,
                .shared_bytes = shared_bytes<parts, words>(rollout.grid, rollout.cut),
                .dependent = true,
                .cluster = rollout.cut.bands},
               stream, rollout);
    });
}

int active_band_clusters(Precision precision) {
    return with_band_kernel(precision, most_band_width, [&](auto parts, auto words) {
        return active_clusters("band_forward_kernel", band_forward_kernel<parts, words>,
                               {.blocks = most_bands,
                                .threads = Traits::threads,
                                .shared_bytes = most_band_shared_bytes,
                                .cluster = most_bands});
    });
}

}  // namespace nca::cuda
