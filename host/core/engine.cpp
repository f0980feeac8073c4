// SPDX-License-Identifier: MIT
#include <nca/engine.hpp>
#include <nca/error.hpp>

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

}  // namespace nca
