// SPDX-License-Identifier: MIT
#pragma once

#include <nca/engine.hpp>

#include <memory>

// Engines for calls from any thread. An engine must not be used by two threads at the same time, so
// a call borrows one that is free, or makes one.
namespace nca::python {

// The device of a tensor: -1 is the CPU, others are CUDA devices.
inline constexpr int cpu = -1;

// An engine that is given back when this is destroyed.
class BorrowedEngine {
public:
    explicit BorrowedEngine(int device);
    ~BorrowedEngine();
    BorrowedEngine(const BorrowedEngine&) = delete;
    BorrowedEngine& operator=(const BorrowedEngine&) = delete;

    Engine& operator*() const { return *engine_; }
    Engine* operator->() const { return engine_.get(); }

private:
    Device device_;
    std::unique_ptr<Engine> engine_;
};

// The settings of engines from now on. Throw InvalidArgument.
void set_threads(int threads);
int threads();
void set_precision(const std::string& name);
// The device with these settings.
Device with_settings(Device device);

}  // namespace nca::python
