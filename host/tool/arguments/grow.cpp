// SPDX-License-Identifier: MIT
#include "host/core/throw_error.hpp"
#include "host/tool/arguments/options.hpp"

#include <array>
#include <charconv>
#include <cmath>
#include <memory>
#include <utility>

namespace nca::tool {
namespace {

// "72x96", or "72" for a square
void parse_grid_size(const std::string& text, GrowArguments& arguments) {
    const std::vector<std::string_view> parts = split(text, 'x');
    const std::optional<int> height = parse_number<int>(parts.front());
    const std::optional<int> width = parse_number<int>(parts.back());
    if (parts.size() > 2 || !height || !width) {
        throw_error<UsageError>("--size {}: expected HEIGHTxWIDTH in cells, such as 72x96", text);
    }
    arguments.height = height;
    arguments.width = width;
}

// "100:circle,36,36,10" or "100:half,left"
Damage parse_damage(const std::string& text) {
    const std::string expected = fmt::format(
        "--damage {}: expected STEP:circle,X,Y,RADIUS or STEP:half,left|right|top|bottom", text);
    const std::size_t colon = text.find(':');
    if (colon == std::string::npos) throw UsageError(expected);
    const std::optional<int> step = parse_number<int>(std::string_view(text).substr(0, colon));
    const std::vector<std::string_view> words =
        split(std::string_view(text).substr(colon + 1), ',');
    if (!step || *step < 0) throw UsageError(expected);
    if (words[0] == "circle" && words.size() == 4) {
        const std::optional<double> x = parse_number<double>(words[1]);
        const std::optional<double> y = parse_number<double>(words[2]);
        const std::optional<double> radius = parse_number<double>(words[3]);
        if (x && y && radius && std::isfinite(*x) && std::isfinite(*y) && std::isfinite(*radius) &&
            *radius >= 0) {
            return {*step, Damage::Shape::circle, *y, *x, *radius};
        }
    }
    if (words[0] == "half" && words.size() == 2) {
        constexpr std::pair<std::string_view, Damage::Shape> sides[] = {
            {"left", Damage::Shape::left},
            {"right", Damage::Shape::right},
            {"top", Damage::Shape::top},
            {"bottom", Damage::Shape::bottom},
        };
        for (const auto& [name, shape] : sides) {
            if (words[1] == name) return {.step = *step, .shape = shape};
        }
    }
    throw UsageError(expected);
}

// "checker", "grey", "#3366ff" or "36f"
Background parse_background(const std::string& text) {
    constexpr std::pair<std::string_view, std::array<std::uint8_t, 3>> colours[] = {
        {"white", {255, 255, 255}},     {"black", {0, 0, 0}},      {"grey", {128, 128, 128}},
        {"lightgrey", {211, 211, 211}}, {"red", {255, 0, 0}},      {"green", {0, 128, 0}},
        {"blue", {0, 0, 255}},          {"yellow", {255, 255, 0}},
    };
    if (text == "checker") return {.checker = true};
    for (const auto& [name, colour] : colours) {
        if (text == name) return {.colour = colour};
    }
    std::string digits = text.substr(text.starts_with('#') ? 1 : 0);
    if (digits.size() == 3) {
        digits = {digits[0], digits[0], digits[1], digits[1], digits[2], digits[2]};
    }
    std::uint32_t value = 0;
    const char* end = digits.data() + digits.size();
    const auto [stop, error] = std::from_chars(digits.data(), end, value, 16);
    if (digits.size() != 6 || error != std::errc{} || stop != end) {
        throw_error<UsageError>(
            "--background {}: expected checker, a colour #rrggbb or #rgb, or white, black, grey, "
            "lightgrey, red, green, blue or yellow",
            text);
    }
    return {.colour = {std::uint8_t(value >> 16), std::uint8_t(value >> 8), std::uint8_t(value)}};
}

// The options as parsed.
struct GrowOptions {
    GrowArguments arguments;
    DeviceOptions device;
    std::optional<std::string> size;
    std::vector<std::string> starts;
    std::vector<std::string> damages;
    std::optional<std::string> background;
    std::optional<int> scale;
};

void add_places(CLI::App& command, GrowOptions& options) {
    add_starts(command, options.starts,
               "start from the cell in this column and row, counted from 0; may be repeated (the "
               "cells that it was trained with, as far from the middle as they were there)");
    add(command, "--damage", options.damages, "STEP:SHAPE",
        "kill cells after so many steps: STEP:circle,X,Y,RADIUS or "
        "STEP:half,left|right|top|bottom; may be repeated")
        ->take_all()
        ->allow_extra_args(false);
}

void add_look(CLI::App& command, GrowOptions& options) {
    GrowArguments& a = options.arguments;
    command.add_flag("--hidden", a.hidden,
                     "shows the twelve hidden channels, 4 in a row: -2 and below blue, 0 white, 2 "
                     "and above red");
    command.add_flag("--alpha", a.alpha, "shows alpha: 0 black, 1 white");
    add(command, "--background", options.background, "COLOUR",
        "#rrggbb, #rgb, white, black, grey, lightgrey, red, green, blue, yellow; or checker "
        "(white; with --hidden lightgrey)");
    command.add_flag("--transparent", a.transparent, "no background");
}

GrowArguments grow_arguments(const GrowOptions& options) {
    GrowArguments arguments = options.arguments;
    if (options.size) parse_grid_size(*options.size, arguments);
    arguments.starts = parse_starts(options.starts);
    for (const std::string& text : options.damages) arguments.damages.push_back(parse_damage(text));
    arguments.scale = options.scale.value_or(arguments.hidden ? 3 : 8);
    if (options.background) arguments.background = parse_background(*options.background);
    arguments.device = options.device.parse();
    return arguments;
}

}  // namespace

Command add_grow(CLI::App& app) {
    const auto options = std::make_shared<GrowOptions>();
    GrowArguments& a = options->arguments;
    CLI::App* command = app.add_subcommand("grow", "Grow a picture from one cell");
    add(*command, "MODEL", a.models, "",
        "made by nca train, or by another program (as nca convert --help says); several grow side "
        "by side, in one mosaic")
        ->required();
    add(*command, "-o,--output", a.output, "FILE",
        "out.gif or out.webp: the growth; out_%03d.png: its frames, numbered from 0; out.png: the "
        "last state")
        ->required();
    add(*command, "--steps", a.steps, "N", "how long (200)")->transform(int_range(0, 10'000'000));
    add(*command, "--size", options->size, "HxW",
        "the grid in cells, rows first (as trained, the largest of several; or 72x72)");
    add(*command, "--every", a.every, "K", "steps between frames (for about 100 frames)")
        ->transform(int_range(1, largest_count));
    add(*command, "--strip", a.strip, "N",
        "PNG only: N frames in one row, evenly spaced from the first state to the last; of several "
        "models a row for each")
        ->transform(int_range(2, 100));
    add(*command, "--scale", options->scale, "N",
        "pixels along each side of a cell (8; with --hidden 3)")
        ->transform(int_range(1, 64));
    add_fire_rate(*command, a.fire_rate);
    add(*command, "--angle", a.angle, "DEGREES",
        "turns perception and so the picture, counterclockwise (0)")
        ->check(real_range(-36000, 36000, "a number in -36000..36000"));
    add_load_options(*command, a.load);
    add_seed(*command, a.seed);
    options->device.add_to(*command);
    add_places(*command, *options);
    add(*command, "--state-out", a.state_out, "FILE",
        "the last state as .npy, float32 [height, width, 16]");
    add(*command, "--compare", a.compare, "TARGET",
        "PNG only: the target, turned by --angle, the grown picture and their difference side by "
        "side");
    add_look(*command, *options);
    command->footer(
        "Example:\n  nca grow lizard.safetensors -o lizard.gif --damage 100:circle,36,20,8\n"
        "  nca grow lizard.safetensors -o two.gif --size 72x144 --seed-at 36,36 --seed-at 108,36\n"
        "  nca grow lizard.safetensors -o frame_%03d.png --every 10\n"
        "  nca grow lizard.safetensors -o strip.png --steps 98 --strip 8\n"
        "  nca grow lizard.safetensors fish.safetensors -o mosaic.webp");
    return {command, [options] { return grow_arguments(*options); }};
}

}  // namespace nca::tool
