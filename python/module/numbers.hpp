// SPDX-License-Identifier: MIT
#pragma once

#include <nca/random.hpp>
#include <nca/rule.hpp>

#include <array>
#include <cstdint>
#include <vector>

// Rules and keys as they come from Python, where they are plain numbers: the arguments of an
// operation of PyTorch can be nothing else. python/libnca/rule.py has the other side.
namespace nca::python {

// The 27 factors of the filters, edges, life, start cell, fire rate, step size, premultiplied.
using RuleNumbers = std::vector<double>;
// Throws InvalidArgument where there are not as many numbers, or the rule is not valid.
Rule rule_of(const RuleNumbers& numbers);
RuleNumbers numbers_of(const Rule& rule);

// Seed, iteration, first step, first sample. Throws InvalidArgument outside of 0 .. 2^32 - 1.
using KeyNumbers = std::array<std::int64_t, 4>;
FireKey key_of(const KeyNumbers& numbers);

}  // namespace nca::python
