// SPDX-License-Identifier: MIT
#pragma once

#include "host/pictures/image_check.hpp"
#include "host/tool/arguments/arguments.hpp"
#include "host/tool/places.hpp"
#include "host/training/target.hpp"

#include <nca/error.hpp>
#include <nca/image.hpp>
#include <nca/model.hpp>
#include <nca/training_config.hpp>

#include <fmt/format.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

// The size in which `nca train` takes a target, and what the tool says of a target's image.
namespace nca::tool {

inline constexpr auto animated_note = "an animation, its first frame is taken";

// Without --size, a target that is smaller than the preset's size keeps its own: a cell for each
// pixel. A checkpoint goes on with its own size: in version 0.2.0 that was the preset's. Throws
// UsageError where a start cell is outside the grid.
inline TrainingConfig config_for(const Image& target, const TrainArguments& arguments) {
    TrainingConfig config = arguments.config;
    if (!arguments.size_given && arguments.resume.empty()) {
        config.target_size = std::min(config.target_size, longer_side(target));
    }
    require_start_cells(config);  // the grid may be smaller now
    return config;
}

// How the target is made larger, or that it is not though it is small; empty where neither.
inline std::string size_note(const Image& target, const TrainArguments& arguments,
                             const TrainingConfig& config) {
    const int size = config.target_size;
    const int longer = longer_side(target);
    const std::string pixels = fmt::format("{} x {} pixels", target.width, target.height);
    if (size == longer && size < arguments.config.target_size) {
        return fmt::format("{}, so each is one cell; --size enlarges it", pixels);
    }
    if (size <= longer) return "";
    if (const int factor = whole_factor(target, size)) {
        return fmt::format("{}, enlarged to {} cells: each is a square of {} x {}", pixels, size,
                           factor, factor);
    }
    return fmt::format(
        "{}, enlarged to {} cells by a smooth filter; a --size of {} or {} keeps "
        "pixels sharp",
        pixels, size, size / longer * longer, (size / longer + 1) * longer);
}

// What one should know of the image before hours of training on it.
inline std::vector<std::string> image_notes(const Image& target, const TrainArguments& arguments,
                                            const TrainingConfig& config) {
    std::vector<std::string> notes;
    if (target.animated) notes.emplace_back(animated_note);
    if (!target.had_alpha) {
        notes.emplace_back("no alpha channel, treated as opaque");
    } else if (!any_alpha(target.pixels, [](int alpha) { return alpha != 255; })) {
        notes.emplace_back(
            "every pixel is opaque, so the background is grown too; make it transparent where it "
            "should not be");
    }
    if (std::string note = size_note(target, arguments, config); !note.empty())
        notes.push_back(note);
    return notes;
}

}  // namespace nca::tool
