// SPDX-License-Identifier: MIT
#pragma once

#include "host/tool/loss_curve.hpp"
#include "host/tool/training_pictures.hpp"

#include <nca/trainer.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

// A training run as one HTML page that needs no other file and no network.
namespace nca::tool {

enum class RunState { running, done, stopped, failed };

// What a page shows of all iterations.
struct RunHistory {
    struct Recovery {
        std::int64_t iteration = 0;
        std::string text;
    };

    std::int64_t first_iteration = 0;  // the first one known
    std::vector<LossPoint> losses;     // only positive and finite ones
    std::vector<Recovery> recoveries;
    std::int64_t dead = 0;   // number of samples, in all iterations
    std::int64_t reset = 0;  // number of pool states, in all iterations
};

struct TrainingPage {
    RunState state = RunState::running;
    std::string error;   // why the run failed
    std::string target;  // file name
    std::string init;    // TrainingHistory::init; empty: from random weights
    std::string engine;
    std::string version;
    std::string written;  // date and time
    TrainingConfig config;
    std::int64_t done = 0;    // iterations
    std::int64_t wanted = 0;  // iterations
    double loss = 0;          // mean of the last 100
    double seconds = 0;       // of the run so far
    double iterations_per_second = 0;
    double cell_steps_per_second = 0;
    double own_share = 0;     // of the time, for pages and pictures
    int refresh_seconds = 0;  // between reloads by the browser, while running
};

// Text for HTML, also inside an attribute. Control characters become question marks.
std::string escaped(std::string_view text);

// The whole page. pictures: null before the first were taken.
std::string html_page(const TrainingPage& page, const RunHistory& history,
                      const TrainingPictures* pictures);

// Whether a file is such a page, of any version. Throws IoError where it cannot be read.
bool is_training_page(const std::filesystem::path& path);

}  // namespace nca::tool
