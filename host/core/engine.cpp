// SPDX-License-Identifier: MIT
#include <nca/engine.hpp>
#include <nca/error.hpp>
#include <nca/model.hpp>

#include <cstdint>
#include <string>

#include "host/core/checks.hpp"

namespace nca {

int Tape::steps() const {
    if (!storage_) throw InvalidArgument("the tape is empty: Engine::forward fills one");
    return storage_->steps();
}

ConstStateView Tape::state(int step) const {
    check_tape_step(step, steps());
    return storage_->state(step);
}

State Engine::make_state(int batch, int height, int width) {
    if (batch < 1 || height < 1 || width < 1) {
        throw InvalidArgument("a state of " + std::to_string(batch) + " x " +
                              std::to_string(height) + " x " + std::to_string(width) +
                              " cells: expected at least 1 x 1 x 1");
    }
    // Each side is below 2^31, so two of them fit and the third may not.
    const std::size_t cells = std::size_t(height) * width;
    constexpr std::size_t most = SIZE_MAX / channels / sizeof(float);
    if (cells > most / std::size_t(batch)) {
        throw InvalidArgument("a state of " + std::to_string(batch) + " x " +
                              std::to_string(height) + " x " + std::to_string(width) +
                              " cells: use a smaller batch or grid");
    }
    return {allocate(cells * batch * channels), batch, height, width};
}

namespace {

// The model's weights where the engine can read them: as they are, or a copy held by buffer.
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
