// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <string>

namespace nca::bench {

// What the kernels were designed for. Rates are of a multiprocessor in a cycle of its clock.
struct AssumedRates {
    double fp16_operations = 2458;  // mma.sync: 60 % of the most that tensor cores can do
    double shared_bytes = 128;
    double mma_cycles = 33;            // from an operand to its sum
    double flag_seconds = 1e-6;        // 4 KiB to the neighbours through L2, and the flag
    double cluster_seconds = 0.33e-6;  // the same through a cluster's shared memory
    double grid_barrier_seconds = 1.5e-6;
    double launch_seconds = 2.3e-6;           // on a stream, one kernel after the other
    double node_seconds = 3.5e-6;             // of a graph
    double dependent_node_seconds = 2.25e-6;  // with programmatic dependent launch
};

// Something that a device does at a rate or with a latency.
struct Rate {
    std::string key;       // in the json
    std::string what;      // for people
    std::string unit;      // the same
    double assumed = 0;    // 0: nothing
    double measured = 0;   // 0 where there is a problem
    std::string problem;   // why it could not be measured
    bool lacking = false;  // because the device does not have it, which is no failure
};

// Measures all rates, in some seconds, and gives each to `keep` at once. Throws CudaError where
// there is no such device.
void measure_rates(int device, const std::function<void(const Rate&)>& keep);

// The device's name. Throws CudaError where there is no such device.
std::string device_name(int device);

}  // namespace nca::bench
