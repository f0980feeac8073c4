// SPDX-License-Identifier: MIT
#pragma once

// What the executor is told: the device that it stands for, and the order of threads and blocks.

#include "tests/support/executor/executor.hpp"

#include <nca/device.hpp>

#include <cstddef>
#include <cstdint>

namespace nca::test {

// The executor's device while this lives: another one than the usual one.
class ExecutedDevice {
public:
    ExecutedDevice(int major, int minor, int multiprocessors, std::size_t shared_limit) {
        set(major, minor, multiprocessors, shared_limit);
    }
    ~ExecutedDevice() { set(7, 5, 2, 64 << 10); }
    ExecutedDevice(const ExecutedDevice&) = delete;
    ExecutedDevice& operator=(const ExecutedDevice&) = delete;

private:
    static void set(int major, int minor, int multiprocessors, std::size_t shared_limit) {
        executor::set_compute_capability(major, minor);
        executor::set_multiprocessors(multiprocessors);
        executor::set_shared_limit(shared_limit);
    }
};

// A device like an H100, with fewer multiprocessors. The executor holds two blocks on each.
struct TensorDevice : ExecutedDevice {
    explicit TensorDevice(int multiprocessors = 8)
        : ExecutedDevice(9, 0, multiprocessors, 227 << 10) {}
};

// The order of threads, and how blocks take turns, while this lives.
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
