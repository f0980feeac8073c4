// SPDX-License-Identifier: MIT
#pragma once

#include <nca/engine.hpp>
#include <nca/export.hpp>
#include <nca/image.hpp>
#include <nca/model.hpp>

#include <cstdint>

namespace nca {

struct SimulatorOptions {
    Device device = Device::automatic();
    int height = 72;  // cells
    int width = 72;
    std::uint32_t seed = 0;
};

// One grid and the automaton that lives on it. The grid is empty at first.
class NCA_API Simulator {
public:
    // Throws InvalidArgument for a bad size or rule, and whatever make_engine throws.
    Simulator(Model model, const SimulatorOptions& options = {});

    // Overwrites one cell by the rule's start cell. Throws InvalidArgument outside the grid.
    void plant_seed(int y, int x);
    // Queues so many steps; on CUDA returns before they are done.
    void step(int steps = 1);
    // Kills the cells whose centre is at most radius cells from (y, x).
    void erase_circle(double y, double x, double radius);
    // Kills the rectangle of rows top .. bottom - 1 and columns left .. right - 1.
    void erase_rectangle(int top, int left, int bottom, int right);

    std::int64_t steps_done() const { return steps_done_; }
    const Model& model() const { return model_; }
    Engine& engine() const { return *engine_; }
    // The state in the engine's own memory, [1, height, width, channels].
    StateView state() { return state_.view(); }
    // Copies; both wait until all queued steps are done. [height, width, channels] floats.
    std::vector<float> download() const;
    Image picture() const;

private:
    Model model_;
    std::uint32_t seed_;
    std::int64_t steps_done_ = 0;
    std::unique_ptr<Engine> engine_;
    Buffer weights_;
    State state_;
};

}  // namespace nca
