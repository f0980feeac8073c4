// SPDX-License-Identifier: MIT
// A rollout in bands, back: the loss, and all steps of all samples in one launch (docs/cuda.md).
//
//   grad_z = life_after * grad_x'                           of the step's result
//   grad_u = step_size * grad_z where the cell fires
//   grad_p by the MLP (cuda/step/mlp_backward_tensor.cuh has the formulas)
//   grad_x = grad_z + perceive^T(grad_p) [+ the caller's gradient of this state]
//
// The blocks are those of the way forward. A block keeps the gradient of its band's state in shared
// memory, and gets x of the step before from the tape while it computes. A step:
//   1. a, grad_h, grad_a of the listed cells and grad_W2: a warp has 16 hidden units;
//   2. grad_p: its identity part is added to the gradient, the others lie in a row of a list;
//   3. the adjoint of the stencil, down and up the columns of the band. What a row sends beyond the
//      band goes to the neighbour at once. What stays is added and masked by life_before; it
//      becomes the operand grad_u of the step before where that step has listed the cell;
//   4. perception of the step before and grad_W1, while the neighbours' edges are on their way;
//      at the end these are added to the edge rows.
// Weight gradients stay in registers for the whole launch and are summed to nearest once a step.
//
// Gradients are operands times a power of two that fits the band's largest (GradientScale). Where
// more cells are listed than there is room for, a step takes several passes over windows of them,
// and the sums of the third part wait in global memory until the last.
// Reference: host/reference/rollout.hpp. Tests: tests/band_test.cpp.

#include "cuda/bands/band_lists.cuh"
#include "cuda/device/launch.cuh"
#include "cuda/rule/loss.cuh"
#include "cuda/rule/products_backward.cuh"

namespace nca::cuda {
namespace {

constexpr unsigned cell_bytes = BandTraits::cell_bytes;

// The part of shared memory that has the same size for every grid. Behind it lie
//   lists [3], edges [2 buffers, 2 sides, width, 16] floats, grad [rows, width, 16] floats,
//   x [rows + 2, width, 16] floats
template <int parts, int words>
struct BackwardShared {
    static constexpr int rows = BandList<parts, words>::rows;
    // So many warps share the grad_p of 16 rows.
    static constexpr int p_groups = parts == 2 ? 3 : 2;
    static constexpr int p_bytes = rows * OperandTraits::p_pitch;
    static constexpr int grad_u_bytes = rows * OperandTraits::grad_u_pitch;
    static constexpr int grad_a_bytes = rows * OperandTraits::grad_a_pitch;

    alignas(128) unsigned char zero[BandTraits::grad_p_bytes];
    alignas(16) unsigned char p[2][parts * p_bytes];  // of this step and the one before
    alignas(16) unsigned char grad_u[parts * grad_u_bytes];
    alignas(16) unsigned char grad_a[parts * grad_a_bytes];
    // Aligned as `zero` is: the pieces for Sobel x and y differ in one bit of their addresses.
    alignas(128) unsigned char grad_p[rows * BandTraits::grad_p_bytes];
    float sums[Traits::warps][Traits::channels];  // of b2's gradient
    LossPartial losses[Traits::warps];
    ArrivalBarrier states, lists, edges[2];
    std::uint32_t largest_weights[4];
    float w1_inverse, w2_inverse;  // of the weights' powers of two
    // The largest element of the gradient before a step, as bits, by the step's parity.
    std::uint32_t largest_grad[2];
};

template <int parts, int words>
std::size_t shared_bytes(const BatchShape& grid, const BandCut& cut) {
    const std::size_t rows = std::size_t(cut.most_rows());
    return sizeof(BackwardShared<parts, words>) +
           3 * BandList<parts, words>::bytes(cut.most_rows()) +
           (2 * rows + 6) * grid.width * cell_bytes;
}

// A warp's weights: W1 and W2^T as A, [hidden, ..], its 16 hidden units, and W1 as B for grad_p,
// all hidden units and a share of the perceptions.
template <int parts, int words>
struct BackwardWeightsOfWarp {
    using Shared = BackwardShared<parts, words>;
    static constexpr int columns = Traits::perception / 8 / Shared::p_groups;
    std::uint32_t w1[OperandTraits::p_blocks][parts][4];
    std::uint32_t w2[parts][4];
    std::uint32_t w1_back[Traits::hidden / 16][columns][parts][2];
    float b1[2];
};

// Powers of two as exponents. grad_u' = grad_z g: g brings the largest element of the band's
// gradient to 2^2 and then keeps it between 2^-1 and 2^6, which leaves room for grad_a' below 2^16.
// It is chosen before the operands are made, by the gradient of the step after; where it does not
// fit, they are made again. The weights' gradients are summed times f g, which stays the same from
// step to step as long as possible.
class GradientScale {
public:
    static constexpr int wanted = 2, least = -1, most = 5;

    GradientScale() = default;
    __device__ GradientScale(int sums_, std::uint32_t magnitude_)
        : sums(sums_), magnitude(magnitude_) {}

    int sums = 0;                   // f g
    std::uint32_t magnitude = 127;  // of the step's a, which f comes from

    __device__ int of_a() const {  // f
        return OperandTraits::exponent + 126 - int(magnitude);
    }
    __device__ int of_grad() const { return max(-126, min(126, sums - of_a())); }  // g

