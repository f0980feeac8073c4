// SPDX-License-Identifier: MIT
#include "benchmarks/dense_work.hpp"

#include "host/training/checkpoint.hpp"

#include <nca/error.hpp>

#include <cmath>
#include <cstdint>

namespace nca::bench {

Weights dense_weights(bool output_bias) {
    Weights weights(output_bias);
    float value = 0;
    for (float& weight : weights.all()) weight = 1e-2F * std::sin(value += 1);
    const WeightsView view = weights.view();
    constexpr float pull = 0.2F;
    // The first unit is alpha itself, by the identity filter. The second is always 1: it stands for
    // an output bias, which there may not be.
    for (int unit = 0; unit < 2; ++unit) {
        for (int i = 0; i < perception; ++i) view.w1[unit * perception + i] = 0;
        for (int c = 0; c < channels; ++c) view.w2[c * hidden + unit] = 0;
    }
    view.w1[alpha_channel * filter_count] = 1;
    view.b1[0] = 0;
    view.b1[1] = 1;
    view.w2[alpha_channel * hidden] = -pull;
    view.w2[alpha_channel * hidden + 1] = pull;
    return weights;
}

Model dense_model(const Rule& rule) { return {rule, dense_weights(true), {}, {}}; }

std::vector<float> dense_state(int batch, int height, int width) {
    std::vector<float> state(std::size_t(batch) * height * width * channels);
    std::uint32_t bits = 1;
    for (std::size_t i = 0; i < state.size(); ++i) {
        bits = bits * 1664525U + 1013904223U;
        const float unit = float(bits >> 8) * 0x1p-24F;
        state[i] = i % channels == std::size_t(alpha_channel) ? 0.5F + 0.5F * unit : unit;
    }
    return state;
}

void check_dense(const std::vector<float>& states) {
    for (std::size_t i = alpha_channel; i < states.size(); i += channels) {
        if (!(states[i] > living_threshold)) {
            throw Error("a cell of the dense grid died; its times mean nothing");
        }
    }
}

TrainingConfig dense_config(const TrainingConfig& preset, int side) {
    TrainingConfig config = preset;
    config.rule.life = Life::post;
    config.target_size = side;
    config.padding = 0;
    config.pool = config.damaged = config.warmup = 0;
    config.learning_rate = 1e-12F;
    return config;
}

Image dense_target(int side) {
    Image image = {side, side, std::vector<std::uint8_t>(std::size_t(side) * side * 4), true};
    for (std::size_t i = 3; i < image.pixels.size(); i += 4) image.pixels[i] = 255;
    return image;
}

void save_dense_checkpoint(const std::filesystem::path& path, const TrainingConfig& config) {
    const Parameters parameters(dense_weights(config.output_bias));
    save_checkpoint(
        path,
        {.config = config,
         .target_hash = hash_target(make_target(dense_target(config.target_size), config)),
         .current = parameters,
         .anchor = parameters,
         .good = parameters.weights},
        {});
}

}  // namespace nca::bench
