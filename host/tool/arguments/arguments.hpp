// SPDX-License-Identifier: MIT
#pragma once

#include "host/core/grid.hpp"

#include <nca/device.hpp>
#include <nca/error.hpp>
#include <nca/model.hpp>
#include <nca/training_config.hpp>

#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

// The parsed command line of `nca`. All checks that need no file are done.
namespace nca::tool {

inline constexpr int exit_done = 0;
inline constexpr int exit_failed = 1;
inline constexpr int exit_usage = 2;

// A mistake on the command line.
class UsageError : public InvalidArgument {
public:
    using InvalidArgument::InvalidArgument;
};

// The text of --help or --version.
struct HelpArguments {
    std::string text;
};

struct TrainArguments {
    std::filesystem::path target;  // empty: the checkpoint's, of --resume
    std::filesystem::path output;  // the model
    // Of the preset and the options; with --resume not set, as the checkpoint decides.
    TrainingConfig config;
    // What the options make of the preset, or of the configuration of a checkpoint: that one is not
    // checked, as it has to be the same. Throws UsageError.
    std::function<TrainingConfig(const TrainingConfig* checkpoint)> configure;
    bool size_given = false;  // --size, and not the preset's
    std::int64_t iterations = 8000;
    bool iterations_given = false;             // and not 8000 or what a checkpoint says
    std::optional<double> stop_at;             // ends where the median loss is below this
    std::optional<std::chrono::seconds> time;  // then it is stopped
    Device device;
    std::filesystem::path checkpoint;  // empty: none
    int every = 500;                   // iterations between checkpoints
    std::filesystem::path resume;      // a checkpoint to continue from; empty: none
    std::filesystem::path init;        // a model whose weights are the first; empty: none
    bool overwrite = false;            // replaces the files of an earlier run
    std::filesystem::path log;         // empty: none
    std::filesystem::path report;      // empty: none
    std::filesystem::path pictures;    // a folder; empty: none
    bool quiet = false;
    std::filesystem::path stop_checkpoint;  // written when the training is stopped
    std::filesystem::path resume_from;      // what --resume takes then: that file or its folder
    std::string resume_command;             // the command line that continues from it
};

// Several targets, trained side by side. common.target is empty. Every other path in common is a
// folder with one file for each target.
struct TrainManyArguments {
    std::vector<std::filesystem::path> targets;
    TrainArguments common;
};

// Kills the cells of a shape after `step` steps.
struct Damage {
    enum class Shape { circle, left, right, top, bottom };

    int step = 0;
    Shape shape = Shape::circle;
    double y = 0;  // a circle's centre, in cells
    double x = 0;
    double radius = 0;  // in cells
};

// What is behind a picture.
struct Background {
    std::array<std::uint8_t, 3> colour = {255, 255, 255};  // red, green, blue
    bool checker = false;                                  // in place of the colour
};

struct GrowArguments {
    std::vector<std::filesystem::path> models;  // several make a mosaic
    LoadOptions load;                           // of those without a rule
    std::filesystem::path output;
    int steps = 200;
    std::optional<int> height;  // in cells; set together with width
    std::optional<int> width;
    std::optional<int> every;  // steps between frames
    std::optional<int> strip;  // so many frames side by side in one picture
    int scale = 8;             // pixels along each side of a cell
    std::optional<float> fire_rate;
    double angle = 0;  // in degrees, counterclockwise
    std::uint32_t seed = 0;
    Device device;
    std::vector<Place> starts;  // the start cells; empty: those of the training
    std::vector<Damage> damages;
    std::filesystem::path state_out;  // empty: none
    std::filesystem::path compare;    // empty: none
    bool hidden = false;              // shows the hidden channels
    bool alpha = false;               // shows alpha
    bool transparent = false;
    std::optional<Background> background;  // empty: white, with hidden grey
};

struct GradcheckArguments {
    std::filesystem::path model;
    std::filesystem::path target;
    int steps = 8;
    int batch = 1;
    std::optional<float> fire_rate;
    std::uint32_t seed = 0;
    Device device;
    std::filesystem::path out;  // the engine's gradients; empty: none
};

struct InfoArguments {
    std::filesystem::path model;   // empty: none
    LoadOptions load;              // of a model without a rule
    std::optional<Device> device;  // the engine to describe
};

struct ConvertArguments {
    std::filesystem::path input;
    LoadOptions load;  // of an input without a rule
    std::filesystem::path output;
};

using Arguments = std::variant<HelpArguments, TrainArguments, TrainManyArguments, GrowArguments,
                               GradcheckArguments, InfoArguments, ConvertArguments>;

// Throws UsageError, whose message is one line: the option and what it accepts.
Arguments parse_arguments(int argc, const char* const* argv);

// The commands. Each returns an exit code and throws nca::Error or UsageError.
int train(const TrainArguments& given);
int train(const TrainManyArguments& many);
int grow(const GrowArguments& arguments);
int gradcheck(const GradcheckArguments& arguments);
int info(const InfoArguments& arguments);
int convert(const ConvertArguments& arguments);

}  // namespace nca::tool