    // For a step with that magnitude, where the gradient's largest element is about `largest`; with
    // the same sums if possible.
    __device__ GradientScale next(std::uint32_t next_magnitude, std::uint32_t largest) const {
        const GradientScale same = {sums, next_magnitude};
        const int operand = exponent_of(largest) + same.of_grad();
        return is_usable(largest) && (operand < least || operand > most)
                   ? fitted(next_magnitude, largest)
                   : same;
    }
    // Whether operands of such a largest element are neither lost nor too large.
    __device__ bool fits(std::uint32_t largest) const {
        const int operand = exponent_of(largest) + of_grad();
        return !is_usable(largest) || (operand >= least - 3 && operand <= most + 2);
    }
    __device__ static GradientScale fitted(std::uint32_t magnitude, std::uint32_t largest) {
        GradientScale result = {0, magnitude};
        if (is_usable(largest)) {
            const int exponent = wanted - exponent_of(largest) + result.of_a();
            result.sums = max(-120, min(120, exponent));
        }
        return result;
    }

private:
    __device__ static int exponent_of(std::uint32_t bits) { return int(bits >> 23) - 127; }
    // Neither 0 nor infinite.
    __device__ static bool is_usable(std::uint32_t bits) {
        return bits >> 23 != 0 && bits >> 23 != 255;
    }
};

// Where one of the eight pieces of a row of grad_p lies: pieces of rows one below the other have
// different banks.
__device__ inline unsigned grad_p_place(unsigned row, unsigned place) {
    return row * BandTraits::grad_p_bytes + ((place ^ ((row & 1) << 2 | (row >> 1 & 3))) << 4);
}

template <int parts, int words>
class Backward {
public:
    using Shared = BackwardShared<parts, words>;
    using Bits = RowBits<words>;
    using Own = BackwardWeightsOfWarp<parts, words>;
    using List = BandList<parts, words>;
    using ListRow = BandListRow<words>;

    __device__ Backward(const BandRollout& args_, Shared& shared_, int thread_)
        : args(args_),
          shared(shared_),
          band(band_of_block(args_)),
          thread(thread_),
          lane(thread_ % Traits::warp_size),
          warp(thread_ / Traits::warp_size),
          quad(thread_ % Traits::quads),
          zero(opaque_shared_address(&shared_)),
          row_bytes(unsigned(band.row_bytes)),
          list_bytes(unsigned(sizeof(List) + args_.cut.most_rows() * sizeof(ListRow))),
          lists(zero + unsigned(sizeof(Shared))),
          edges(lists + 3 * list_bytes),
          grad(edges + 4 * row_bytes),
          x(grad + unsigned(band.rows) * row_bytes) {}

    __device__ void run() {
        prepare();
        start();
        for (int step = steps - 1; step >= 0; --step) {
            const List& list = list_of(step);
            const int count = list.header.count;
            if (thread == last_warp) expect_neighbours(step);
            const std::uint32_t largest = shared.largest_grad[step % 2];
            if (!scale.fits(largest)) fit_scale(list, min(count, Shared::rows), largest);
            for (int from = 0;; from += Shared::rows) {
                const bool last = count - from <= Shared::rows;
                const int here = last ? count - from : Shared::rows;
                if (from > 0) open_window(step, from, here);
                if (last && args.step_gradients != nullptr) add_step_gradient(list, step);
                multiply_rows(here, step % 2);
                __syncthreads();  // 1: grad_a is there; nobody reads x any more
                if (thread == 0) shared.largest_grad[(step + 1) % 2] = 0;
                // The last warp has no grad_p, or least of it.
                if (thread == last_warp && last && step > 0) fetch(step - 1);
                compute_grad_p(from > 0 ? window_list() : list, here);
                __syncthreads();  // 2: grad_p is there
                gather(step, from, here, last);
                if (last) break;
                __syncthreads();  // the operands may be overwritten
            }
            __syncthreads();  // 3: the step before has all it needs
            if (next_scale.sums != scale.sums) write_sums();
            scale = next_scale;
        }
        finish();
        cluster_barrier();  // all that is sent has come
    }

private:
    static constexpr int last_warp = Traits::threads - Traits::warp_size;  // its first thread

    __device__ static float4& piece(unsigned address) { return at<float4>(address); }
    __device__ static unsigned char* row_at(unsigned address) {
        return &at<unsigned char>(address);
    }
    template <class T>
    __device__ unsigned address_of(const T& of_shared) const {
        return zero + unsigned(reinterpret_cast<const unsigned char*>(&of_shared) -
                               reinterpret_cast<const unsigned char*>(&shared));
    }
    __device__ List& list_in(unsigned slot) const { return at<List>(lists + slot * list_bytes); }
    __device__ List& list_of(int step) const { return list_in(unsigned(step) % 2); }
    __device__ List& window_list() const { return list_in(2); }
    // What the neighbour above (side 0) or below sends in a step.
    __device__ unsigned edge_row(int side, int step) const {
        return edges + (unsigned(step) % 2 * 2 + unsigned(side)) * row_bytes;
    }
    // Of the tape, in floats.
    __device__ std::size_t state_row(int step, int row) const {
        return ((std::size_t(step) * args.grid.batch + band.sample) * args.grid.height + row) *
               band.width * Traits::channels;
    }

    // The warp's j-th column of 8 perceptions: 0 and 1 are the identity's, the others those of
    // Sobel x and y. Of three groups one has all of the identity, of two each has half.
    __device__ int p_column(int j) const {
        const int group = warp % Shared::p_groups;
        return Shared::p_groups == 2 ? 2 * j + group : Own::columns * group + j;
    }

