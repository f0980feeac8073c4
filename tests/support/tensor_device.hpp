// SPDX-License-Identifier: MIT
#pragma once

// Devices for the executor that have tensor cores, and engines on them.

#include "tests/support/executor/executor.hpp"

#include <nca/device.hpp>

#include <cstdint>

namespace nca::test {

// A device like an H100, with fewer multiprocessors, while it lives. The executor holds two blocks
// on each.
struct TensorDevice {
    explicit TensorDevice(int multiprocessors = 8) {
        executor::set_compute_capability(9, 0);
        executor::set_shared_limit(227 * 1024);
        executor::set_multiprocessors(multiprocessors);
    }
    ~TensorDevice() {
        executor::set_compute_capability(7, 5);
        executor::set_shared_limit(64 * 1024);
        executor::set_multiprocessors(2);
    }
    TensorDevice(const TensorDevice&) = delete;
    TensorDevice& operator=(const TensorDevice&) = delete;
};

// An order of threads and a way of blocks to take turns, while it lives.
struct BlockSchedule {
    explicit BlockSchedule(executor::Order order,
                           executor::Interleaving interleaving = executor::Interleaving::by_barrier,
                           std::uint64_t seed = 0) {
        executor::set_schedule_seed(seed);
        executor::set_order(order);
        executor::set_interleaving(interleaving);
    }
    ~BlockSchedule() {
        executor::set_order(executor::Order::forward);
        executor::set_interleaving(executor::Interleaving::by_barrier);
    }
    BlockSchedule(const BlockSchedule&) = delete;
    BlockSchedule& operator=(const BlockSchedule&) = delete;
};

inline Device cuda_device(Precision precision, RolloutForm form = RolloutForm::automatic) {
    Device device = Device::cuda();
    device.precision = precision;
    device.rollout = form;
    return device;
}

}  // namespace nca::test
