// SPDX-License-Identifier: MIT
// `nca grow`: one Simulator for each model, and one picture of all of them.
#include "host/core/throw_error.hpp"
#include "host/tool/arguments/arguments.hpp"
#include "host/tool/camera.hpp"
#include "host/tool/comparison.hpp"
#include "host/tool/console.hpp"
#include "host/tool/output_files.hpp"
#include "host/tool/output_name.hpp"
#include "host/tool/places.hpp"
#include "host/tool/target_image.hpp"
#include "host/trained_starts.hpp"

#include <nca/image.hpp>
#include <nca/simulator.hpp>
#include <nca/trainer.hpp>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <utility>

namespace nca::tool {
namespace {

constexpr int largest_side = 4096;                            // cells
constexpr int largest_picture_side = 2 * largest_image_side;  // pixels, of enlarge()
constexpr int largest_webp_side = 16383;                      // pixels, of the format
constexpr std::int64_t most_pixels = std::int64_t{1} << 28;   // 1 GiB of frames
constexpr int centiseconds = 5;                               // that each frame is shown
constexpr int usual_frames = 100;

// numbered: a PNG file for each frame.
enum class Format { gif, png, numbered, webp };

Format output_format(const std::filesystem::path& path, const OutputName& name) {
    const std::string extension = lower_case_extension(path);
    if (name.is_numbered() && extension != ".png") {
        throw_error<UsageError>(
            "-o {}: only PNG files are numbered: end the name in .png, or take one file of all "
            "frames, without %d, that ends in .gif or .webp",
            path.string());
    }
    if (extension == ".png") return name.is_numbered() ? Format::numbered : Format::png;
    if (extension == ".gif") return Format::gif;
    if (extension == ".webp") return Format::webp;
    throw_error<UsageError>(
        "{}: the name has to end in .gif, .png or .webp{}", path.string(),
        extension == ".apng" ? "; APNG is not written, take .gif or .webp" : "");
}

// How many steps are between two of about a hundred looks at the grid.
int hundredth(int steps) { return std::max(1, steps / usual_frames); }

// The files that the pictures go into. Throws UsageError where they are too many.
std::vector<std::filesystem::path> output_files(const OutputName& name, int steps, int every) {
    constexpr int most_files = 100'000;
    const int frames = steps / every + (steps % every == 0 ? 1 : 2);  // that run() takes
    if (!name.is_numbered()) return {name.of(0)};
    if (frames > most_files) {
        throw_error<UsageError>(
            "--steps {} at --every {} make {} files, expected at most {}: take a larger --every",
            steps, every, frames, most_files);
    }
    std::vector<std::filesystem::path> files;
    for (int frame = 0; frame < frames; ++frame) files.push_back(name.of(frame));
    return files;
}

GridSize trained_size(const TrainingHistory& history) {
    const bool known = history.height > 0 && history.width > 0;
    return known ? GridSize{history.height, history.width} : GridSize{};
}

// The grid of all models: --size, or else the largest height and width of their trainings.
GridSize grid_size(const GrowArguments& arguments, const std::vector<Model>& models) {
    GridSize grid{arguments.height.value_or(0), arguments.width.value_or(0)};
    if (!arguments.height) {
        for (const Model& model : models) {
            const GridSize trained = trained_size(model.history);
            grid.height = std::max(grid.height, trained.height);
            grid.width = std::max(grid.width, trained.width);
        }
    }
    if (grid.height < 1 || grid.height > largest_side || grid.width < 1 ||
        grid.width > largest_side) {
        throw_error<UsageError>("--size {}x{}: each side has to be in 1..{} cells", grid.height,
                                grid.width, largest_side);
    }
    return grid;
}

// What makes a picture larger than a grid, for messages.
std::string kind_of_picture(const GrowArguments& arguments) {
    if (!arguments.compare.empty()) return "a comparison";
    if (arguments.strip) return fmt::format("a strip of {} frames", *arguments.strip);
    if (arguments.models.size() > 1) return fmt::format("a mosaic of {}", arguments.models.size());
    return arguments.hidden ? "a mosaic of 12" : "a side";
}

// Throws UsageError where a side of the output is too long for its format. whole: the size of the
// whole picture in cells, of a comparison, a strip, a mosaic or one grid.
void check_sides(const GrowArguments& arguments, Format format, const GridSize& grid,
                 const GridSize& whole) {
    const std::int64_t side = std::int64_t{std::max(whole.height, whole.width)} * arguments.scale;
    const int largest = format == Format::webp ? largest_webp_side : largest_picture_side;
    if (side > largest) {
        throw_error<UsageError>(
            "--size {}x{} at --scale {} makes {} {} pixels long, expected at most {}: take a "
            "smaller {}",
            grid.height, grid.width, arguments.scale, kind_of_picture(arguments), side, largest,
            arguments.strip ? "--scale, --size or --strip" : "--scale or --size");
    }
}

// Throws UsageError where the pictures would not fit into memory.
void check_pixels(const GrowArguments& arguments, const GridSize& whole, std::int64_t pictures) {
    const std::int64_t pixels =
        std::int64_t{whole.height} * whole.width * arguments.scale * arguments.scale;
    if (pictures > most_pixels / pixels) {
        throw_error<UsageError>(
            "{} pictures of {}x{} cells at --scale {} are more than {} million pixels: take a "
            "smaller {}",
            pictures, whole.height, whole.width, arguments.scale, most_pixels / 1'000'000,
            arguments.strip ? "--scale, --size or --strip"
                            : "--scale or --size, or a larger --every");
    }
}

// Throws UsageError where a model's file, and not the user, asks for a grid that takes much memory.
void check_memory(const GrowArguments& arguments, const GridSize& grid, const GridSize& whole,
                  std::int64_t pictures) {
    constexpr double most_bytes = 300e6;
    const double states =
        2.0 * double(arguments.models.size()) * grid.height * grid.width * channels * sizeof(float);
    const double frames =
        4.0 * double(pictures) * whole.height * whole.width * arguments.scale * arguments.scale;
    if (arguments.height || states + frames <= most_bytes) return;
    throw_error<UsageError>(
        "the grid of {}x{} cells that {} {} for takes {:.0f} MB at --scale {}: give --size to have "
        "it so, or a smaller one",
        grid.height, grid.width,
        arguments.models.size() > 1 ? "the models" : arguments.models.front().string(),
        arguments.models.size() > 1 ? "ask" : "asks", (states + frames) / 1e6, arguments.scale);
}

// Throws UsageError where options exclude each other.
void check_looks(const GrowArguments& arguments) {
    using Option = std::pair<const char*, bool>;
    const Option hidden = {"--hidden", arguments.hidden};
    const Option alpha = {"--alpha", arguments.alpha};
    const Option transparent = {"--transparent", arguments.transparent};
    const Option background = {"--background", arguments.background.has_value()};
    const Option strip = {"--strip", arguments.strip.has_value()};
    const Option every = {"--every", arguments.every.has_value()};
    const Option compare = {"--compare", !arguments.compare.empty()};
    const auto exclude = [](const Option& option, const char* why,
                            std::initializer_list<Option> others) {
        for (const auto& [name, given] : others) {
            if (option.second && given) {
                throw_error<UsageError>("{}: {}, leave {} out", option.first, why, name);
            }
        }
    };
    exclude(compare, "its pictures are on white", {transparent, background});
    exclude(compare, "shows the target and the grown picture", {hidden, alpha, strip});
    exclude(hidden, "its colours show values", {alpha, transparent});
    exclude(alpha, "its greys show values", {transparent});
    exclude(background, "a picture has one or is transparent", {transparent});
    exclude(strip, "its frames are evenly spaced", {every});
}

void check_combinations(const GrowArguments& arguments, Format format) {
    check_looks(arguments);
    const std::pair<const char*, const std::filesystem::path&> of_one_model[] = {
        {"--compare", arguments.compare}, {"--state-out", arguments.state_out}};
    for (const auto& [name, path] : of_one_model) {
        if (!path.empty() && arguments.models.size() > 1) {
            throw_error<UsageError>("{}: takes one model, got {}: leave it out of a mosaic", name,
                                    arguments.models.size());
        }
    }
    if ((!arguments.compare.empty() || arguments.strip) && format != Format::png) {
        throw_error<UsageError>("{}: needs one output that ends in .png, got {}",
                                arguments.strip ? "--strip" : "--compare",
                                arguments.output.string());
    }
    if (arguments.strip && *arguments.strip - 1 > arguments.steps) {
        throw_error<UsageError>(
            "--strip {}: at --steps {} there are {} states: take fewer frames, or more --steps",
            *arguments.strip, arguments.steps, arguments.steps + 1);
    }
    const auto& starts = arguments.starts;
    if (!arguments.compare.empty() &&
        std::any_of(starts.begin(), starts.end(),
                    [&](const Place& start) { return start != starts.front(); })) {
        throw UsageError("--compare: the target grows from one cell, give --seed-at once");
    }
    for (const Damage& damage : arguments.damages) {
        if (damage.step > arguments.steps) {
            throw_error<UsageError>("--damage {}: after the last step, which is {}", damage.step,
                                    arguments.steps);
        }
    }
}

// outputs: the files of the pictures.
void check_files(const GrowArguments& arguments,
                 const std::vector<std::filesystem::path>& outputs) {
    std::vector<std::pair<const char*, std::filesystem::path>> inputs = {
        {"--compare", arguments.compare}};
    for (const std::filesystem::path& model : arguments.models) inputs.emplace_back("MODEL", model);
    for (const auto& [name, path] : inputs) {
        for (const std::filesystem::path& output : outputs) {
            require_different("-o", output, name, path);
        }
        require_different("--state-out", arguments.state_out, name, path);
    }
    for (const std::filesystem::path& output : outputs) {
        require_different("-o", output, "--state-out", arguments.state_out);
        require_kind("-o", output, picture_kind);
        // Where the first file can be written, so can those that are missing or files.
        std::error_code ignored;
        const auto type = std::filesystem::symlink_status(output, ignored).type();
        if (&output == &outputs.front() || (type != std::filesystem::file_type::not_found &&
                                            type != std::filesystem::file_type::regular)) {
            require_writable(output);
        }
    }
    require_kind("--state-out", arguments.state_out, npy_kind);
    if (!arguments.state_out.empty()) require_writable(arguments.state_out);
}

// Whether the middle of any cell is in the circle. The nearest cell decides.
bool touches_a_cell(const Damage& circle, const GridSize& grid) {
    const double x = std::clamp<double>(std::round(circle.x), 0, grid.width - 1);
    const double y = std::clamp<double>(std::round(circle.y), 0, grid.height - 1);
    return std::hypot(x - circle.x, y - circle.y) <= circle.radius;
}

// Throws UsageError where a start cell or a circle of damage is outside the grid.
void check_places(const GrowArguments& arguments, const GridSize& grid) {
    require_inside(arguments.starts, grid);
    for (const Damage& damage : arguments.damages) {
        if (damage.shape == Damage::Shape::circle && !touches_a_cell(damage, grid)) {
            throw_error<UsageError>("--damage {}:circle,{},{},{}: touches no cell of {}",
                                    damage.step, damage.x, damage.y, damage.radius, cells_of(grid));
        }
    }
}

// How long a side has to be, so that this place is inside of a grid with the same middle.
std::int64_t needed_side(std::int64_t place, std::int64_t side) {
    const std::int64_t from_middle = place - side / 2;
    return std::max(side, from_middle < 0 ? -2 * from_middle : 2 * from_middle + 1);
}

// Where each model starts: at --seed-at, or where it was trained to. Throws UsageError where that
// is outside the grid.
std::vector<std::vector<Place>> starts_of(const GrowArguments& arguments,
                                          const std::vector<Model>& models, const GridSize& grid) {
    std::vector<std::vector<Place>> starts;
    for (std::size_t i = 0; i < models.size(); ++i) {
        if (!arguments.starts.empty()) {
            starts.push_back(arguments.starts);
            continue;
        }
        starts.push_back(trained_starts(models[i].history, grid, arguments.angle));
        std::int64_t height = grid.height, width = grid.width;
        for (const Place& start : starts.back()) {
            height = std::max(height, needed_side(start.y, grid.height));
            width = std::max(width, needed_side(start.x, grid.width));
        }
        if (height == grid.height && width == grid.width) continue;
        throw_error<UsageError>(
            "{} was trained to start from a cell that is outside the grid of {}x{} cells: give "
            "--size {}x{} or more, or another start cell by --seed-at",
            arguments.models[i].string(), grid.height, grid.width, height, width);
    }
    return starts;
}

// Where the middle of the target is, so that it lies where the picture grows. Throws UsageError
// where that cannot be said.
Place middle_of_target(const GrowArguments& arguments, const Model& model, const GridSize& grid) {
    const Place middle = middle_of(grid);
    if (arguments.starts.empty()) return middle;
    const std::vector<Place> trained = trained_starts(model.history, grid, arguments.angle);
    if (trained.size() > 1) {
        throw_error<UsageError>(
            "--compare: {} was trained to grow from {} cells, leave --seed-at out",
            arguments.models.front().string(), trained.size());
    }
    const Place& start = arguments.starts.front();
    return {start.y - trained.front().y + middle.y, start.x - trained.front().x + middle.x};
}

void apply(const Damage& damage, Simulator& simulator) {
    const StateView state = simulator.state();
    const int middle_row = state.height / 2;
    const int middle_column = state.width / 2;
    switch (damage.shape) {
        case Damage::Shape::circle:
            return simulator.erase_circle(damage.y, damage.x, damage.radius);
        case Damage::Shape::left:
            return simulator.erase_rectangle(0, 0, state.height, middle_column);
        case Damage::Shape::right:
            return simulator.erase_rectangle(0, middle_column, state.height, state.width);
        case Damage::Shape::top:
            return simulator.erase_rectangle(0, 0, middle_row, state.width);
        case Damage::Shape::bottom:
            return simulator.erase_rectangle(middle_row, 0, state.height, state.width);
    }
}

std::vector<Model> load_models(const GrowArguments& arguments) {
    std::vector<Model> models;
    for (const std::filesystem::path& path : arguments.models) {
        Model& model = models.emplace_back(load_model(path, arguments.load));
        model.rule = model.rule.rotated(arguments.angle);
        model.rule.fire_rate = arguments.fire_rate.value_or(model.rule.fire_rate);
    }
    return models;
}

std::vector<Simulator> make_simulators(const GrowArguments& arguments,
                                       const std::vector<Model>& models, const GridSize& grid,
                                       const std::vector<std::vector<Place>>& starts) {
    std::vector<Simulator> simulators;
    for (std::size_t i = 0; i < models.size(); ++i) {
        Simulator& simulator =
            simulators.emplace_back(models[i], SimulatorOptions{.device = arguments.device,
                                                                .height = grid.height,
                                                                .width = grid.width,
                                                                .seed = arguments.seed});
        for (const Place& start : starts[i]) simulator.plant_seed(start.y, start.x);
    }
    return simulators;
}

// What to do where weights and rule do not fit together.
const char* another_rule(const Model& model) {
    return model.origin.rule_source == RuleSource::file
               ? "convert or train it anew with another rule"
               : "name the rule by --rule and --input-order";
}

// Looks at the grids while they run.
class Watch {
public:
    explicit Watch(const GrowArguments& arguments)
        : arguments_(arguments),
          dead_since_(arguments.models.size()),
          largest_(arguments.models.size()) {}