    __device__ void prepare() {
        const TensorWeights& weights = args.model->tensor;
        if (thread < 4) shared.largest_weights[thread] = 0;
        const WeightScales scales = weight_scales(weights, shared.largest_weights, thread);
        if (thread == 0) {
            shared.w1_inverse = inverse_of_power(scales.w1);
            shared.w2_inverse = inverse_of_power(scales.w2);
        }
#pragma unroll
        for (int k = 0; k < OperandTraits::p_blocks; ++k) {
            make_a<parts>(own.w1[k], weights.w1_hidden[warp][k], scales.w1, lane);
        }
        make_a<parts>(own.w2, weights.w2_hidden[warp], scales.w2, lane);
#pragma unroll
        for (int k = 0; k < Traits::hidden / 16; ++k) {
#pragma unroll
            for (int j = 0; j < Own::columns; ++j) {
                make_b<parts>(own.w1_back[k][j], weights.w1_back[k][p_column(j)][lane], scales.w1);
            }
        }
        own.b1[0] = weights.b1[warp * 16 + lane / 4];
        own.b1[1] = weights.b1[warp * 16 + lane / 4 + 8];
        if (thread < int(sizeof shared.zero)) shared.zero[thread] = 0;
        // Rows of operands that are not listed are multiplied by zero, so they must be finite.
        for (int i = thread; i < int(sizeof shared.p / 16); i += Traits::threads) {
            reinterpret_cast<float4*>(shared.p)[i] = zero4();
        }
        for (int i = thread; i < band.width * Traits::quads; i += Traits::threads) {
            if (!band.has_above()) piece(x + i * 16) = zero4();
            if (!band.has_below())
                piece(x + unsigned(band.rows + 1) * row_bytes + i * 16) = zero4();
        }
        auto* const partial = reinterpret_cast<float*>(&args.partial[band.index]);
        for (int i = thread; i < partial_floats; i += Traits::threads) partial[i] = 0;
        if (thread == 0) {
            init_arrival_barrier(shared.states, 1);
            init_arrival_barrier(shared.lists, 1);
            for (ArrivalBarrier& barrier : shared.edges) init_arrival_barrier(barrier, 1);
            shared.largest_grad[0] = shared.largest_grad[1] = 0;
        }
        __syncthreads();    // all is there
        cluster_barrier();  // all blocks can be sent to
        wait_for_predecessor();
        steps = args.from_steps != nullptr ? args.from_steps[band.sample] : args.steps;
    }

    // One thread starts the copies of a step's lists and of x in the band and beside it.
    __device__ void fetch(int step) {
        const auto rows = unsigned(band.rows);
        const int height = args.grid.height;
        const std::size_t index = std::size_t(step) * args.grid.batch * band.bands + band.index;
        fence_async_proxy();
        expect_bytes(shared.lists, list_bytes);
        bulk_load(&list_of(step), args.lists + index * list_bytes, list_bytes, shared.lists);
        expect_bytes(shared.states, (rows + band.has_above() + band.has_below()) * row_bytes);
        if (band.has_above()) {
            const int above = wrapped_row(band.first_row - 1, height);
            bulk_load(&piece(x), args.states + state_row(step, above), row_bytes, shared.states);
        }
        bulk_load(&piece(x + row_bytes), args.states + state_row(step, band.first_row),
                  rows * row_bytes, shared.states);
        if (band.has_below()) {
            const int below = wrapped_row(band.first_row + band.rows, height);
            bulk_load(&piece(x + (rows + 1) * row_bytes), args.states + state_row(step, below),
                      row_bytes, shared.states);
        }
    }
    // Steps are fetched from the last to the first, each in a phase of the barriers.
    __device__ unsigned phase_of(int step) const { return unsigned(steps - 1 - step) % 2; }

    __device__ void expect_neighbours(int step) {
        const int columns = (band.has_above() + band.has_below()) * list_of(step).header.columns;
        expect_bytes(shared.edges[step % 2], unsigned(columns) * cell_bytes);
    }

    // The gradient of the state where the way back begins, and the operands of the step to it.
    __device__ void start() {
        const int last = steps - 1;
        if (thread == 0) fetch(last);
        const float* const added = step_gradient(steps);
        LossPartial loss = {};
        float largest = 0;
        const int row_pieces = band.width * Traits::quads;
#pragma unroll 1
        for (int i = thread; i < band.rows * row_pieces; i += Traits::threads) {
            const int row = i / row_pieces, column = (i - row * row_pieces) / Traits::quads;
            const Bits life =
                row_of<Bits>(args.life, args, steps, band.sample, band.first_row + row);
            float4 value = zero4();
            if (args.grad_last != nullptr) {
                value = load4(args.grad_last + state_row(0, band.first_row) + std::size_t(i) * 4);
            } else if (quad == 0) {
                const std::size_t cell = std::size_t(band.first_row + row) * band.width + column;
                add_loss(loss, value,
                         load4(args.states + state_row(steps, band.first_row) + std::size_t(i) * 4),
                         load4(args.target + cell * visible_channels), args.loss_scale);
            }
            if (added != nullptr) add_scaled(value, 1, load4(added + std::size_t(i) * 4));
            if ((life >> column & 1) == 0) value = zero4();
            piece(grad + i * 16) = value;
            largest = fmaxf(largest, largest_element(value));
        }
        note_largest(last, largest);
        if (args.loss != nullptr) sum_loss(loss);
        wait_arrivals(shared.lists, phase_of(last));
        __syncthreads();  // the gradient is there, and its largest element
        const List& list = list_of(last);
        const int count = min(list.header.count, Shared::rows);
        scale = GradientScale::fitted(list.header.magnitude, shared.largest_grad[last % 2]);
        put_rows(list, count, scale);
        wait_arrivals(shared.states, phase_of(last));
        perceive_rows(list, count, last % 2, scale);
        __syncthreads();  // the operands are there
    }

