// SPDX-License-Identifier: MIT
#pragma once

#include "host/core/grid.hpp"
#include "host/tool/arguments/arguments.hpp"
#include "host/tool/channel_pictures.hpp"
#include "host/tool/mosaic.hpp"

#include <nca/image.hpp>
#include <nca/simulator.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

// The pictures of `nca grow`.
namespace nca::tool {

inline Layout layout_of(const GrowArguments& arguments) {
    if (!arguments.compare.empty()) return {.columns = 3, .rows = 1};
    const std::size_t models = arguments.models.size();
    if (arguments.strip) return {.columns = *arguments.strip, .rows = int(models)};
    return nearly_square(models);
}

// The size of a whole picture in cells.
inline GridSize picture_size(const GrowArguments& arguments, const GridSize& grid) {
    const GridSize of_a_model = arguments.hidden ? mosaic_size(hidden_layout, grid) : grid;
    return mosaic_size(layout_of(arguments), of_a_model);
}

// Two pictures of one size as the squares of a checkerboard; the first has the corner.
inline Image checkered(Image first, const Image& second) {
    constexpr int side = 8;  // of a square, in pixels
    for (int y = 0; y < first.height; ++y) {
        for (int x = y / side % 2 == 0 ? side : 0; x < first.width; x += 2 * side) {
            const int width = std::min(side, first.width - x);
            std::copy_n(second.pixel(y, x), width * 4, first.pixel(y, x));
        }
    }
    return first;
}

// Takes pictures of all models' grids, and keeps them.
class Camera {
public:
    // grid: of each model
    Camera(const GrowArguments& arguments, const GridSize& grid)
        : arguments_(arguments), grid_(grid) {
        if (arguments.strip) {
            frames_.resize(std::size_t(*arguments.strip) * arguments.models.size());
        }
    }

    void photograph(const std::vector<Simulator>& simulators) {
        std::vector<Image> pictures;
        for (const Simulator& simulator : simulators) pictures.push_back(picture_of(simulator));
        if (!arguments_.strip) {
            frames_.push_back(composed(pictures));
            return;
        }
        const auto columns = std::size_t(*arguments_.strip);
        for (std::size_t model = 0; model < pictures.size(); ++model) {
            frames_[model * columns + column_] = std::move(pictures[model]);
        }
        if (++column_ == columns) frames_ = {composed(frames_)};
    }

    // What was taken; a strip is one picture.
    const std::vector<Image>& frames() const { return frames_; }

    // The largest magnitude in a hidden channel that was taken.
    float largest_hidden_value() const { return largest_hidden_value_; }

private:
    // In the size of the grid; of hidden channels in that of their mosaic.
    Image picture_of(const Simulator& simulator) {
        if (arguments_.alpha) return alpha_picture(simulator.picture());
        if (!arguments_.hidden) return simulator.picture();
        const std::vector<float> state = simulator.download();
        const ConstStateView view{state.data(), 1, grid_.height, grid_.width, MemorySpace::host};
        largest_hidden_value_ = std::max(largest_hidden_value_, largest_hidden(view));
        return hidden_picture(view);
    }

    // The whole picture, enlarged, on its background.
    Image composed(std::span<const Image> pictures) const {
        const Image whole = mosaic(pictures, layout_of(arguments_), 0);
        if (arguments_.transparent) return enlarge(whole, arguments_.scale);
        // Zero is white in hidden channels: grey gaps show where one ends.
        const Background usual =
            arguments_.hidden ? Background{.colour = {211, 211, 211}} : Background{};
        const Background background = arguments_.background.value_or(usual);
        Image light = enlarge(on_colour(whole, background.colour), arguments_.scale);
        if (!background.checker) return light;
        return checkered(std::move(light),
                         enlarge(on_colour(whole, {204, 204, 204}), arguments_.scale));
    }

    const GrowArguments& arguments_;
    const GridSize grid_;
    std::vector<Image> frames_;  // of a strip that is not complete: the pictures of its cells
    std::size_t column_ = 0;     // of a strip, the next one
    float largest_hidden_value_ = 0;
};

}  // namespace nca::tool
