// SPDX-License-Identifier: MIT
// Which engine a device gets, and an engine's functions that take a whole model.
#include <nca/engine.hpp>
#include <nca/model.hpp>

#include "cuda/engine/cuda_engine.hpp"
#include "host/core/checks.hpp"
#include "host/cpu/cpu_engine.hpp"

namespace nca {

std::unique_ptr<Engine> make_engine(const Device& device) {
    switch (device.kind) {
        case Device::Kind::cuda:
            return cuda::make_cuda_engine(device);
        case Device::Kind::automatic:
            if (cuda::is_usable(device.index)) return cuda::make_cuda_engine(device);
            break;
        case Device::Kind::cpu:
            break;
    }
    return cpu::make_cpu_engine(device.threads);
}

namespace {

// The model's weights in the engine's memory: the model's own, or a copy that buffer then holds.
ConstWeightsView reachable(Engine& engine, const Model& model, Buffer& buffer, Stream stream) {
    check_weights(model.weights);
    if (engine.memory_space() == MemorySpace::host) return model.weights.view();
    const auto all = model.weights.all();
    buffer = engine.allocate(all.size());
    engine.copy_from_host(buffer.data(), all, stream);
    return view_parameters<const float>(buffer.data(), model.weights.has_output_bias());
}

}  // namespace

Tape Engine::forward(const Model& model, ConstStateView state, const RolloutOptions& options,
                     Stream stream) {
    Buffer buffer;
    return forward(model.rule, reachable(*this, model, buffer, stream), state, options, stream);
}

void Engine::advance(const Model& model, StateView state, const RolloutOptions& options,
                     Stream stream) {
    Buffer buffer;
    advance(model.rule, reachable(*this, model, buffer, stream), state, options, stream);
}

}  // namespace nca