    // The caller's gradient of the state after `step` steps, in the band; null: there is none.
    __device__ const float* step_gradient(int step) const {
        if (args.step_gradients == nullptr) return nullptr;
        const float* const of_batch = args.step_gradients[step];
        return of_batch == nullptr ? nullptr : of_batch + state_row(0, band.first_row);
    }
    // Adds that of the state before the step, once the step's operands are made: then the rest of
    // the step treats it like what the step itself sends.
    __device__ void add_step_gradient(const List& list, int step) {
        const float* const added = step_gradient(step);
        if (added == nullptr) return;
        const int row_pieces = band.width * Traits::quads;
#pragma unroll 1
        for (int i = thread; i < band.rows * row_pieces; i += Traits::threads) {
            const int row = i / row_pieces, column = (i - row * row_pieces) / Traits::quads;
            const std::uint32_t lives = list.band_rows[row].life_before[unsigned(column) / 32];
            if ((lives >> unsigned(column) % 32 & 1U) == 0) continue;
            add_scaled(piece(grad + i * 16), 1, load4(added + std::size_t(i) * 4));
        }
    }

    __device__ void sum_loss(const LossPartial& of_thread) {
        const LossPartial sum = sum_of_warp(of_thread);
        if (lane == 0) shared.losses[warp] = sum;
        __syncthreads();  // all warps have theirs
        if (thread != 0) return;
        LossPartial all = {};
        for (const LossPartial& part : shared.losses) {
            all.squares += part.squares;
            all.living += part.living;
        }
        args.loss[band.index] = all;
    }

    __device__ void note_largest(int step, float of_thread) {
        const float largest = largest_of_warp(of_thread);
        if (lane == 0) atomicMax(&shared.largest_grad[step % 2], __float_as_uint(largest));
    }

    __device__ unsigned grad_u_row(int row) const {
        return address_of(shared.grad_u) + unsigned(row * OperandTraits::grad_u_pitch + quad * 8);
    }
    // The operand of a listed cell's four channels.
    __device__ void put_operand(int row, float4 grad_z, float g) {
        std::uint32_t low[parts], high[parts];
        make_parts<parts>(low, grad_z.x * g, grad_z.y * g);
        make_parts<parts>(high, grad_z.z * g, grad_z.w * g);
#pragma unroll
        for (int part = 0; part < parts; ++part) {
            at<uint2>(grad_u_row(row) + part * Shared::grad_u_bytes) =
                make_uint2(low[part], high[part]);
        }
    }
    __device__ void put_row(int row, float4 grad_z, float g) {
        put_operand(row, grad_z, g);
        add_scaled(b2, 1, grad_z);
    }
    // Zeros up to a multiple of 16 rows.
    __device__ void pad_rows(int count) {
        const int row = count + thread / Traits::quads;
        if (row >= (count + 15) / 16 * 16) return;
#pragma unroll
        for (int part = 0; part < parts; ++part) {
            at<uint2>(grad_u_row(row) + part * Shared::grad_u_bytes) = make_uint2(0, 0);
        }
    }
    // Makes the operands again with another power of two: a neighbour's gradient, or the step, has
    // made the gradient much larger or smaller than it was.
    __device__ void fit_scale(const List& list, int count, std::uint32_t largest) {
        const GradientScale fitted = GradientScale::fitted(scale.magnitude, largest);
        if (fitted.sums != scale.sums) write_sums();
        scale = fitted;
        const float g = power_of_two(scale.of_grad());
#pragma unroll 1
        for (int i = thread / Traits::quads; i < count; i += Traits::threads / Traits::quads) {
            put_operand(i, grad_of(list.cells[i]), g);
        }
        __syncthreads();  // the operands are there
    }
    __device__ float4 grad_of(std::uint32_t listed) const {
        return piece(grad + offset_of_listed(listed) + quad_bytes());
    }
    // The operands of a list's cells, from the gradient as it is.
    __device__ void put_rows(const List& list, int count, const GradientScale& of_step) {
        const float g = power_of_two(of_step.of_grad());
#pragma unroll 1
        for (int i = thread / Traits::quads; i < count; i += Traits::threads / Traits::quads) {
            put_row(i, grad_of(list.cells[i]), g);
        }
        pad_rows(count);
    }

    // Perception of a list's cells. The last warps come first: the others have more to do before.
    __device__ void perceive_rows(const List& list, int count, int buffer,
                                  const GradientScale& of_step) {
        constexpr int at_once = Traits::threads / Traits::quads;
        const float factor = operand_scale(of_step.magnitude) * shared.w1_inverse;
#pragma unroll 1
        for (int i = at_once - 1 - thread / Traits::quads; i < count; i += at_once) {
            const std::uint32_t listed = list.cells[i];
            const unsigned middle = x + row_bytes + offset_of_listed(listed) + quad_bytes();
            const Perception p = perceive(listed, middle - row_bytes, middle, middle + row_bytes,
                                          zero + quad_bytes(), band, args.rule, factor);
            store_perception<parts>(
                address_of(shared.p[buffer]) + unsigned(i * OperandTraits::p_pitch),
                Shared::p_bytes, quad, p);
        }
    }
    __device__ unsigned quad_bytes() const { return unsigned(quad) * 16; }

