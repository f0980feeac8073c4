// SPDX-License-Identifier: MIT
// One step forward, a launch or a library call for each line:
//
//   p      = perceive(x)                        perceive_kernel
//   a      = p W1^T                             cublasSgemm
//   h      = max(a + b1, 0)                     bias_relu_kernel
//   u      = h W2^T                             cublasSgemm
//   r      uniform in (0, 1]                    curandGenerateUniform
//   z      = x + [r <= fire_rate] step_size (u + b2)            update_kernel
//   x'     = z * life                           life_kernel
//
// and back, after p and h have been computed again from the tape's x:
//
//   grad_z = grad_x' * life,  grad_u = fire step_size grad_z    mask_gradient_kernel
//   grad_W2 += grad_u^T h,    grad_b2 += grad_u^T 1             cublasSgemm, cublasSgemv
//   grad_a = (grad_u W2) * [h > 0]              cublasSgemm, relu_mask_kernel
//   grad_W1 += grad_a^T p,    grad_b1 += grad_a^T 1             cublasSgemm, cublasSgemv
//   grad_p = grad_a W1                          cublasSgemm
//   grad_x = grad_z + perceive^T(grad_p)        gather_kernel
//
// States [cells, 16], p [cells, 48] in the model's order, a and h [cells, 128], u [cells, 16], all
// row by row. Nothing is skipped. A step moves 2.9 kB a cell forward and 7.2 kB back, where its
// states are 128 bytes.
// Reference: host/reference/step.hpp. Test: tests/unfused_test.cpp.

#include "benchmarks/unfused/unfused.hpp"

#include <nca/error.hpp>

#include <limits>
#include <string>
#include <vector>

#include "cuda/device/launch.cuh"
#include "cuda/rule/grid.cuh"

