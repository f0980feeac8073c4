// SPDX-License-Identifier: MIT
#include <cuda_runtime.h>
#include <nca/nca.hpp>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <vector>

void check(cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: own_memory MODEL\n");
        return 2;
    }
    try {
        const nca::Model model = nca::Model::load(argv[1]);
        const auto engine = nca::make_engine(nca::Device::cuda());
        cudaStream_t stream = nullptr;
        check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));

        // Weights, a batch of two grids and the gradients, all in memory of this program.
        constexpr int batch = 2, side = 40;
        const auto all = model.weights.all();
        const std::size_t state_bytes = sizeof(float) * batch * side * side * nca::channels;
        float *weights = nullptr, *state = nullptr, *grad_state = nullptr, *grad_weights = nullptr;
        check(cudaMalloc(&weights, all.size_bytes()));
        check(cudaMalloc(&grad_weights, all.size_bytes()));
        check(cudaMalloc(&state, state_bytes));
        check(cudaMalloc(&grad_state, state_bytes));
        const bool bias = model.weights.has_output_bias();
        const auto weights_view = nca::view_parameters<const float>(weights, bias);
        const nca::StateView state_view{state, batch, side, side, nca::MemorySpace::device};
        nca::StateView grad_view = state_view;
        grad_view.data = grad_state;

        // One start cell in the middle of each grid.
        std::vector<float> start(state_bytes / sizeof(float));
        const auto cell = model.rule.start_values();
        for (int sample = 0; sample < batch; ++sample) {
            const std::size_t middle = (std::size_t(sample) * side + side / 2) * side + side / 2;
            std::copy(cell.begin(), cell.end(), start.begin() + middle * nca::channels);
        }
        check(
            cudaMemcpyAsync(weights, all.data(), all.size_bytes(), cudaMemcpyHostToDevice, stream));
        check(cudaMemcpyAsync(state, start.data(), state_bytes, cudaMemcpyHostToDevice, stream));

        // 32 steps in place; then 32 more with a tape for the way back. Both are only queued.
        engine->advance(model.rule, weights_view, state_view, {32, {.seed = 1}}, stream);
        const nca::Tape tape = engine->forward(model.rule, weights_view, state_view,
                                               {32, {.seed = 1, .first_step = 32}}, stream);

        // The loss is half the sum of squares of the last state, whose gradient is that state.
        check(cudaMemcpyAsync(grad_state, tape.last().data, state_bytes, cudaMemcpyDeviceToDevice,
                              stream));
        engine->backward(tape, grad_view, nca::view_parameters(grad_weights, bias),
                         nca::Accumulate::no, stream);

        std::vector<float> gradient(all.size());
        check(cudaMemcpyAsync(gradient.data(), grad_weights, all.size_bytes(),
                              cudaMemcpyDeviceToHost, stream));
        check(cudaStreamSynchronize(stream));
        std::printf("%s: gradient of the first weight %g\n", engine->description().c_str(),
                    double(gradient[0]));

        for (float* memory : {weights, grad_weights, state, grad_state}) cudaFree(memory);
        cudaStreamDestroy(stream);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
