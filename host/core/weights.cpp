// SPDX-License-Identifier: MIT
#include <nca/weights.hpp>

namespace nca {

std::vector<ParameterTensor> parameter_tensors(bool output_bias) {
    std::vector<ParameterTensor> tensors = {
        {"net.0.weight", 0, w1_size, {hidden, perception, 1, 1}},
        {"net.0.bias", w1_size, b1_size, {hidden}},
        {"net.2.weight", w1_size + b1_size, w2_size, {channels, hidden, 1, 1}},
    };
    if (output_bias) {
        tensors.push_back({"net.2.bias", w1_size + b1_size + w2_size, b2_size, {channels}});
    }
    return tensors;
}

}  // namespace nca
