// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

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

struct RateReport {
    std::string device;
    std::vector<Rate> rates;
};

// All of them, in some seconds. Throws CudaError where there is no such device.
RateReport measure_rates(int device);

}  // namespace nca::bench
