// SPDX-License-Identifier: MIT
#pragma once

#include "host/cpu/zeroed_memory.hpp"

#include <cstddef>
#include <memory>

// Memory for tapes on the CPU. Most cells of a tape are empty and their memory is never touched: so
// it comes zeroed from the system, and goes back here for the next tape of the same shape, which
// then writes the living cells alone (TapeBuffers::are_clean).
namespace nca::python {

struct TapeShape {
    int batch = 0;
    int height = 0;
    int width = 0;

    bool operator==(const TapeShape&) const = default;
};

// The memory of one tape, for at most `steps` steps.
struct TapeBlock {
    TapeShape shape;
    int steps;
    cpu::ZeroedMemory states;
    cpu::ZeroedMemory rest;
};

// A block for at least so many steps, clean. `rest_bytes` is Engine::tape_bytes() of them.
std::shared_ptr<TapeBlock> take_tape_block(const TapeShape& shape, int steps,
                                           std::size_t rest_bytes);

}  // namespace nca::python
