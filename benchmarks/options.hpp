// SPDX-License-Identifier: MIT
#pragma once

#include <nca/device.hpp>

#include <optional>
#include <string>
#include <vector>

namespace nca::bench {

struct GridSize {
    int height = 0;
    int width = 0;
};

// bench_step's command line.
struct Options {
    std::string preset = "all";
    std::string target = "data/lizard.png";
    std::string device = "auto";
    std::string precision = "all";
    std::string rollout = "all";
    int threads = 0;
    int train = 500;
    std::string resume;
    int count = 20;
    int automata = 1;
    std::optional<GridSize> size;
    bool dense = false;
    bool inference = false;
    bool no_inference = false;
    int batch = 1;           // of inference
    float fire_rate = 0.5F;  // of inference
    std::string json;

    // Reads the command line. Where the program has to end at once, because of --help or a mistake,
    // this prints why and returns the exit code.
    std::optional<int> parse(int argc, char** argv);

    // The device without a precision and a form.
    Device plain_device() const;
    // The devices to measure. On a GPU: the same one in each precision and form asked for.
    std::vector<Device> devices(bool gpu) const;
    std::vector<std::string> presets() const;
};

// As --rollout has it.
std::string name_of(RolloutForm form);

}  // namespace nca::bench
