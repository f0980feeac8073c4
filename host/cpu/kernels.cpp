// SPDX-License-Identifier: MIT
// Every matrix product here is made of the same register tile. A tile is M rows by NV vectors of
// the result. It stays in registers while a loop runs over the summed index: in each round an
// element of the left operand is broadcast and multiplied by a vector of the right operand. Each
// number of the result is a sum of fused multiply-adds in the order of that index. So it does not
// depend on the width of the vectors, on the tile that its row is in, or on the number of rows.
#include <algorithm>
#include <chrono>

// Left out: scalable vectors, which cannot be kept in arrays, and x86 levels that no processor in
// use needs.
#define HWY_DISABLED_TARGETS \
    (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV | HWY_SSSE3 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "host/cpu/kernels.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "host/cpu/kernels.hpp"

HWY_BEFORE_NAMESPACE();
namespace nca::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Tag = hn::CappedTag<float, channels>;
using Vec = hn::Vec<Tag>;
constexpr int lanes = int(HWY_LANES(float)) < channels ? int(HWY_LANES(float)) : channels;
constexpr int prefetch_distance = 12;  // cells

// How many vectors wide a tile is. The number divides the width, and is so small that the tile's
// sums stay in registers, of which AVX-512 has 32 and the others 16.
constexpr int panel_vectors(int width) {
    int vectors = lanes == 16 ? 4 : 2;
    while (width / lanes % vectors != 0) --vectors;
    return vectors;
}

enum class Start { zero, bias, sum };     // what the sums begin with: 0, bias[n], c[m, n]
enum class Finish { store, relu, gate };  // what is written: s, max(s, 0), gate[m, n] > 0 ? s : 0

// One tile: c[m, n] = finish(start + sum over k of a(m, k) b(k, n)), where
// a(m, k) = a[m * a_row + k * a_step], b(k, n) = b[k * b_step + n], c(m, n) = c[m * b_step + n].
// extra is the bias [n], or the gate in the layout of c.
template <int M, int NV, int a_row, int a_step, int b_step, Start start, Finish finish>
HWY_INLINE void tile(float* HWY_RESTRICT c, const float* HWY_RESTRICT a,
                     const float* HWY_RESTRICT b, const float* HWY_RESTRICT extra, int depth) {
    const Tag d;
    Vec sum[M][NV];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) {
            if constexpr (start == Start::zero) sum[m][v] = hn::Zero(d);
            if constexpr (start == Start::bias) sum[m][v] = hn::Load(d, extra + v * lanes);
            if constexpr (start == Start::sum) sum[m][v] = hn::Load(d, c + m * b_step + v * lanes);
        }
    }
    for (int k = 0; k < depth; ++k) {
        Vec right[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) right[v] = hn::Load(d, b + v * lanes);
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) {
            const Vec left = hn::Set(d, a[m * a_row]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) sum[m][v] = hn::MulAdd(left, right[v], sum[m][v]);
        }
        a += a_step;
        b += b_step;
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) {
            Vec result = sum[m][v];
            if constexpr (finish == Finish::relu) result = hn::Max(result, hn::Zero(d));
            if constexpr (finish == Finish::gate) {
                const Vec gate = hn::Load(d, extra + m * b_step + v * lanes);
                result = hn::IfThenElseZero(hn::Gt(gate, hn::Zero(d)), result);
            }
            hn::Store(result, d, c + m * b_step + v * lanes);
        }
    }
}

// A whole product, tile by tile; rows is a multiple of M. width is the length of a row of b and c.
template <int M, int width, int a_row, int a_step, Start start, Finish finish>
HWY_INLINE void product(float* c, const float* a, const float* b, const float* extra, int rows,
                        int depth) {
    constexpr int NV = panel_vectors(width);
    for (int column = 0; column < width; column += NV * lanes) {
        for (int row = 0; row < rows; row += M) {
            const int extra_row = finish == Finish::gate ? row * width : 0;
            tile<M, NV, a_row, a_step, width, start, finish>(
                c + row * width + column, a + row * a_row, b + column,
                extra == nullptr ? nullptr : extra + extra_row + column, depth);
        }
    }
}

// How many rows a tile of grad_W2 has. It divides hidden, which row_tile does not.
constexpr int hidden_tile = lanes == 16 ? 8 : 4;

void hidden_layer(float* h, const PackedWeights& weights, const float* p, int rows) {
    product<row_tile, hidden, perception, 1, Start::bias, Finish::relu>(
        h, p, weights.w1_t, weights.b1, rows, perception);
}

