// SPDX-License-Identifier: MIT
#pragma once

#include <nca/engine.hpp>
#include <nca/export.hpp>
#include <nca/image.hpp>
#include <nca/model.hpp>

#include <cstdint>

namespace nca {

/// On what a Simulator runs, and its grid.
struct SimulatorOptions {
    Device device = Device::automatic();  ///< where it computes
    int height = 72;         ///< of the grid, in cells: in 1..16384, 2^26 cells at most
    int width = 72;          ///< of the grid, in cells: the same
    std::uint32_t seed = 0;  ///< the seed of the fire masks
};

/// Runs a model on one grid, which is all zero at first. Places are (y, x) in cells; they count
/// from 0, from the top and from the left. On CUDA all functions that read or write cells, but
/// step, wait until the queued steps are done. Failures of CUDA throw CudaError. A simulator must
/// not be used by two threads at the same time. One that was moved from may be destroyed or
/// assigned to; all that needs its engine throws InvalidArgument.
class NCA_API Simulator {
public:
    /// Makes an engine and a grid. Throws InvalidArgument for a bad size, a bad rule or a model
    /// that was moved from, Error where there is not enough memory, and what make_engine() throws.
    Simulator(Model model, const SimulatorOptions& options = {});

    /// Overwrites one cell by the rule's start cell. Throws InvalidArgument outside the grid.
    void plant_seed(int y, int x);
    /// Plants the start cells that the model was trained with (TrainingHistory::start_cells), as
    /// far from the middle of this grid as they were from the middle of the trained one; the cell
    /// in the middle, {height / 2, width / 2}, where its history has none. Throws InvalidArgument,
    /// and plants none, where one of them is outside this grid.
    void plant_seed();
    /// Runs that many steps. On CUDA it queues them and returns before they are done. One call of
    /// step(3) draws the same fire masks as three of step(1). Throws InvalidArgument where steps is
    /// negative or above 2^24, and what Engine::advance throws.
    void step(int steps = 1);
    /// Clears the cells whose centre is at most radius cells from (y, x), as far as they are in the
    /// grid. The distance is computed as std::hypot does. Throws InvalidArgument where a number is
    /// not finite or the radius is negative.
    void erase_circle(double y, double x, double radius);
    /// Clears rows top .. bottom - 1 of columns left .. right - 1, as far as they are in the grid.
    void erase_rectangle(int top, int left, int bottom, int right);

    /// How many steps were run, queued ones included.
    std::int64_t steps_done() const { return steps_done_; }
    /// The model that it runs.
    const Model& model() const { return model_; }
    /// The engine that it runs on.
    Engine& engine() const;
    /// The state in the engine's memory, [1, height, width, channels]. On CUDA it does not wait:
    /// the steps are queued on the null stream.
    StateView state() { return state_.view(); }
    /// A copy of the state in host memory, [height, width, channels] floats.
    std::vector<float> download() const;
    /// How many cells are living and whether all values are finite: check_state() of download().
    StateCheck check() const;
    /// The state as a picture, one pixel for each cell.
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
