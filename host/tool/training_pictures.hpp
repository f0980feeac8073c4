// SPDX-License-Identifier: MIT
#pragma once

#include <nca/device.hpp>
#include <nca/image.hpp>
#include <nca/trainer.hpp>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

// What a training run looks like.
namespace nca::tool {

struct GrownState {
    int steps = 0;
    double loss = 0;  // against the target
    Image picture;
};

// All on white, a pixel for each cell.
struct TrainingPictures {
    Image target;
    std::vector<Image> before;  // the last iteration's batch, the first eight of it
    std::vector<Image> after;
    std::vector<Image> pool;        // the first 64; none where there is no pool
    std::vector<GrownState> grown;  // by the weights of now, from the start cell
};

// Grows a state on another engine of this kind of device, and waits. Throws what the trainer and
// Simulator throw.
TrainingPictures take_pictures(const Trainer& trainer, const Device& device);

// The pool as one picture.
Image pool_picture(const TrainingPictures& pictures);

// Paths of all the files that save_pictures may write.
std::vector<std::filesystem::path> picture_files(const std::filesystem::path& folder);

// Enlarged, over those of the time before. Throws IoError.
void save_pictures(const std::filesystem::path& folder, const TrainingPictures& pictures);

}  // namespace nca::tool