    // Makes the operands of another window of the step's listed cells.
    __device__ void open_window(int step, int from, int here) {
        if (warp == 0) {
            const int row = band.first_row + (lane < band.rows ? lane : 0);
            const Bits listed =
                lane < band.rows ? listed_in_row<Bits>(args, step, band.sample, row) : Bits{0};
            write_window(window_list(), band, args.rule.circular, listed,
                         life_before<Bits>(args, step, band.sample, row), from, lane);
        }
        __syncthreads();  // the window is listed
        put_rows(window_list(), here, scale);
        perceive_rows(window_list(), here, step % 2, scale);
        __syncthreads();  // its operands are there
    }

    // a, grad_h and grad_a of all rows, and W2's gradient.
    __device__ void multiply_rows(int count, int buffer) {
        TensorSums step = {};
        const float f = operand_scale(scale.magnitude);
        const float bias[2] = {own.b1[0] * f, own.b1[1] * f};
#pragma unroll 1
        for (int first = 0; first < count; first += 32) {
            if (first + 16 < count) {
                multiply_tiles<2>(step, first, buffer, bias);
            } else {
                multiply_tiles<1>(step, first, buffer, bias);
            }
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            sums.b1[j] += step.b1[j] * f;
#pragma unroll
            for (int i = 0; i < 4; ++i) sums.w2[j].sums[i] += step.w2[j].sums[i];
        }
    }

    // Of so many times 16 rows.
    template <int tiles>
    __device__ void multiply_tiles(TensorSums& step, int first, int buffer,
                                   const float (&bias)[2]) {
        const auto from = unsigned(first);
        const unsigned p_rows = address_of(shared.p[buffer]) + from * OperandTraits::p_pitch +
                                rows_of_halves(lane, OperandTraits::p_pitch);
        const unsigned u_rows = address_of(shared.grad_u) + from * OperandTraits::grad_u_pitch +
                                rows_of_halves(lane, OperandTraits::grad_u_pitch);
        const unsigned a_rows = grad_a_row(first);
        Accumulator a[tiles][2], grad_h[tiles][2];
        std::uint32_t b[2][parts][2];
#pragma unroll
        for (int tile = 0; tile < tiles; ++tile) {
            load_b<parts>(b, row_at(u_rows + tile * 16 * OperandTraits::grad_u_pitch),
                          Shared::grad_u_bytes);
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                a[tile][j] = {{bias[0], bias[0], bias[1], bias[1]}};
                grad_h[tile][j] = {};
                multiply<parts>(grad_h[tile][j], own.w2, b[j]);
            }
        }
#pragma unroll
        for (int k = 0; k < OperandTraits::p_blocks; ++k) {
#pragma unroll
            for (int tile = 0; tile < tiles; ++tile) {
                load_b<parts>(b, row_at(p_rows + tile * 16 * OperandTraits::p_pitch + k * 32),
                              Shared::p_bytes);
#pragma unroll
                for (int j = 0; j < 2; ++j) multiply<parts>(a[tile][j], own.w1[k], b[j]);
            }
        }
        std::uint32_t h[tiles][parts][4];
#pragma unroll
        for (int tile = 0; tile < tiles; ++tile) {
            std::uint32_t grad_a[parts][4];
            make_hidden<parts>(h[tile], grad_a, step.b1, a[tile], grad_h[tile]);
#pragma unroll
            for (int part = 0; part < parts; ++part) {
                store_matrices_transposed(
                    &at<unsigned char>(a_rows + part * Shared::grad_a_bytes +
                                       tile * 16 * OperandTraits::grad_a_pitch),
                    grad_a[part]);
            }
        }
#pragma unroll
        for (int tile = 0; tile < tiles; ++tile) {
#pragma unroll
            for (int part = 0; part < parts; ++part) {
                std::uint32_t loaded[4];
                load_matrices_transposed(
                    loaded, row_at(address_of(shared.grad_u) + part * Shared::grad_u_bytes +
                                   (from + tile * 16) * OperandTraits::grad_u_pitch +
                                   halves_of_rows(lane, OperandTraits::grad_u_pitch)));
                split_columns<parts>(b, loaded, part);
            }
#pragma unroll
            for (int j = 0; j < 2; ++j) multiply<parts>(step.w2[j], h[tile], b[j]);
        }
    }

    // Where a lane begins to write grad_a of 16 rows and the warp's hidden units, which it has as
    // [hidden, rows].
    __device__ unsigned grad_a_row(int first) const {
        return address_of(shared.grad_a) + unsigned(first) * OperandTraits::grad_a_pitch +
               rows_of_halves(lane, OperandTraits::grad_a_pitch) + unsigned(warp) * 32;
    }

