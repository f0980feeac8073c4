// SPDX-License-Identifier: MIT
#pragma once

#include <nca/device.hpp>
#include <nca/engine.hpp>
#include <nca/error.hpp>

#include <memory>
#include <string>
#include <vector>

namespace nca::test {

// Why no CUDA engine can be tested; empty where one can.
inline std::string why_no_cuda() {
    try {
        make_engine(Device::cuda());
        return {};
    } catch (const Error& error) {
        return error.what();
    }
}

// The tests are built twice: for the engines of this machine, and for the CUDA engine with kernels
// that the executor runs on the CPU.
#ifdef NCA_TEST_EXECUTED_ENGINE
inline constexpr bool executed_engine = true;
#else
inline constexpr bool executed_engine = false;
#endif

// The CUDA engine in the precision of the CPU engines.
inline Device exact_cuda() {
    Device device = Device::cuda();
    device.precision = Precision::exact;
    return device;
}

inline std::vector<Device> with_cuda(std::vector<Device> devices) {
    if (executed_engine) return {exact_cuda()};
    if (why_no_cuda().empty()) devices.push_back(exact_cuda());
    return devices;
}

// Every engine that the tests of Engine run on. 7 threads are more than most rows have work for.
inline std::vector<Device> engines_to_test() {
    return with_cuda({Device::cpu(1), Device::cpu(2), Device::cpu(7)});
}

// One CPU engine is enough: another test shows that the number of threads changes no bit.
inline std::vector<Device> devices_to_train_on() { return with_cuda({Device::cpu(1)}); }

// For tests in which the engine hardly matters.
inline Device any_device() { return devices_to_train_on().front(); }

inline std::vector<std::unique_ptr<Engine>> make_engines_to_test() {
    std::vector<std::unique_ptr<Engine>> engines;
    for (const Device& device : engines_to_test()) engines.push_back(make_engine(device));
    return engines;
}

}  // namespace nca::test
