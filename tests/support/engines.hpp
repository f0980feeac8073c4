// SPDX-License-Identifier: MIT
#pragma once

#include <nca/device.hpp>
#include <nca/engine.hpp>
#include <nca/error.hpp>

#include <memory>
#include <string>
#include <vector>

namespace nca::test {

// Why there is no CUDA engine to test; empty where there is one.
inline std::string why_no_cuda() {
    try {
        make_engine(Device::cuda());
        return {};
    } catch (const Error& error) {
        return error.what();
    }
}

// Every engine that the tests of Engine run on. 7 threads are more than most rows have work for.
inline std::vector<Device> engines_to_test() {
    std::vector<Device> devices = {Device::cpu(1), Device::cpu(2), Device::cpu(7)};
    if (why_no_cuda().empty()) devices.push_back(Device::cuda());
    return devices;
}

inline std::vector<std::unique_ptr<Engine>> make_engines_to_test() {
    std::vector<std::unique_ptr<Engine>> engines;
    for (const Device& device : engines_to_test()) engines.push_back(make_engine(device));
    return engines;
}

}  // namespace nca::test