    // grad_p of the listed cells: the identity's part is added to the gradient.
    __device__ void compute_grad_p(const List& list, int count) {
        constexpr int shares = Traits::warps / Shared::p_groups;
        const int share = warp / Shared::p_groups;
        if (share >= shares) return;
        const float factor = args.rule.step_size * shared.w1_inverse * shared.w2_inverse *
                             power_of_two(-scale.of_grad());
        const bool odd = lane % 2 != 0;  // pairs of lanes exchange halves
#pragma unroll 1
        for (int first = share * 16; first < count; first += shares * 16) {
            // Chains of products that do not wait for each other: for each of the three products
            // of parts, or for every other block of hidden units.
            constexpr int chains = parts == 2 ? 3 : 2;
            Accumulator grad_p[chains][Own::columns] = {};
            const unsigned from = address_of(shared.grad_a) +
                                  unsigned(first) * OperandTraits::grad_a_pitch +
                                  halves_of_rows(lane, OperandTraits::grad_a_pitch);
#pragma unroll
            for (int k = 0; k < Traits::hidden / 16; ++k) {
                std::uint32_t grad_a[parts][4];
                load_a<parts>(grad_a, row_at(from + k * 32), Shared::grad_a_bytes);
#pragma unroll
                for (int j = 0; j < Own::columns; ++j) {
                    if constexpr (parts == 2) {
                        mma_fp16(grad_p[0][j], grad_a[0], own.w1_back[k][j][0]);
                        mma_fp16(grad_p[1][j], grad_a[1], own.w1_back[k][j][0]);
                        mma_fp16(grad_p[2][j], grad_a[0], own.w1_back[k][j][1]);
                    } else {
                        mma_fp16(grad_p[k % 2][j], grad_a[0], own.w1_back[k][j][0]);
                    }
                }
            }
            const int row = first + lane / 4 + (odd ? 8 : 0);
            const unsigned cell = row < count ? offset_of_listed(list.cells[row]) : 0;
#pragma unroll
            for (int j = 0; j < Own::columns; ++j) {
                float mine[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    mine[i] = grad_p[1][j].sums[i];
                    if constexpr (chains == 3) mine[i] += grad_p[2][j].sums[i];
                    mine[i] += grad_p[0][j].sums[i];
                }
                const float first_other = __shfl_xor_sync(whole_warp, odd ? mine[0] : mine[2], 1);
                const float second_other = __shfl_xor_sync(whole_warp, odd ? mine[1] : mine[3], 1);
                const float4 four = odd ? make_float4(first_other, second_other, mine[2], mine[3])
                                        : make_float4(mine[0], mine[1], first_other, second_other);
                if (row >= count) continue;
                const int column = p_column(j);
                const auto place = unsigned(column * 2 + lane % 4 / 2);  // 16 bytes each
                if (Shared::p_groups == 2 ? j == 0 : column < 2) {
                    float4& to = piece(grad + cell + place * 16);
                    add_scaled(to, factor, four);
                } else {
                    piece(address_of(shared.grad_p) + grad_p_place(unsigned(row), place - 4)) =
                        scaled(four, sobel_corner(args.rule) * factor);
                }
            }
        }
    }

    // A column's bits of a row's listed cells: those up to the column itself.
    struct ColumnMask {
        std::uint32_t words_[words];
    };
    __device__ static ColumnMask mask_of(int column) {
        ColumnMask mask;
#pragma unroll
        for (int word = 0; word < words; ++word) {
            const std::uint32_t until = (2U << column % 32) - 1;  // all for 31
            mask.words_[word] = word < column / 32 ? ~0U : word == column / 32 ? until : 0U;
        }
        mask.words_[0] &= ~1U;
        return mask;
    }

    // A row's bits as registers.
    struct RowOfBits {
        std::uint32_t words_[words + 1];
    };
    __device__ static RowOfBits load_row(const ListRow& row) {
        const uint4 all = *reinterpret_cast<const uint4*>(&row);
        RowOfBits bits;
        bits.words_[0] = all.x, bits.words_[1] = all.y, bits.words_[2] = all.z;
        if constexpr (words == 4) bits.words_[3] = all.w, bits.words_[4] = row.last_word;
        return bits;
    }

    // Which cells at and beside a column of a row are listed: bits 0, 1, 2 for left, here, right;
    // and the place in the list of the one here, if there is one.
    struct Neighbours {
        std::uint32_t listed;
        unsigned place;
    };
    __device__ static Neighbours neighbours_of(const RowOfBits& row, int column,
                                               const ColumnMask& mask) {
        const auto& bits = row.words_;
        std::uint32_t low = bits[0], high = bits[1];
#pragma unroll
        for (int word = 1; word < words; ++word) {
            low = column >= word * 32 ? bits[word] : low;
            high = column >= word * 32 ? bits[word + 1] : high;
        }
        Neighbours result = {__funnelshift_r(low, high, unsigned(column) % 32) & 7U,
                             bits[words] >> ListRow::first_shift & 255U};
#pragma unroll
        for (int word = 0; word < words; ++word) {
            result.place += unsigned(__popc(bits[word] & mask.words_[word]));
        }
        return result;
    }

    // What a row's listed cells send to a column: Sobel x and y, each to be multiplied by weights
    // that depend on the distance of the rows.
    struct Line {
        float4 across, along;
    };
    __device__ Line line_of(const RowOfBits& row, int column, const ColumnMask& mask) const {
        const Neighbours here = neighbours_of(row, column, mask);
        const std::uint32_t ends = row.words_[words];
        const unsigned left = column == 0 ? ends >> ListRow::last_shift & 255U : here.place - 1;
        const unsigned right = column == band.width - 1 ? ends >> ListRow::first_shift & 255U
                                                        : here.place + (here.listed >> 1 & 1U);
        const unsigned rows = address_of(shared.grad_p);
        const auto q = unsigned(quad);
        unsigned of_left = rows + grad_p_place(left, q);
        unsigned of_here = rows + grad_p_place(here.place, q);
        unsigned of_right = rows + grad_p_place(right, q);
        if ((here.listed & 1U) == 0) of_left = zero;
        if ((here.listed & 2U) == 0) of_here = zero;
        if ((here.listed & 4U) == 0) of_right = zero;
        constexpr unsigned y_bits = 64;  // between the pieces for Sobel x and y
        const float4 x_left = piece(of_left), x_right = piece(of_right);
        const float4 y_left = piece(of_left ^ y_bits), y_right = piece(of_right ^ y_bits);
        float4 along = sum_of(y_left, y_right);
        add_scaled(along, 2, piece(of_here ^ y_bits));
        return {difference(x_left, x_right), along};
    }

