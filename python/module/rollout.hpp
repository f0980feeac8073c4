// SPDX-License-Identifier: MIT
#pragma once

#include "python/module/numbers.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

// Rollouts on the arrays of other libraries, which come as addresses. They are contiguous, and of
// the shapes that the comments say. `device` is that of BorrowedEngine; stream is a CUstream_st*,
// or 0. The functions need no GIL, and throw what the engine throws.
namespace nca::python {

using Address = std::uintptr_t;
using Sizes = std::array<int, 3>;                            // batch, height, width
using WeightAddresses = std::array<Address, 4>;              // w1, b1, w2, b2 or 0
using StepAddresses = std::vector<std::pair<int, Address>>;  // step, gradient

// Overwrites state [batch, height, width, channels] by that after so many steps. Keeps no tape.
void advance(int device, Address stream, const std::string& rule, const KeyNumbers& key, int steps,
             const Sizes& sizes, const WeightAddresses& weights, Address state);

// How many bytes the tape's rest has.
std::size_t tape_bytes(int device, const std::string& rule, int steps, const Sizes& sizes);

// The rollout is left in states [steps + 1, batch, height, width, channels] and rest. On the CPU
// the states after the steps of `record` are copied to out [records, batch, height, width,
// channels].
void forward(int device, Address stream, const std::string& rule, const KeyNumbers& key, int steps,
             const Sizes& sizes, const WeightAddresses& weights, Address state, Address states,
             Address rest, bool are_clean, const std::vector<int>& record, Address out);

// grad_state holds the gradient of the last state, and gets that of the first. Overwrites
// grad_weights.
void backward(int device, Address stream, const std::string& rule, const KeyNumbers& key, int steps,
              const Sizes& sizes, const WeightAddresses& weights, Address states, Address rest,
              const StepAddresses& step_gradients, Address grad_state,
              const WeightAddresses& grad_weights);

// The same in double, on the CPU, by the reference. The arrays hold doubles.

// Overwrites out [records, batch, height, width, channels] by the states after these steps.
void forward_double(const std::string& rule, const KeyNumbers& key, int steps, const Sizes& sizes,
                    const WeightAddresses& weights, Address state, const std::vector<int>& record,
                    Address out);

// From grad [records, batch, height, width, channels]. Overwrites grad_state and grad_weights.
void backward_double(const std::string& rule, const KeyNumbers& key, int steps, const Sizes& sizes,
                     const WeightAddresses& weights, Address state, const std::vector<int>& record,
                     Address grad, Address grad_state, const WeightAddresses& grad_weights);

}  // namespace nca::python
