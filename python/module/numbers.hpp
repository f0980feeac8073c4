// SPDX-License-Identifier: MIT
#pragma once

#include <nca/random.hpp>
#include <nca/rule.hpp>

#include <array>
#include <cstdint>
#include <string>

// Rules and keys as they come from Python, as text and numbers: the arguments of an operation of
// PyTorch can be nothing else. python/libnca/rule.py has the other side.
namespace nca::python {

// 33 numbers with spaces between them: the factors of the filters, edges, life, start cell, fire
// rate, step size, premultiplied. A text, because it passes PyTorch's dispatcher 30 us faster than
// a list. Throws InvalidArgument where it is no such text, or the rule is not valid.
Rule rule_of(const std::string& text);
std::string text_of(const Rule& rule);

// Seed, iteration, first step, first sample. Throws InvalidArgument outside of 0 .. 2^32 - 1.
using KeyNumbers = std::array<std::int64_t, 4>;
FireKey key_of(const KeyNumbers& numbers);

}  // namespace nca::python