    // Parts 3 and 4.
    __device__ void gather(int step, int from, int here, bool last) {
        const List& list = list_of(step);
        const List& cells = from > 0 ? window_list() : list;
        const int first_column = list.header.first_column;
        const int pieces = list.header.columns * Traits::quads;
        next_scale = scale;
        if (last && step > 0) {
            wait_arrivals(shared.lists, phase_of(step - 1));
            next_scale =
                scale.next(list_of(step - 1).header.magnitude, shared.largest_grad[step % 2]);
        }
        const float g = power_of_two(next_scale.of_grad());
        float largest = 0;
#pragma unroll 1
        for (int i = thread; i < 2 * pieces; i += Traits::threads) {
            const bool upwards = i >= pieces;
            const int column = first_column + (upwards ? i - pieces : i) / Traits::quads;
            gather_column(cells, step, column, upwards, from, last, g, largest);
        }
        if (last && step > 0) {
            wait_arrivals(shared.states, phase_of(step - 1));
            const List& before = list_of(step - 1);
            perceive_rows(before, min(before.header.count, Shared::rows), (step - 1) % 2,
                          next_scale);
        }
        add_w1(here, step % 2);
        if (!last) return;
        wait_arrivals(shared.edges[step % 2], unsigned(steps - 1 - step) / 2 % 2);
#pragma unroll 1
        for (int i = thread; i < 2 * pieces; i += Traits::threads) {
            const bool upwards = i >= pieces;
            const int column = first_column + (upwards ? i - pieces : i) / Traits::quads;
            const bool sent = upwards ? band.has_below() : band.has_above();
            const float4 edge =
                sent ? piece(edge_row(upwards ? 1 : 0, step) + offset_of(column)) : zero4();
            settle(load_settled(step, upwards ? band.rows - 1 : 0, column),
                   load_row(row_before(step, upwards ? band.rows - 1 : 0)), step, column,
                   mask_of(column), edge, g, largest);
        }
        if (step == 0) return;
        note_largest(step - 1, largest);
        pad_rows(min(list_of(step - 1).header.count, Shared::rows));
    }

    // Half of a column of the band: from its first row downwards, or from its last row upwards.
    // What it sends to the row beyond the band comes first and is sent; the edge row waits for what
    // the neighbour sends.
    __device__ void gather_column(const List& cells, int step, int column, bool upwards, int from,
                                  bool last, float g, float& largest) {
        const ColumnMask mask = mask_of(column);
        const int half = (band.rows + 1) / 2;
        const int towards = upwards ? -1 : 1;
        const int rows = upwards ? band.rows - half + 1 : half + 1;
        const float sign = upwards ? -1.0F : 1.0F;
        const bool whole = from == 0 && last;  // one window
        int row = upwards ? band.rows - 1 : 0;
        RowOfBits bits = load_row(cells.band_rows[row]);
        float4 before = zero4(), here = zero4();  // sums of the row before this one, and of this
        const auto add_line = [&] {
            const Line line = line_of(bits, column, mask);
            row += towards;
            bits = load_row(cells.band_rows[row]);  // the next, or one that is not used
            float4 sum = sum_of(before, line.across);
            add_scaled(sum, -sign, line.along);
            before = here;
            add_scaled(before, 2, line.across);
            here = line.across;
            add_scaled(here, sign, line.along);
            return sum;  // of the row before
        };
        float4 sum = add_line();
        if (!whole) sum = add_window(sum, row - 2 * towards, column, from, last);
        if (last && (upwards ? band.has_below() : band.has_above())) {
            store_async(&at<float>(edge_row(upwards ? 0 : 1, step) + offset_of(column)), sum,
                        shared.edges[step % 2], upwards ? band.below : band.above);
        }
        sum = add_line();
        if (!whole) sum = add_window(sum, row - 2 * towards, column, from, last);
        if (last) {
            float4& edge = piece(grad_row(row - 2 * towards) + offset_of(column));
            edge = sum_of(edge, sum);
        }
#pragma unroll 1
        for (int i = 2; i < rows; ++i) {
            const int settled = row - towards;
            const Settled cell = load_settled(step, settled, column);
            // Loaded early where there are registers for it.
            RowOfBits listed_before;
            if constexpr (words == 2) listed_before = load_row(row_before(step, settled));
            sum = add_line();
            if constexpr (words == 4) listed_before = load_row(row_before(step, settled));
            if (!whole) sum = add_window(sum, settled, column, from, last);
            if (last) settle(cell, listed_before, step, column, mask, sum, g, largest);
        }
    }
    __device__ unsigned grad_row(int row) const { return grad + unsigned(row) * row_bytes; }
    __device__ unsigned offset_of(int column) const {
        return unsigned(column) * cell_bytes + quad_bytes();
    }

    // Adds what the windows before have left in global memory; leaves the sum there for the next
    // one.
    __device__ float4 add_window(float4 sum, int row, int column, int from, bool last) const {
        const std::size_t cell =
            (std::size_t(band.index) * (args.cut.most_rows() + 2) + row + 1) * band.width + column;
        float* const waiting = args.spill + cell * Traits::channels + quad * 4;
        if (from > 0) sum = sum_of(sum, load4(waiting));
        if (!last) store4(waiting, sum);
        return sum;
    }