void mlp_forward(float* u, float* h, const PackedWeights& weights, const float* p, int rows) {
    hidden_layer(h, weights, p, rows);
    product<row_tile, channels, hidden, 1, Start::bias, Finish::store>(u, h, weights.w2_t,
                                                                       weights.b2, rows, hidden);
}

// sum[n] += sum over the rows of a[r, n]
template <int width>
HWY_INLINE void add_rows(float* sum, const float* a, int rows) {
    const Tag d;
    for (int n = 0; n < width; n += lanes) {
        Vec total = hn::Load(d, sum + n);
        for (int r = 0; r < rows; ++r) total = hn::Add(total, hn::Load(d, a + r * width + n));
        hn::Store(total, d, sum + n);
    }
}

void mlp_backward(float* grad_p, PackedGradients& gradients, float* h, float* grad_h,
                  const PackedWeights& weights, const float* p, const float* grad_u, int rows) {
    hidden_layer(h, weights, p, rows);
    product<hidden_tile, channels, 1, hidden, Start::sum, Finish::store>(gradients.w2_t, h, grad_u,
                                                                         nullptr, hidden, rows);
    add_rows<channels>(gradients.b2, grad_u, rows);
    product<row_tile, hidden, channels, 1, Start::zero, Finish::gate>(grad_h, grad_u, weights.w2, h,
                                                                      rows, channels);
    product<row_tile, hidden, 1, perception, Start::sum, Finish::store>(gradients.w1_t, p, grad_h,
                                                                        nullptr, perception, rows);
    add_rows<hidden>(gradients.b1, grad_h, rows);
    product<row_tile, perception, hidden, 1, Start::zero, Finish::store>(grad_p, grad_h, weights.w1,
                                                                         nullptr, rows, hidden);
}

// The offset of a cell in its grid, in floats.
HWY_INLINE std::ptrdiff_t offset_of(Place cell, int width) {
    return (std::ptrdiff_t(cell.y) * width + cell.x) * channels;
}

alignas(64) const float zero_cell[channels] = {};

// The cells of a 3x3 neighbourhood, row by row; zero_cell for those beyond a zero edge.
struct Neighbourhood {
    const float* cell[9];
};

HWY_INLINE Neighbourhood neighbourhood(const float* grid, Edges edges, int height, int width,
                                       Place at) {
    Neighbourhood result;
    const bool inside = at.y > 0 && at.y < height - 1 && at.x > 0 && at.x < width - 1;
    const std::ptrdiff_t row = std::ptrdiff_t(width) * channels;
    const float* centre = grid + at.y * row + std::ptrdiff_t(at.x) * channels;
    for (int dy = -1; dy <= 1; ++dy) {
        for (int dx = -1; dx <= 1; ++dx) {
            const float* cell = centre + dy * row + dx * channels;
            if (!inside) {
                int y = at.y + dy;
                int x = at.x + dx;
                if (edges == Edges::circular) {
                    y = y < 0 ? height - 1 : (y == height ? 0 : y);
                    x = x < 0 ? width - 1 : (x == width ? 0 : x);
                }
                const bool beyond = y < 0 || y == height || x < 0 || x == width;
                cell = beyond ? zero_cell : grid + y * row + std::ptrdiff_t(x) * channels;
            }
            result.cell[(dy + 1) * 3 + dx + 1] = cell;
        }
    }
    return result;
}

void perceive(float* p, const Stencil& stencil, const float* grid, int height, int width,
              const Place* cells, int count) {
    const Tag d;
    const std::ptrdiff_t row = std::ptrdiff_t(width) * channels;
    for (int r = 0; r < count; ++r, p += perception) {
        // In backward the states come from main memory. Prefetch the row below a later cell: the
        // rows above it have been read already.
        const Place ahead =
            cells[r + prefetch_distance < count ? r + prefetch_distance : count - 1];
        hwy::Prefetch(grid + (ahead.y + 1 < height ? ahead.y + 1 : ahead.y) * row +
                      std::ptrdiff_t(ahead.x) * channels);
        const Neighbourhood near = neighbourhood(grid, stencil.edges, height, width, cells[r]);
        for (int v = 0; v < channels; v += lanes) {
            Vec sum[filter_count] = {hn::Zero(d), hn::Zero(d), hn::Zero(d)};
#pragma GCC unroll 9
            for (int i = 0; i < 9; ++i) {
                const Vec x = hn::LoadU(d, near.cell[i] + v);
#pragma GCC unroll 3
                for (int k = 0; k < filter_count; ++k) {
                    sum[k] = hn::MulAdd(hn::Set(d, stencil.filters[k][i]), x, sum[k]);
                }
            }
#pragma GCC unroll 3
            for (int k = 0; k < filter_count; ++k) hn::Store(sum[k], d, p + k * channels + v);
        }
    }
}