namespace nca::bench {
namespace {

using cuda::add_scaled;
using cuda::BatchShape;
using cuda::cell_at;
using cuda::elementwise_blocks;
using cuda::launch;
using cuda::load4;
using cuda::StepRule;
using cuda::store4;
using cuda::Traits;
using cuda::zero4;

// What cuBLAS asks for on the newest GPUs.
constexpr std::size_t workspace_bytes = std::size_t{32} << 20;

void check_cublas(cublasStatus_t status, const char* what) {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    throw CudaError(std::string(what) + ": cuBLAS says " + cublasGetStatusString(status));
}

void check_curand(curandStatus_t status, const char* what) {
    if (status == CURAND_STATUS_SUCCESS) return;
    throw CudaError(std::string(what) + ": cuRAND says error " + std::to_string(status));
}

// --- kernels ---------------------------------------------------------------------------------
// A piece is four floats of an array, 16 bytes. A thread takes its first piece and then every
// piece_stride()th.

__device__ int first_piece() {
    return static_cast<int>(blockIdx.x) * Traits::threads + static_cast<int>(threadIdx.x);
}
__device__ int piece_stride() { return static_cast<int>(gridDim.x) * Traits::threads; }

// Piece i of a state: channels 4 * quad .. 4 * quad + 3 of a cell.
struct Piece {
    int cell;   // of the batch
    int quad;   //
    int first;  // cell of the sample
    int y;
    int x;
};

__device__ Piece piece_at(const BatchShape& grid, int i) {
    const int cell = i / Traits::quads;
    const int within = cell % (grid.height * grid.width);
    return {cell, i % Traits::quads, cell - within, within / grid.width, within % grid.width};
}

// p[c * 3 + k] = sum over 3x3 of filter[k] * x[.., c]. Overwrites p [cells, 48].
__global__ void __launch_bounds__(Traits::threads)
    perceive_kernel(float* p, const float* state, const BatchShape grid,
                    const __grid_constant__ StepRule rule, int pieces) {
    for (int i = first_piece(); i < pieces; i += piece_stride()) {
        const Piece piece = piece_at(grid, i);
        float4 sums[filter_count] = {zero4(), zero4(), zero4()};
#pragma unroll
        for (int tap = 0; tap < 9; ++tap) {
            const int from =
                cell_at(grid, rule.circular, piece.y + tap / 3 - 1, piece.x + tap % 3 - 1);
            if (from < 0) continue;
            const float4 x =
                load4(state + (piece.first + from) * Traits::channels + piece.quad * 4);
#pragma unroll
            for (int k = 0; k < filter_count; ++k) add_scaled(sums[k], rule.filters[k][tap], x);
        }
        const auto& [s0, s1, s2] = sums;
        float* to = p + i * 4 * filter_count;
        store4(to, make_float4(s0.x, s1.x, s2.x, s0.y));
        store4(to + 4, make_float4(s1.y, s2.y, s0.z, s1.z));
        store4(to + 8, make_float4(s2.z, s0.w, s1.w, s2.w));
    }
}

// h = max(a + b1, 0), in place of a [cells, 128].
__global__ void __launch_bounds__(Traits::threads)
    bias_relu_kernel(float* h, const float* b1, int pieces) {
    for (int i = first_piece(); i < pieces; i += piece_stride()) {
        float4 a = load4(h + i * 4);
        add_scaled(a, 1, load4(b1 + i % (Traits::hidden / 4) * 4));
        store4(h + i * 4, make_float4(a.x > 0 ? a.x : 0, a.y > 0 ? a.y : 0, a.z > 0 ? a.z : 0,
                                      a.w > 0 ? a.w : 0));
    }
}

// z = x + [uniform <= fire_rate] * step_size * (u + b2). Overwrites z [cells, 16] and, unless it is
// null, fire [cells]; b2 may be null.
__global__ void __launch_bounds__(Traits::threads)
    update_kernel(float* z, std::uint8_t* fire, const float* state, const float* u, const float* b2,
                  const float* uniform, float fire_rate, float step_size, int pieces) {
    for (int i = first_piece(); i < pieces; i += piece_stride()) {
        const int cell = i / Traits::quads, quad = i % Traits::quads;
        const bool fires = uniform[cell] <= fire_rate;
        float4 x = load4(state + i * 4);
        if (fires) {
            float4 update = load4(u + i * 4);
            if (b2 != nullptr) add_scaled(update, 1, load4(b2 + quad * 4));
            add_scaled(x, step_size, update);
        }
        store4(z + i * 4, x);
        if (fire != nullptr && quad == 0) fire[cell] = fires;
    }
}

// living(s) = max over 3x3 of alpha > 0.1, at the cell of the piece.
__device__ bool living(const float* state, const BatchShape& grid, bool circular,
                       const Piece& piece) {
    for (int i = 0; i < 9; ++i) {
        const int cell = cell_at(grid, circular, piece.y + i / 3 - 1, piece.x + i % 3 - 1);
        if (cell < 0) continue;
        if (state[(piece.first + cell) * Traits::channels + alpha_channel] > living_threshold) {
            return true;
        }
    }
    return false;
}

// x' = z * life, life = living(z) [and living(x)]. Overwrites next [cells, 16] and, unless it is
// null, life [cells].
__global__ void __launch_bounds__(Traits::threads)
    life_kernel(float* next, std::uint8_t* life, const float* z, const float* state,
                const BatchShape grid, bool circular, bool pre_and_post, int pieces) {
    for (int i = first_piece(); i < pieces; i += piece_stride()) {
        const Piece piece = piece_at(grid, i);
        const bool lives = living(z, grid, circular, piece) &&
                           (!pre_and_post || living(state, grid, circular, piece));
        store4(next + i * 4, lives ? load4(z + i * 4) : zero4());
        if (life != nullptr && piece.quad == 0) life[piece.cell] = lives;
    }
}

// grad_z = grad_x' * life, grad_u = fire * step_size * grad_z. Overwrites both [cells, 16]; grad_z
// may be grad_next.
__global__ void __launch_bounds__(Traits::threads)
    mask_gradient_kernel(float* grad_z, float* grad_u, const float* grad_next,
                         const std::uint8_t* fire, const std::uint8_t* life, float step_size,
                         int pieces) {
    for (int i = first_piece(); i < pieces; i += piece_stride()) {
        const int cell = i / Traits::quads;
        const float4 grad = life[cell] != 0 ? load4(grad_next + i * 4) : zero4();
        float4 scaled = zero4();
        if (fire[cell] != 0) add_scaled(scaled, step_size, grad);
        store4(grad_z + i * 4, grad);
        store4(grad_u + i * 4, scaled);
    }
}

// grad_a = grad_h * [h > 0], in place of grad_h [cells, 128]. h > 0 where a > 0.
__global__ void __launch_bounds__(Traits::threads)
    relu_mask_kernel(float* grad_a, const float* h, int pieces) {
    for (int i = first_piece(); i < pieces; i += piece_stride()) {
        const float4 on = load4(h + i * 4), grad = load4(grad_a + i * 4);
        store4(grad_a + i * 4, make_float4(on.x > 0 ? grad.x : 0, on.y > 0 ? grad.y : 0,
                                           on.z > 0 ? grad.z : 0, on.w > 0 ? grad.w : 0));
    }
}

// grad_x = grad_z + perceive^T(grad_p): a cell gathers from the 3x3 cells that perceived it.
// Overwrites grad_state [cells, 16], which may be grad_z.
__global__ void __launch_bounds__(Traits::threads)
    gather_kernel(float* grad_state, const float* grad_z, const float* grad_p,
                  const BatchShape grid, const __grid_constant__ StepRule rule, int pieces) {
    for (int i = first_piece(); i < pieces; i += piece_stride()) {
        const Piece piece = piece_at(grid, i);
        float4 sum = load4(grad_z + i * 4);
#pragma unroll
        for (int tap = 0; tap < 9; ++tap) {
            const int from =
                cell_at(grid, rule.circular, piece.y + 1 - tap / 3, piece.x + 1 - tap % 3);
            if (from < 0) continue;
            const float* row =
                grad_p + (piece.first + from) * Traits::perception + piece.quad * 4 * filter_count;
            const float4 a = load4(row), b = load4(row + 4), c = load4(row + 8);
            add_scaled(sum, rule.filters[0][tap], make_float4(a.x, a.w, b.z, c.y));
            add_scaled(sum, rule.filters[1][tap], make_float4(a.y, b.x, b.w, c.z));
            add_scaled(sum, rule.filters[2][tap], make_float4(a.z, b.y, c.x, c.w));
        }
        store4(grad_state + i * 4, sum);
    }
}

// --- cuBLAS ----------------------------------------------------------------------------------
// cuBLAS reads matrices column by column: [rows, n] here is n x rows there, with n as the distance
// between columns.

// A matrix as cuBLAS has it, transposed or not.
struct Factor {
    const float* values;
    int leading;  // the distance between its columns
    cublasOperation_t operation = CUBLAS_OP_N;
};

// c [n, m] = b a + beta c, where a is m x k to cuBLAS and b is k x n.
void queue_product(cublasHandle_t cublas, float* c, int m, int n, int k, const Factor& a,
                   const Factor& b, float beta) {
    const float alpha = 1;
    check_cublas(cublasSgemm(cublas, a.operation, b.operation, m, n, k, &alpha, a.values, a.leading,
                             b.values, b.leading, &beta, c, m),
                 "cublasSgemm");
}

// sum [n] += rows^T 1, of rows [count, n].
void queue_row_sum(cublasHandle_t cublas, float* sum, const float* rows, const float* ones, int n,
                   int count) {
    const float one = 1;
    check_cublas(cublasSgemv(cublas, CUBLAS_OP_N, n, count, &one, rows, n, ones, 1, &one, sum, 1),
                 "cublasSgemv");
}

void copy(float* to, const float* from, std::size_t floats, cudaStream_t stream) {
    cuda::check(cudaMemcpyAsync(to, from, floats * sizeof(float), cudaMemcpyDeviceToDevice, stream),
                "copying states");
}

const Rule& checked(const Rule& rule) {
    rule.validate();
    return rule;
}

BatchShape checked_grid(int batch, int height, int width, int most_steps) {
    constexpr long long most_cells = std::numeric_limits<int>::max() / Traits::hidden;
    if (batch < 1 || height < 1 || width < 1 || most_steps < 0 ||
        batch > most_cells / height / width) {
        throw InvalidArgument(
            "a rollout of up to " + std::to_string(most_steps) + " steps of " +
            std::to_string(batch) + " x " + std::to_string(height) + " x " + std::to_string(width) +
            " cells: expected sizes of at least 1, at least 0 steps and at most " +
            std::to_string(most_cells) + " cells");
    }
    return {batch, height, width};
}

}  // namespace

UnfusedRollout::UnfusedRollout(const Rule& rule, const Weights& weights, int batch, int height,
                               int width, int most_steps, bool tf32)
    : grid_(checked_grid(batch, height, width, most_steps)),
      rule_(cuda::step_rule(checked(rule))),
      fire_rate_(rule.fire_rate),
      output_bias_(weights.has_output_bias()),
      most_steps_(most_steps),
      weights_(weights.all().size(), "weights"),
      states_((std::size_t(most_steps) + 1) * grid_.floats(), "the tape of the unfused rollout"),
      fire_(std::size_t(most_steps) * grid_.cells(), "the tape's fire masks"),
      life_(std::size_t(most_steps) * grid_.cells(), "the tape's life masks"),
      p_(grid_.cells() * perception, "perceptions"),
      h_(grid_.cells() * hidden, "hidden units"),
      grad_a_(grid_.cells() * hidden, "gradients of hidden units"),
      u_(grid_.floats(), "updates"),
      z_(grid_.floats(), "states before the life mask"),
      uniform_(grid_.cells(), "random numbers"),
      ones_(grid_.cells(), "ones"),
      workspace_(workspace_bytes, "cuBLAS's workspace") {
    cublasHandle_t handle = nullptr;
    check_cublas(cublasCreate(&handle), "cublasCreate");
    cublas_.reset(handle);
    check_cublas(
        // The default is full float32 too, and may choose faster kernels than the pedantic mode.
        cublasSetMathMode(handle, tf32 ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_DEFAULT_MATH),
        "cublasSetMathMode");
    curandGenerator_t generator = nullptr;
    check_curand(curandCreateGenerator(&generator, CURAND_RNG_PSEUDO_PHILOX4_32_10),
                 "curandCreateGenerator");
    curand_.reset(generator);
    check_curand(curandSetPseudoRandomGeneratorSeed(generator, 1), "seeding cuRAND");
    // Otherwise cuRAND would do this in the first step.
    check_curand(curandGenerateSeeds(generator), "curandGenerateSeeds");

    const std::vector<float> ones(grid_.cells(), 1.0F);
    cuda::check(cudaMemcpy(weights_.data(), weights.all().data(), weights.all().size_bytes(),
                           cudaMemcpyHostToDevice),
                "copying weights");
    cuda::check(
        cudaMemcpy(ones_.data(), ones.data(), ones.size() * sizeof(float), cudaMemcpyHostToDevice),
        "copying ones");
    cuda::check(cudaDeviceSynchronize(), "waiting for the device");
}

void UnfusedRollout::use(cudaStream_t stream) {
    check_cublas(cublasSetStream(cublas_.get(), stream), "cublasSetStream");
    // A new stream brings cuBLAS's own workspace back, and a capture would allocate that again.
    check_cublas(cublasSetWorkspace(cublas_.get(), workspace_.data(), workspace_.size()),
                 "cublasSetWorkspace");
    check_curand(curandSetStream(curand_.get(), stream), "curandSetStream");
}

// p and h of a state.
void UnfusedRollout::queue_hidden(const float* state, cudaStream_t stream) {
    const auto [w1, b1, w2, b2] = view_parameters<const float>(weights_.data(), output_bias_);
    launch(NCA_KERNEL(perceive_kernel),
           {.blocks = elementwise_blocks(quads(channels)), .threads = Traits::threads}, stream,
           p_.data(), state, grid_, rule_, static_cast<int>(quads(channels)));
    // a [cells, 128] = p [cells, 48] W1^T
    queue_product(cublas_.get(), h_.data(), hidden, cells(), perception,
                  {w1, perception, CUBLAS_OP_T}, {p_.data(), perception}, 0);
    launch(NCA_KERNEL(bias_relu_kernel),
           {.blocks = elementwise_blocks(quads(hidden)), .threads = Traits::threads}, stream,
           h_.data(), b1, static_cast<int>(quads(hidden)));
}

// fire and life [cells] may be null.
void UnfusedRollout::queue_step(float* next, std::uint8_t* fire, std::uint8_t* life,
                                const float* now, cudaStream_t stream) {
    const auto [w1, b1, w2, b2] = view_parameters<const float>(weights_.data(), output_bias_);
    queue_hidden(now, stream);
    // u [cells, 16] = h [cells, 128] W2^T
    queue_product(cublas_.get(), u_.data(), channels, cells(), hidden, {w2, hidden, CUBLAS_OP_T},
                  {h_.data(), hidden}, 0);
    check_curand(curandGenerateUniform(curand_.get(), uniform_.data(), grid_.cells()),
                 "curandGenerateUniform");
    const cuda::LaunchShape shape = {.blocks = elementwise_blocks(quads(channels)),
                                     .threads = Traits::threads};
    const auto pieces = static_cast<int>(quads(channels));
    launch(NCA_KERNEL(update_kernel), shape, stream, z_.data(), fire, now, u_.data(), b2,
           uniform_.data(), fire_rate_, rule_.step_size, pieces);
    launch(NCA_KERNEL(life_kernel), shape, stream, next, life, z_.data(), now, grid_,
           rule_.circular, rule_.pre_and_post, pieces);
}

void UnfusedRollout::step(float* next, const float* now, cudaStream_t stream) {
    use(stream);
    queue_step(next, nullptr, nullptr, now, stream);
}

void UnfusedRollout::forward(float* last, const float* first, int steps, cudaStream_t stream) {
    if (steps < 0 || steps > most_steps_) {
        throw InvalidArgument(std::to_string(steps) + " steps: this tape has room for 0 to " +
                              std::to_string(most_steps_));
    }
    use(stream);
    copy(states_.data(), first, grid_.floats(), stream);
    for (int step = 0; step < steps; ++step) {
        float* const now = states_.data() + step * grid_.floats();
        queue_step(now + grid_.floats(), fire_.data() + step * grid_.cells(),
                   life_.data() + step * grid_.cells(), now, stream);
    }
    copy(last, state(steps), grid_.floats(), stream);
    steps_ = steps;
}

// Overwrites grad_state; adds to grad_weights. grad_next may be either z_ or grad_state.
void UnfusedRollout::queue_step_backward(float* grad_state, WeightsView grad_weights,
                                         const float* grad_next, int step, cudaStream_t stream) {
    const auto [w1, b1, w2, b2] = view_parameters<const float>(weights_.data(), output_bias_);
    cublasHandle_t cublas = cublas_.get();
    const cuda::LaunchShape shape = {.blocks = elementwise_blocks(quads(channels)),
                                     .threads = Traits::threads};
    const auto pieces = static_cast<int>(quads(channels));
    const int rows = cells();
    float* const grad_u = u_.data();
    float* const grad_p = p_.data();  // p is needed no more by then
    queue_hidden(state(step), stream);
    launch(NCA_KERNEL(mask_gradient_kernel), shape, stream, z_.data(), grad_u, grad_next,
           fire_.data() + step * grid_.cells(), life_.data() + step * grid_.cells(),
           rule_.step_size, pieces);
    // grad_W2 [16, 128] += grad_u^T h
    queue_product(cublas, grad_weights.w2, hidden, channels, rows, {h_.data(), hidden},
                  {grad_u, channels, CUBLAS_OP_T}, 1);
    if (output_bias_) {
        queue_row_sum(cublas, grad_weights.b2, grad_u, ones_.data(), channels, rows);
    }
    // grad_h [cells, 128] = grad_u [cells, 16] W2
    queue_product(cublas, grad_a_.data(), hidden, rows, channels, {w2, hidden}, {grad_u, channels},
                  0);
    launch(NCA_KERNEL(relu_mask_kernel),
           {.blocks = elementwise_blocks(quads(hidden)), .threads = Traits::threads}, stream,
           grad_a_.data(), h_.data(), static_cast<int>(quads(hidden)));
    // grad_W1 [128, 48] += grad_a^T p
    queue_product(cublas, grad_weights.w1, perception, hidden, rows, {p_.data(), perception},
                  {grad_a_.data(), hidden, CUBLAS_OP_T}, 1);
    queue_row_sum(cublas, grad_weights.b1, grad_a_.data(), ones_.data(), hidden, rows);
    // grad_p [cells, 48] = grad_a [cells, 128] W1
    queue_product(cublas, grad_p, perception, rows, hidden, {w1, perception},
                  {grad_a_.data(), hidden}, 0);
    launch(NCA_KERNEL(gather_kernel), shape, stream, grad_state, z_.data(), grad_p, grid_, rule_,
           pieces);
}

void UnfusedRollout::backward(float* grad_first, float* grad_weights, const float* grad_last,
                              cudaStream_t stream) {
    use(stream);
    cuda::check(cudaMemsetAsync(grad_weights, 0, weights_.size() * sizeof(float), stream),
                "clearing the gradients of weights");
    if (steps_ == 0 && grad_first != grad_last) {
        copy(grad_first, grad_last, grid_.floats(), stream);
    }
    for (int step = steps_ - 1; step >= 0; --step) {
        queue_step_backward(step == 0 ? grad_first : z_.data(),
                            view_parameters(grad_weights, output_bias_),
                            step == steps_ - 1 ? grad_last : z_.data(), step, stream);
    }
}

}  // namespace nca::bench
