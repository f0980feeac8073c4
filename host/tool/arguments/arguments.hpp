// SPDX-License-Identifier: MIT
#pragma once

#include "host/tool/grid.hpp"

#include <nca/device.hpp>
#include <nca/training_config.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

// What the command line of `nca` says, checked as far as it can be without opening a file.
namespace nca::tool {

inline constexpr int exit_done = 0;
inline constexpr int exit_failed = 1;
inline constexpr int exit_usage = 2;

// A mistake on the command line.
class UsageError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// The text of --help or --version.
struct HelpArguments {
    std::string text;
};

struct TrainArguments {
    std::filesystem::path target;
    std::filesystem::path output;
    TrainingConfig config;
    std::int64_t iterations = 8000;
    Device device;
    std::filesystem::path checkpoint;  // empty: none
    int every = 500;                   // iterations between checkpoints
    std::filesystem::path resume;      // empty: from the start
    std::filesystem::path log;         // empty: none
    std::filesystem::path report;      // empty: none
    std::filesystem::path pictures;    // a folder; empty: none
    bool quiet = false;
    std::filesystem::path stop_checkpoint;  // what a training that is stopped is saved in
    std::string resume_command;             // that goes on from there
};

// Several targets, trained side by side. Every path in common names a folder, in which each has a
// file of its name; its target is empty.
struct TrainManyArguments {
    std::vector<std::filesystem::path> targets;
    TrainArguments common;
};

// Kills part of the grid once `step` steps are done.
struct Damage {
    enum class Shape { circle, left, right, top, bottom };

    int step = 0;
    Shape shape = Shape::circle;
    double y = 0;  // of a circle's centre, in cells
    double x = 0;
    double radius = 0;
};

struct GrowArguments {
    std::vector<std::filesystem::path> models;  // several make a mosaic
    std::filesystem::path output;
    int steps = 200;
    std::optional<int> height;  // together with width
    std::optional<int> width;
    std::optional<int> every;  // steps between frames
    int scale = 8;             // pixels along each side of a cell
    std::optional<float> fire_rate;
    double angle = 0;  // degrees
    std::uint32_t seed = 0;
    Device device;
    std::vector<Place> starts;  // empty: the middle
    std::vector<Damage> damages;
    std::filesystem::path state_out;  // empty: none
    std::filesystem::path compare;    // empty: none
    bool transparent = false;
};

struct GradcheckArguments {
    std::filesystem::path model;
    std::filesystem::path target;
    int steps = 8;
    int batch = 1;
    std::optional<float> fire_rate;
    std::uint32_t seed = 0;
    Device device;
    std::filesystem::path out;  // empty: none
};

struct InfoArguments {
    std::filesystem::path model;   // empty: none
    std::optional<Device> device;  // to tell of
};

struct ConvertArguments {
    std::filesystem::path input;
    std::filesystem::path output;
};

using Arguments = std::variant<HelpArguments, TrainArguments, TrainManyArguments, GrowArguments,
                               GradcheckArguments, InfoArguments, ConvertArguments>;

// Throws UsageError with one line that names the option and what it takes.
Arguments parse_arguments(int argc, const char* const* argv);

// Each returns an exit code, and throws nca::Error or UsageError.
int train(const TrainArguments& arguments);
int train(const TrainManyArguments& arguments);
int grow(const GrowArguments& arguments);
int gradcheck(const GradcheckArguments& arguments);
int info(const InfoArguments& arguments);
int convert(const ConvertArguments& arguments);

}  // namespace nca::tool