void perceive_adjoint(float* grad_state, const Stencil& stencil, const float* grad_p, int height,
                      int width, int top, int bottom, const Place* cells, int count) {
    const Tag d;
    for (int r = 0; r < count; ++r, grad_p += perception) {
        const Place at = cells[r];
#pragma GCC unroll 3
        for (int dy = -1; dy <= 1; ++dy) {
            int y = at.y + dy;
            if (stencil.edges == Edges::circular) y = y < 0 ? height - 1 : (y == height ? 0 : y);
            if (y < top || y >= bottom) continue;
#pragma GCC unroll 3
            for (int dx = -1; dx <= 1; ++dx) {
                int x = at.x + dx;
                if (stencil.edges == Edges::circular) x = x < 0 ? width - 1 : (x == width ? 0 : x);
                if (x < 0 || x >= width) continue;
                float* target = grad_state + offset_of({y, x}, width);
                for (int v = 0; v < channels; v += lanes) {
                    Vec sum = hn::LoadU(d, target + v);
#pragma GCC unroll 3
                    for (int k = 0; k < filter_count; ++k) {
                        const Vec grad = hn::Load(d, grad_p + k * channels + v);
                        const float coefficient = stencil.filters[k][(dy + 1) * 3 + dx + 1];
                        sum = hn::MulAdd(hn::Set(d, coefficient), grad, sum);
                    }
                    hn::StoreU(sum, d, target + v);
                }
            }
        }
    }
}

void apply_update(float* z, const float* x, const float* u, float step_size, int width,
                  const Place* cells, int count) {
    const Tag d;
    const Vec step = hn::Set(d, step_size);
    for (int r = 0; r < count; ++r) {
        const std::ptrdiff_t cell = offset_of(cells[r], width);
        for (int c = 0; c < channels; c += lanes) {
            const Vec update = hn::Load(d, u + r * channels + c);
            hn::StoreU(hn::MulAdd(step, update, hn::LoadU(d, x + cell + c)), d, z + cell + c);
        }
    }
}

void gather_gradient(float* grad_u, const float* grad_state, float step_size, int width,
                     const Place* cells, int count) {
    const Tag d;
    const Vec step = hn::Set(d, step_size);
    for (int r = 0; r < count; ++r) {
        const std::ptrdiff_t cell = offset_of(cells[r], width);
        for (int c = 0; c < channels; c += lanes) {
            hn::Store(hn::Mul(step, hn::LoadU(d, grad_state + cell + c)), d,
                      grad_u + r * channels + c);
        }
    }
}

// Twelve independent sums hide the latency of a multiply-add on every x86 and ARM core in use.
double measure_peak(double milliseconds) {
    using Clock = std::chrono::steady_clock;
    const Tag d;
    constexpr int chains = 12;
    constexpr int rounds = 100000;
    Vec sum[chains];
    for (int i = 0; i < chains; ++i) sum[i] = hn::Set(d, 1e-3F * float(i));
    double best = 0;
    const auto begin = Clock::now();
    std::chrono::duration<double> elapsed{};
    do {
        const auto start = Clock::now();
        const Vec factor = hn::Set(d, float(elapsed.count()) * 1e-9F + 0.999F);
        for (int round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
            for (int i = 0; i < chains; ++i) sum[i] = hn::MulAdd(sum[i], factor, factor);
        }
        const std::chrono::duration<double> time = Clock::now() - start;
        best = std::max(best, 2.0 * rounds * chains * lanes / time.count());
        elapsed = Clock::now() - begin;
    } while (elapsed.count() < milliseconds * 1e-3);
    Vec total = hn::Zero(d);
    for (int i = 0; i < chains; ++i) total = hn::Add(total, sum[i]);
    // Uses the sums, because the compiler would remove the loop otherwise.
    return hn::GetLane(hn::SumOfLanes(d, total)) == -1.0F ? 0 : best;
}

const char* target_name() { return hwy::TargetName(HWY_TARGET); }

}  // namespace nca::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nca::cpu {

HWY_EXPORT(perceive);
HWY_EXPORT(perceive_adjoint);
HWY_EXPORT(apply_update);
HWY_EXPORT(gather_gradient);
HWY_EXPORT(mlp_forward);
HWY_EXPORT(mlp_backward);
HWY_EXPORT(measure_peak);
HWY_EXPORT(target_name);