    // Throws Error where a state is not finite.
    void look(const std::vector<Simulator>& simulators) {
        for (std::size_t i = 0; i < simulators.size(); ++i) {
            const StateCheck check = simulators[i].check();
            const std::int64_t step = simulators[i].steps_done();
            if (!check.finite) {
                throw_error<Error>(
                    "{}: after step {} of {} the state is not finite, and no picture was written; "
                    "most likely weights and rule do not fit together: {}, or take another model",
                    arguments_.models[i].string(), step, arguments_.steps,
                    another_rule(simulators[i].model()));
            }
            if (check.living > 0) dead_since_[i].reset();
            if (check.living == 0 && !dead_since_[i]) dead_since_[i] = step;
            largest_[i] = check.largest;
        }
    }

    // Says which grids are dead, and which have values that no trained automaton has.
    void report(const std::vector<Simulator>& simulators) const {
        constexpr float unlikely = 100;
        for (std::size_t i = 0; i < largest_.size(); ++i) {
            if (largest_[i] <= unlikely) continue;
            say("{}: after step {} values reach {:.1e}, those of trained automata 10 or so: most "
                "likely weights and rule do not fit together: {}, or take another model",
                arguments_.models[i].string(), arguments_.steps, largest_[i],
                another_rule(simulators[i].model()));
        }
        for (std::size_t i = 0; i < dead_since_.size(); ++i) {
            if (!dead_since_[i]) continue;
            say("{}: all cells were dead after step {} of {}: {}", arguments_.models[i].string(),
                *dead_since_[i], arguments_.steps,
                arguments_.damages.empty()
                    ? "take fewer --steps, or a model of the preset persistent or regenerating"
                    : "take less --damage or fewer --steps");
        }
    }

private:
    const GrowArguments& arguments_;
    // For each model the step after which it was first seen dead.
    std::vector<std::optional<std::int64_t>> dead_since_;
    // For each model the largest magnitude in its state when it was last looked at.
    std::vector<float> largest_;
};

// After how many steps a picture is taken, counted from 0. The last state is one more picture where
// it is none of these.
std::int64_t step_of_picture(const GrowArguments& arguments, int every, std::int64_t picture) {
    if (!arguments.strip) return picture * every;
    const std::int64_t gaps = *arguments.strip - 1;
    return (2 * picture * arguments.steps + gaps) / (2 * gaps);  // rounded
}

// Runs all steps. Calls photograph before the first step, after those of step_of_picture and after
// the last one, with true for the last. A picture shows damage that is done after the same step.
// The watch looks at each picture's state, and at about a hundred states of the run.
template <class Photograph>
void run(std::vector<Simulator>& simulators, const GrowArguments& arguments, int every,
         Watch& watch, Photograph photograph) {
    std::vector<Damage> damages = arguments.damages;
    std::stable_sort(damages.begin(), damages.end(),
                     [](const Damage& a, const Damage& b) { return a.step < b.step; });
    auto next_damage = damages.begin();
    std::int64_t next_look = 0;
    std::int64_t next_picture = 0;
    std::int64_t pictures = 0;
    for (std::int64_t done = 0;;) {
        for (; next_damage != damages.end() && next_damage->step == done; ++next_damage) {
            for (Simulator& simulator : simulators) apply(*next_damage, simulator);
        }
        const bool last = done == arguments.steps;
        if (done == next_look || done == next_picture || last) watch.look(simulators);
        if (done == next_look) next_look += hundredth(arguments.steps);
        if (done == next_picture || last) {
            photograph(last);
            next_picture = step_of_picture(arguments, every, ++pictures);
        }
        if (last) return;
        std::int64_t stop = std::min({next_look, next_picture, std::int64_t{arguments.steps}});
        if (next_damage != damages.end()) stop = std::min<std::int64_t>(stop, next_damage->step);
        for (Simulator& simulator : simulators) simulator.step(int(stop - done));
        done = stop;
    }
}

// The end of the line that says what was written.
std::string colours_of_hidden(const GrowArguments& arguments, const Camera& camera) {
    if (!arguments.hidden) return "";
    const float largest = camera.largest_hidden_value();
    return fmt::format(", hidden channels from -{0} (blue) to {0} (red){1}", hidden_range,
                       largest > hidden_range ? fmt::format(", values reach {:.1f}", largest) : "");
}

void save_frames(const GrowArguments& arguments, Format format,
                 const std::vector<std::filesystem::path>& outputs, const Camera& camera) {
    const std::vector<Image>& frames = camera.frames();
    switch (format) {
        case Format::gif:
            save_gif(outputs.front(), frames, centiseconds);
            break;
        case Format::webp:
            save_webp(outputs.front(), frames, centiseconds);
            break;
        case Format::png:
        case Format::numbered:
            for (std::size_t i = 0; i < frames.size(); ++i) save_png(outputs[i], frames[i]);
            break;
    }
    const std::filesystem::path& name =
        format == Format::numbered ? arguments.output : outputs.front();
    print("{}: {} steps, {} of {}x{} pixels{}\n", without_controls(name.string()), arguments.steps,
          arguments.strip      ? fmt::format("a strip of {} frames", *arguments.strip)
          : frames.size() == 1 ? "a picture"
                               : fmt::format("{} frames", frames.size()),
          frames.back().height, frames.back().width, colours_of_hidden(arguments, camera));
}

void save_comparison(const GrowArguments& arguments, const std::filesystem::path& output,
                     const Simulator& simulator, const std::vector<float>& wanted,
                     const GridSize& grid) {
    const ConstStateView view{wanted.data(), 1, grid.height, grid.width, MemorySpace::host};
    const Image target = on_white(picture(simulator.model().rule, view));
    const Image grown = on_white(simulator.picture());
    const Image pictures[] = {target, grown, absolute_difference(target, grown)};
    save_png(output, enlarge(mosaic(pictures, layout_of(arguments), 255), arguments.scale));
    print("{}: loss {:.3e} against {}\n", without_controls(output.string()),
          mean_squared_error(simulator.download(), wanted),
          without_controls(arguments.compare.string()));
}

void save_state(const std::filesystem::path& path, const Simulator& simulator,
                const GridSize& grid) {
    const std::vector<float> values = simulator.download();
    save_npy(path, {values.data(), 1, grid.height, grid.width, MemorySpace::host});
}

}  // namespace

int grow(const GrowArguments& arguments) {
    const OutputName name(arguments.output);
    const Format format = output_format(arguments.output, name);
    const int every = arguments.every.value_or(hundredth(arguments.steps));
    const std::vector<std::filesystem::path> outputs = output_files(name, arguments.steps, every);
    check_combinations(arguments, format);
    check_files(arguments, outputs);
    const std::vector<Model> models = load_models(arguments);
    const GridSize grid = grid_size(arguments, models);
    const bool animation = format != Format::png;
    const int pictures = animation ? arguments.steps / every + 2 : 4;
    const GridSize whole = picture_size(arguments, grid);
    check_sides(arguments, format, grid, whole);
    check_pixels(arguments, whole, pictures);
    check_memory(arguments, grid, whole, pictures);
    check_places(arguments, grid);
    const std::vector<std::vector<Place>> starts = starts_of(arguments, models, grid);
    const bool compare = !arguments.compare.empty();
    std::vector<float> wanted;
    if (compare) {
        const Image target = load_target(arguments.compare);
        if (target.animated) say("{}: {}", arguments.compare.string(), animated_note);
        wanted = target_state(target, models.front(), grid,
                              middle_of_target(arguments, models.front(), grid), arguments.angle);
    }

    std::vector<Simulator> simulators = make_simulators(arguments, models, grid, starts);
    say(running_on(simulators.front().engine(), arguments.device));
    check_precision(simulators.front().engine(), arguments.device);
    Camera camera(arguments, grid);
    Watch watch(arguments);
    run(simulators, arguments, every, watch, [&](bool last) {
        const bool taken = animation || arguments.strip || (last && !compare);
        if (taken) camera.photograph(simulators);
    });
    watch.report(simulators);

    if (compare) {
        save_comparison(arguments, outputs.front(), simulators.front(), wanted, grid);
    } else {
        save_frames(arguments, format, outputs, camera);
    }
    if (!arguments.state_out.empty()) save_state(arguments.state_out, simulators.front(), grid);
    return exit_done;
}

}  // namespace nca::tool
