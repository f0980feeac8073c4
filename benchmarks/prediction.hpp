// SPDX-License-Identifier: MIT
#pragma once

// What the CUDA engine's kernels are expected to take, worked out from their sizes before anybody
// had measured them. An H200 then took two to six times as long (docs/performance.md): what is
// missing here is most of a step's instructions, so neither times nor limits are to be relied on.

#include <nca/device.hpp>
#include <nca/engine.hpp>

#include <string>
#include <string_view>

namespace nca::bench {

// What a device can do. Assumed for an H200 until measured: bench_step measures the first four, the
// program `rates` the others. Rates are those of a multiprocessor in a cycle of its clock.
struct Rates {
    int multiprocessors = 132;
    double clock = 1.98e9;          // cycles a second
    double multiply_adds = 256;     // float32 operations: an addition and a product are two
    double bandwidth = 4.3e12;      // of the device's memory, bytes a second
    double tf32_operations = 1229;  // mma.sync: 60 % of the most that tensor cores can do
    double fp16_operations = 2458;
    double roundings = 64;  // to TF32
    double shared_bytes = 128;
    double l2_bytes = 64;              // between a multiprocessor and the L2 cache
    double mma_cycles = 33;            // from an operand to its sum
    double barrier_cycles = 200;       // of a block, with what stands between two of them
    double flag_seconds = 1e-6;        // a step's states to the neighbours through L2, and the flag
    double cluster_seconds = 0.33e-6;  // the same through a cluster's shared memory
    double grid_barrier_seconds = 1.5e-6;
    double launch_seconds = 2.3e-6;           // on a stream, one kernel after the other
    double node_seconds = 3.5e-6;             // of a graph
    double dependent_node_seconds = 2.25e-6;  // with programmatic dependent launch
};

// Replaces those that a file written by `rates --json` has. Throws IoError or FormatError.
void read_rates(Rates& rates, const std::string& path);

enum class Limit { latency, tensor_cores, roundings, multiply_adds, shared_memory, bandwidth };
std::string_view name(Limit limit);

struct Prediction {
    double seconds = 0;
    Limit limit = Limit::latency;  // of the larger part of it
};

// A rollout: its sizes, its form, and the rows of the MLP that a step has forward and back in all.
struct RolloutCase {
    int batch = 1;
    int height = 0;
    int width = 0;
    int steps = 1;
    float fire_rate = 0.5F;
    Precision precision = Precision::exact;
    RolloutForm form = RolloutForm::steps;  // not automatic
    int sharers = 1;                        // Device::sharers
    double forward_rows = 0;
    double backward_rows = 0;
};

// Engine::forward, from the call to the end.
Prediction predict_forward(const Rates& rates, const RolloutCase& rollout);
// forward, loss and backward by an Engine's calls: backward is one kernel a step in every form.
Prediction predict_forward_backward(const Rates& rates, const RolloutCase& rollout);
// A training iteration. Of several side by side, what one of them costs.
Prediction predict_training(const Rates& rates, const RolloutCase& rollout);
// One step of a grid that fills the device.
Prediction predict_large_step(const Rates& rates, const RolloutCase& rollout);

}  // namespace nca::bench