void perceive(float* p, const Stencil& stencil, const float* grid, int height, int width,
              const Place* cells, int count) {
    HWY_DYNAMIC_DISPATCH(perceive)(p, stencil, grid, height, width, cells, count);
}

void perceive_adjoint(float* grad_state, const Stencil& stencil, const float* grad_p, int height,
                      int width, int top, int bottom, const Place* cells, int count) {
    HWY_DYNAMIC_DISPATCH(perceive_adjoint)
    (grad_state, stencil, grad_p, height, width, top, bottom, cells, count);
}

void apply_update(float* z, const float* x, const float* u, float step_size, int width,
                  const Place* cells, int count) {
    HWY_DYNAMIC_DISPATCH(apply_update)(z, x, u, step_size, width, cells, count);
}

void gather_gradient(float* grad_u, const float* grad_state, float step_size, int width,
                     const Place* cells, int count) {
    HWY_DYNAMIC_DISPATCH(gather_gradient)(grad_u, grad_state, step_size, width, cells, count);
}

void mlp_forward(float* u, float* h, const PackedWeights& weights, const float* p, int rows) {
    HWY_DYNAMIC_DISPATCH(mlp_forward)(u, h, weights, p, rows);
}

void mlp_backward(float* grad_p, PackedGradients& gradients, float* h, float* grad_h,
                  const PackedWeights& weights, const float* p, const float* grad_u, int rows) {
    HWY_DYNAMIC_DISPATCH(mlp_backward)(grad_p, gradients, h, grad_h, weights, p, grad_u, rows);
}

double measure_peak(double milliseconds) {
    return HWY_DYNAMIC_DISPATCH(measure_peak)(milliseconds);
}

std::string instruction_set() {
    const std::string name = HWY_DYNAMIC_DISPATCH(target_name)();
    return name.starts_with("AVX3") ? "AVX-512" : name;
}

// The index of a weight in w1 of the public layout.
static int public_w1_index(int unit, int filter, int channel) {
    return unit * perception + channel * filter_count + filter;
}

void pack(PackedWeights& packed, ConstWeightsView weights) {
    for (int j = 0; j < hidden; ++j) {
        for (int k = 0; k < filter_count; ++k) {
            for (int c = 0; c < channels; ++c) {
                const float value = weights.w1[public_w1_index(j, k, c)];
                packed.w1[j * perception + k * channels + c] = value;
                packed.w1_t[(k * channels + c) * hidden + j] = value;
            }
        }
        for (int c = 0; c < channels; ++c) {
            packed.w2[c * hidden + j] = weights.w2[c * hidden + j];
            packed.w2_t[j * channels + c] = weights.w2[c * hidden + j];
        }
    }
    std::copy_n(weights.b1, hidden, packed.b1);
    if (weights.b2 != nullptr) {
        std::copy_n(weights.b2, channels, packed.b2);
    } else {
        std::fill_n(packed.b2, channels, 0.0F);
    }
}

void unpack(WeightsView grad_weights, const PackedGradients& packed, bool accumulate) {
    const auto put = [accumulate](float& destination, float value) {
        destination = accumulate ? destination + value : value;
    };
    for (int j = 0; j < hidden; ++j) {
        for (int k = 0; k < filter_count; ++k) {
            for (int c = 0; c < channels; ++c) {
                put(grad_weights.w1[public_w1_index(j, k, c)],
                    packed.w1_t[(k * channels + c) * hidden + j]);
            }
        }
        for (int c = 0; c < channels; ++c) {
            put(grad_weights.w2[c * hidden + j], packed.w2_t[j * channels + c]);
        }
        put(grad_weights.b1[j], packed.b1[j]);
    }
    if (grad_weights.b2 != nullptr) {
        for (int c = 0; c < channels; ++c) put(grad_weights.b2[c], packed.b2[c]);
    }
}

void add(PackedGradients& sum, const PackedGradients& term) {
    const auto add_array = [](float* a, const float* b, std::size_t size) {
        for (std::size_t i = 0; i < size; ++i) a[i] += b[i];
    };
    add_array(sum.w1_t, term.w1_t, std::size(term.w1_t));
    add_array(sum.w2_t, term.w2_t, std::size(term.w2_t));
    add_array(sum.b1, term.b1, std::size(term.b1));
    add_array(sum.b2, term.b2, std::size(term.b2));
}

}  // namespace nca::cpu
#endif  // HWY_ONCE