    // What the gradient of a cell before the step is made of, loaded early.
    struct Settled {
        unsigned address;
        float4 grad;
        std::uint32_t life_before;  // of 32 columns
    };
    __device__ const ListRow& row_before(int step, int row) const {
        return list_in(unsigned(step + 1) % 2).band_rows[row];
    }
    __device__ Settled load_settled(int step, int row, int column) const {
        const unsigned address = grad_row(row) + offset_of(column);
        Settled result;
        result.address = address;
        result.grad = piece(address);
        result.life_before = list_of(step).band_rows[row].life_before[unsigned(column) / 32];
        return result;
    }
    // The gradient of a cell before the step, and its operand if it is listed there.
    __device__ void settle(const Settled& cell, const RowOfBits& listed_before, int step,
                           int column, const ColumnMask& mask, float4 sum, float g,
                           float& largest) {
        const bool lives = (cell.life_before >> unsigned(column) % 32 & 1U) != 0;
        const float4 value = lives ? sum_of(cell.grad, sum) : zero4();
        piece(cell.address) = value;
        largest = fmaxf(largest, largest_element(value));
        if (step == 0) return;
        const Neighbours before = neighbours_of(listed_before, column, mask);
        if ((before.listed & 2U) != 0) put_row(int(before.place), value, g);
    }

    // The listed cells' part of W1's gradient.
    __device__ void add_w1(int count, int buffer) {
        if (count == 0) return;
        Accumulator step[Traits::perception / 8] = {};
        unsigned a_rows = grad_a_row(0);
        unsigned p_rows =
            address_of(shared.p[buffer]) + halves_of_rows(lane, OperandTraits::p_pitch);
#pragma unroll 1
        for (int first = 0; first < count; first += 16, a_rows += 16 * OperandTraits::grad_a_pitch,
                 p_rows += 16 * OperandTraits::p_pitch) {
            add_w1_rows<parts>(step, &at<unsigned char>(a_rows), Shared::grad_a_bytes,
                               &at<unsigned char>(p_rows), Shared::p_bytes);
        }
#pragma unroll
        for (int j = 0; j < Traits::perception / 8; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) sums.w1[j].sums[i] += step[j].sums[i];
        }
    }

    // Adds the sums to the band's partial gradients and begins anew. Every number has one lane.
    __device__ void write_sums() {
        PartialGradients& to = args.partial[band.index];
        const float inverse = power_of_two(-scale.sums) * args.rule.step_size;
        const float of_w1 = inverse * shared.w2_inverse * inverse_of_power(shared.w1_inverse);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int hidden = warp * 16 + c_row(lane, i);
#pragma unroll
            for (int j = 0; j < Traits::perception / 8; ++j) {
                to.w1[(j * 8 + c_column(lane, i)) * Traits::hidden + hidden] +=
                    sums.w1[j].sums[i] * of_w1;
            }
#pragma unroll
            for (int j = 0; j < Traits::channels / 8; ++j) {
                to.w2[(j * 8 + c_column(lane, i)) * Traits::hidden + hidden] +=
                    sums.w2[j].sums[i] * inverse;
            }
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float sum = sums.b1[i];
            sum += __shfl_xor_sync(whole_warp, sum, 1);
            sum += __shfl_xor_sync(whole_warp, sum, 2);
            if (lane % 4 == 0) {
                to.b1[warp * 16 + lane / 4 + i * 8] += sum * inverse * shared.w2_inverse;
            }
        }
        sums = {};
    }

    __device__ void finish() {
        write_sums();
        if (args.grad_first != nullptr) {
            float* const to = args.grad_first + state_row(0, band.first_row);
            for (int i = thread; i < band.rows * band.width * Traits::quads; i += Traits::threads) {
                store4(to + std::size_t(i) * 4, piece(grad + i * 16));
            }
        }
        for (int distance = Traits::quads; distance < Traits::warp_size; distance *= 2) {
            b2 = sum_of_halves(b2, b2, distance);
        }
        if (lane < Traits::quads) store4(shared.sums[warp] + quad * 4, b2);
        __syncthreads();  // all warps have theirs
        if (thread >= Traits::channels) return;
        float sum = 0;
        for (const auto& of_warp : shared.sums) sum += of_warp[thread];
        args.partial[band.index].b2[thread] = sum * args.rule.step_size;
    }

    const BandRollout& args;
    Shared& shared;
    const Band band;
    const int thread, lane, warp, quad;
    const unsigned zero, row_bytes, list_bytes;
    const unsigned lists, edges, grad, x;  // addresses in shared memory
    Own own;
    TensorSums sums = {};
    float4 b2 = {0, 0, 0, 0};
    GradientScale scale, next_scale;  // of this step and the one before
    int steps = 0;                    // that the sample goes back
};

template <int parts, int words>
__global__ void __launch_bounds__(Traits::threads, 1)
    band_backward_kernel(const __grid_constant__ BandRollout args) {
    using Shared = BackwardShared<parts, words>;
    auto& shared = shared_storage<Shared, most_band_shared_bytes>();
    Backward<parts, words>(args, shared, int(threadIdx.x)).run();
}

}  // namespace

bool band_backward_fits(const BatchShape& grid, const BandCut& cut, Precision precision) {
    return with_band_kernel(precision, grid.width, [&](auto parts, auto words) {
        return shared_bytes<parts, words>(grid, cut) <= most_band_shared_bytes;
    });
}

void launch_band_backward(const BandRollout& rollout, Precision precision, cudaStream_t stream) {
    with_band_kernel(precision, rollout.grid.width, [&](auto parts, auto words) {
        launch("band_backward_kernel", band_backward_kernel<parts, words>,
               {.blocks = rollout.grid.batch * rollout.cut.bands,
                .threads = Traits::threads,
                .shared_bytes = shared_bytes<parts, words>(rollout.grid, rollout.cut),
                .dependent = true,
                .cluster = rollout.cut.bands},
               stream, rollout);
    });
}

}  // namespace nca::cuda
