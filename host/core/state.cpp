// SPDX-License-Identifier: MIT
#include "host/core/throw_error.hpp"

#include <nca/error.hpp>
#include <nca/state.hpp>

#include <algorithm>
#include <cmath>
#include <span>

namespace nca {

StateCheck check_state(ConstStateView state) {
    if (state.data == nullptr) throw InvalidArgument("the state is null");
    if (state.space != MemorySpace::host) {
        throw InvalidArgument("the state is in device memory: copy it to host memory first");
    }
    const std::span<const float> values(state.data, state.size());
    StateCheck check;
    for (const float value : values) {
        check.finite &= std::isfinite(value);
        check.largest = std::max(check.largest, std::abs(value));
    }
    for (std::size_t i = alpha_channel; i < values.size(); i += channels) {
        check.living += values[i] > living_threshold ? 1 : 0;
    }
    return check;
}

}  // namespace nca
