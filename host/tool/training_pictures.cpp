// SPDX-License-Identifier: MIT
#include "host/tool/training_pictures.hpp"

#include "host/tool/comparison.hpp"
#include "host/tool/mosaic.hpp"

#include <nca/simulator.hpp>

#include <algorithm>
#include <cstdint>
#include <span>

namespace nca::tool {
namespace {

constexpr int steps_shown[] = {64, 96, 200, 1000};
constexpr std::size_t batch_shown = 8;
constexpr int pool_shown = 64;
constexpr int pool_columns = 8;
constexpr std::uint8_t white = 255;
constexpr int pixels_per_cell = 4;  // along each side, in a saved picture
constexpr std::int64_t most_saved_pixels = 2'000'000;

// Pictures of the first `most` states in [n, grid, grid, channels].
std::vector<Image> pictures_of(std::span<const float> states, const Trainer& trainer,
                               std::size_t most) {
    const int grid = trainer.config().grid();
    const ConstStateView one{states.data(), 1, grid, grid, MemorySpace::host};
    const std::size_t count = std::min(states.size() / one.size(), most);
    const ConstStateView all{states.data(), int(count), grid, grid, MemorySpace::host};
    std::vector<Image> pictures;
    for (int i = 0; i < all.batch; ++i) {
        pictures.push_back(on_white(picture(trainer.config().rule, all.sample(i))));
    }
    return pictures;
}

// The target as a state, [grid, grid, channels] with hidden channels 0.
std::vector<float> target_as_state(const std::vector<float>& target) {
    std::vector<float> state(target.size() / visible_channels * channels);
    for (std::size_t cell = 0; cell < target.size() / visible_channels; ++cell) {
        std::copy_n(&target[cell * visible_channels], visible_channels, &state[cell * channels]);
    }
    return state;
}

std::vector<GrownState> grow_states(const Trainer& trainer, const Device& device,
                                    const std::vector<float>& target) {
    const int grid = trainer.config().grid();
    Simulator simulator(
        trainer.model(),
        {.device = device, .height = grid, .width = grid, .seed = trainer.config().seed});
    simulator.plant_seed();
    std::vector<GrownState> grown;
    for (const int steps : steps_shown) {
        simulator.step(steps - int(simulator.steps_done()));
        const std::vector<float> state = simulator.download();
        grown.push_back({.steps = steps,
                         .loss = mean_squared_error(state, target),
                         .picture = pictures_of(state, trainer, 1).front()});
    }
    return grown;
}

Image in_a_row(std::span<const Image> pictures) {
    return mosaic(pictures, {int(pictures.size()), 1}, white);
}

void save(const std::filesystem::path& path, const Image& image) {
    const std::int64_t pixels = std::int64_t{image.height} * image.width;
    int scale = pixels_per_cell;
    while (scale > 1 && pixels * scale * scale > most_saved_pixels) --scale;
    save_png(path, enlarge(image, scale));
}

}  // namespace

TrainingPictures take_pictures(const Trainer& trainer, const Device& device) {
    const std::vector<float> target = target_as_state(trainer.target());
    return {.target = pictures_of(target, trainer, 1).front(),
            .before = pictures_of(trainer.states_before(), trainer, batch_shown),
            .after = pictures_of(trainer.states_after(), trainer, batch_shown),
            .pool = pictures_of(trainer.pool_states(pool_shown), trainer, pool_shown),
            .grown = grow_states(trainer, device, target)};
}

Image pool_picture(const TrainingPictures& pictures) {
    const int count = int(pictures.pool.size());
    const int columns = std::min(count, pool_columns);
    return mosaic(pictures.pool, {columns, (count + columns - 1) / columns}, white);
}

std::vector<std::filesystem::path> picture_files(const std::filesystem::path& folder) {
    return {folder / "target.png", folder / "grown.png", folder / "batch_before.png",
            folder / "batch_after.png", folder / "pool.png"};
}

void save_pictures(const std::filesystem::path& folder, const TrainingPictures& pictures) {
    std::vector<Image> grown;
    for (const GrownState& state : pictures.grown) grown.push_back(state.picture);
    save(folder / "target.png", pictures.target);
    save(folder / "grown.png", in_a_row(grown));
    save(folder / "batch_before.png", in_a_row(pictures.before));
    save(folder / "batch_after.png", in_a_row(pictures.after));
    if (!pictures.pool.empty()) save(folder / "pool.png", pool_picture(pictures));
}

}  // namespace nca::tool
