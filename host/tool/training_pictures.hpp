// SPDX-License-Identifier: MIT
#pragma once

#include <nca/device.hpp>
#include <nca/image.hpp>
#include <nca/trainer.hpp>

#include <filesystem>
#include <vector>

// Pictures of a training run.
namespace nca::tool {

struct GrownState {
    int steps = 0;
    double loss = 0;  // against the target
    Image picture;
};

// All on white, one pixel for each cell.
struct TrainingPictures {
    Image target;
    std::vector<Image> before;      // the last iteration's first eight samples, before it
    std::vector<Image> after;       // the same samples after it
    std::vector<Image> pool;        // the first 64 states; empty without a pool
    std::vector<GrownState> grown;  // from the start cell, with the current weights
};

// Takes all pictures. Grows a state on a second engine of this kind of device and waits for it.
// Throws the errors of Trainer and Simulator.
TrainingPictures take_pictures(const Trainer& trainer, const Device& device);

// The pool as one picture.
Image pool_picture(const TrainingPictures& pictures);

// Paths of all the files that save_pictures may write.
std::vector<std::filesystem::path> picture_files(const std::filesystem::path& folder);

// Writes the pictures, enlarged, over the previous ones. Throws IoError.
void save_pictures(const std::filesystem::path& folder, const TrainingPictures& pictures);

}  // namespace nca::tool
