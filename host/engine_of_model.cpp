// SPDX-License-Identifier: MIT
// Engine's functions that take a whole model.
#include <nca/engine.hpp>
#include <nca/model.hpp>

namespace nca {
namespace {

// The model's weights in the engine's memory: the model's own, or a copy that buffer then holds.
ConstWeightsView reachable(Engine& engine, const Model& model, Buffer& buffer, Stream stream) {
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
