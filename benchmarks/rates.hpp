// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <string>

namespace nca::bench {

// Something that a device does at a rate or with a latency.
struct Rate {
    std::string key;       // in the json; read_rates knows some of them
    std::string what;      // for people
    std::string unit;      // the same
    double assumed = 0;    // by the design, Rates in prediction.hpp; 0: nothing
    double measured = 0;   // 0 where there is a problem
    std::string problem;   // why it could not be measured
    bool lacking = false;  // because the device does not have it, which is no failure
};

// All of them, in some seconds; each is given to `keep` when it is there. Throws CudaError where
// there is no such device.
void measure_rates(int device, const std::function<void(const Rate&)>& keep);

// The device's name. Throws CudaError where there is no such device.
std::string device_name(int device);

}  // namespace nca::bench
