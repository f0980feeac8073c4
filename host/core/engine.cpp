// SPDX-License-Identifier: MIT
#include <nca/engine.hpp>
#include <nca/error.hpp>

#include "host/core/checks.hpp"
#include "host/core/throw_error.hpp"

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
    const auto refuse = [&](const char* advice) {
        throw_error<InvalidArgument>("a state of {} x {} x {} cells: {}", batch, height, width,
                                     advice);
    };
    if (batch < 1 || height < 1 || width < 1) refuse("expected at least 1 x 1 x 1");
    // Two of these numbers have a product below 2^62; that of all three may overflow.
    const std::size_t cells = std::size_t(height) * width;
    constexpr std::size_t most = SIZE_MAX / channels / sizeof(float);
    if (cells > most / std::size_t(batch)) refuse("use a smaller batch or grid");
    return {allocate(cells * batch * channels), batch, height, width};
}

}  // namespace nca
