// SPDX-License-Identifier: MIT
#pragma once

#include <nca/weights.hpp>

#include <cstdint>
#include <vector>

namespace nca {

// The weights and Adam's moments, each laid out as Weights::all().
struct Parameters {
    explicit Parameters(const Weights& initial)
        : weights(initial),
          first_moments(initial.all().size()),
          second_moments(initial.all().size()) {}

    Weights weights;
    std::vector<float> first_moments;
    std::vector<float> second_moments;
    std::int64_t updates = 0;  // number of Adam updates so far
};

}  // namespace nca
