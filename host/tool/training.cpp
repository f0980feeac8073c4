// SPDX-License-Identifier: MIT
#include "host/tool/training.hpp"

#include "host/core/median.hpp"
#include "host/core/throw_error.hpp"
#include "host/files/model_file.hpp"
#include "host/iteration/start_places.hpp"
#include "host/tool/console.hpp"
#include "host/tool/init.hpp"
#include "host/tool/output_files.hpp"
#include "host/tool/rule_text.hpp"
#include "host/tool/signals.hpp"
#include "host/tool/target_image.hpp"
#include "host/tool/target_parts.hpp"
#include "host/tool/training_pictures.hpp"

#include <nca/error.hpp>
#include <nca/image.hpp>

#include <algorithm>
#include <limits>

namespace nca::tool {
namespace {

// A model can be read from a checkpoint, too, but not the other way round.
bool is_checkpoint(const std::filesystem::path& path) {
    return SafetensorsReader(path).metadata().contains(progress_key);
}

const OutputKind checkpoint_kind{"a checkpoint", {".checkpoint", ".safetensors"}, is_checkpoint};
const OutputKind log_kind{"a log of nca train", {".csv"}, TrainingLog::is_log};
const OutputKind report_kind{"a report of nca train", {".html", ".htm"}, is_training_page};

using NamedPath = std::pair<const char*, std::filesystem::path>;

// The files that are written, without pictures. An empty path is an option not given.
std::vector<NamedPath> single_files(const TrainArguments& arguments) {
    return {{"MODEL", arguments.output},
            {"--checkpoint", arguments.checkpoint},
            {"the checkpoint that Ctrl-C writes",
             arguments.checkpoint.empty() ? arguments.stop_checkpoint : ""},
            {"--log", arguments.log},
            {"--report", arguments.report}};
}

// The message where saving failed, for lack of memory too; empty where it did not.
template <class Save>
std::string failure(Save save) {
    try {
        save();
        return "";
    } catch (const std::exception& error) {
        return message_of(error);
    }
}

}  // namespace

std::string description(const TrainingConfig& config, int largest_grid) {
    const int grid = config.grid();
    return fmt::format(
        "preset {}: {}x{}{} cells, batch {}, {}..{} steps", preset_text(config), grid, grid,
        largest_grid > grid ? fmt::format(" to {}x{}", largest_grid, largest_grid) : "",
        config.batch, config.fewest_steps, config.most_steps - 1);
}

void require_different_files(const TrainArguments& arguments, const std::filesystem::path& target) {
    std::vector<NamedPath> files = single_files(arguments);
    if (!arguments.pictures.empty()) {
        for (const std::filesystem::path& path : picture_files(arguments.pictures)) {
            files.emplace_back("--pictures", path);
        }
    }
    for (std::size_t i = 0; i < files.size(); ++i) {
        const auto& [name, path] = files[i];
        require_different(name, path, "TARGET", target);
        require_different(name, path, "--init", arguments.init);
        for (std::size_t j = i + 1; j < files.size(); ++j) {
            require_different(name, path, files[j].first, files[j].second);
        }
        if (path != arguments.stop_checkpoint) {  // a run may resume from its own
            require_different(name, path, "--resume", arguments.resume);
        }
    }
}

void require_output_kinds(const TrainArguments& arguments) {
    if (lower_case_extension(arguments.output) != ".safetensors") {
        throw_error<UsageError>("-o {}: the model's name has to end in .safetensors",
                                arguments.output.string());
    }
    require_kind("-o", arguments.output, model_kind);
    require_kind("--checkpoint", arguments.checkpoint, checkpoint_kind);
    if (arguments.checkpoint.empty()) {
        require_kind("the checkpoint that Ctrl-C writes,", arguments.stop_checkpoint,
                     checkpoint_kind);
    }
    require_kind("--log", arguments.log, log_kind);
    require_kind("--report", arguments.report, report_kind);
    if (arguments.pictures.empty()) return;
    require_folder("--pictures", arguments.pictures);
    for (const std::filesystem::path& path : picture_files(arguments.pictures)) {
        require_kind("--pictures", path, png_kind);
    }
}

void require_no_earlier_run(const TrainArguments& arguments) {
    if (arguments.overwrite) return;
    if (has_contents(arguments.output) && iterations_in_file(arguments.output) == 0) {
        throw_error<UsageError>(
            "{} has no history of iterations, it may be the work of others: give --overwrite to "
            "replace it, or name another file",
            arguments.output.string());
    }
    if (!arguments.resume.empty()) {
        const std::int64_t done = iterations_in_file(arguments.resume);
        for (const std::filesystem::path& path : {arguments.output, arguments.stop_checkpoint}) {
            const std::int64_t more = iterations_in_file(path);
            if (done == 0 || more <= done) continue;
            throw_error<UsageError>(
                "{} has {} iterations, and {} only {}: give --overwrite to go back to these, or "
                "name another file",
                path.string(), more, arguments.resume.string(), done);
        }
        return;
    }
    const std::filesystem::path& checkpoint = arguments.stop_checkpoint;
    const std::pair<const std::filesystem::path&, std::int64_t> files[] = {
        {checkpoint, iterations_in_file(checkpoint)},
        {arguments.output, iterations_in_file(arguments.output)},
        {arguments.log, TrainingLog::rows_in(arguments.log)}};
    for (const auto& [path, iterations] : files) {
        if (iterations == 0) continue;
        throw_error<UsageError>(
            "{} has {} iterations of an earlier run: give {}--overwrite to begin anew, or name "
            "another file",
            path.string(), iterations,
            files[0].second > 0
                ? fmt::format("--resume {} to go on or ", arguments.resume_from.string())
                : "");
    }
}

void require_writable_files(const TrainArguments& arguments) {
    // The pictures' folder is made later, when the target has been read.
    for (const auto& [name, path] : single_files(arguments)) {
        if (!path.empty()) require_writable(path);
    }
}

Training::Training(const TrainArguments& arguments, Progress::Training progress, const Model* init)
    : arguments_(arguments), progress_(progress), trainer_(start()) {
    if (trainer_.iteration() > arguments.iterations) {
        throw_error<UsageError>(
            "{} has {} iterations already, more than {}: take more "
            "--iterations",
            arguments.resume.string(), trainer_.iteration(), arguments.iterations);
    }
    if (init != nullptr && arguments.resume.empty()) {
        trainer_.start_from(*init, init_name(arguments));
    }
    if (!arguments.target.empty()) {
        trainer_.set_target_name(arguments.target.filename().string());
    }
    trainer_.set_wanted_iterations(arguments.iterations);
    if (!arguments.log.empty()) {
        log_.emplace(arguments.log, trainer_.iteration(), engine_and_form());
    }
    if (!arguments.report.empty() || !arguments.pictures.empty()) {
        report_.emplace(arguments);
        if (log_) report_->add_earlier(log_->earlier(), log_->earlier_seconds());
    }
}

void Training::check_target() {
    if (arguments_.quiet) return;
    const TrainingConfig& config = trainer_.config();
    const std::string target = target_text();
    const std::vector<Place> starts = start_places(config);
    const std::vector<Place> holes = starts_in_holes();
    for (const Place& start : holes) {
        progress_.say("{} is {}, and {} is likely to die of that: {}", target, hole_text(start),
                      holes.size() == starts.size() ? "training" : "what starts there",
                      way_out(start));
    }
    if (!holes.empty()) return;
    const auto warn = [&](const Unreached& unreached, const std::string& why) {
        if (unreached.cells == 0) return;
        progress_.say(
            "{}: {} of its {} cells, the first in row {} and column {} of the grid, are {}", target,
            unreached.cells, unreached.all, unreached.first.y, unreached.first.x, why);
    };
    const bool wraps = config.rule.edges == Edges::circular;
    const Unreached apart = find_unreached(trainer_.target(), config.grid(), starts, wraps);
    const bool named = !config.start_cells.empty();
    warn(apart,
         fmt::format("not connected to {} and will not grow: join the parts, leave them out, or "
                     "start there, too: {}--seed-at {},{}",
                     starts.size() > 1 ? "any start cell"
                     : named           ? "the start cell"
                                       : "the start cell in the middle",
                     named ? "one more "
                           : fmt::format("--seed-at {},{} ", starts.front().x, starts.front().y),
                     apart.first.x, apart.first.y));
    if (config.pool > 0) return;  // its states go on growing for many rollouts
    const bool own_losses = config.latest_loss_step > 0;
    const int steps = (own_losses ? config.latest_loss_step : config.most_steps) - 1;
    warn(find_too_far(trainer_.target(), config.grid(), starts, wraps, steps),
         fmt::format("farther from {} than {} steps grow, one cell a step: give more {}, or a "
                     "smaller --size",
                     starts.size() > 1 ? "every start cell" : "the start cell", steps,
                     own_losses ? "--loss-steps" : "--steps"));
}

std::vector<Place> Training::starts_in_holes() const {
    std::vector<Place> starts = start_places(trainer_.config());
    std::erase_if(starts, [&](const Place& start) {
        return lives(trainer_.target(), start.y * trainer_.config().grid() + start.x);
    });
    return starts;
}

std::string Training::hole_text(const Place& start) const {
    if (trainer_.config().start_cells.empty()) {
        return "transparent in the middle, where the start cell is";
    }
    return fmt::format("transparent in row {} and column {} of the grid, where a start cell is",
                       start.y, start.x);
}

std::string Training::way_out(const Place& start) const {
    const Place nearest = nearest_living(trainer_.target(), trainer_.config().grid(), start);
    return fmt::format("--seed-at {},{} starts on the nearest cell that is not", nearest.x,
                       nearest.y);
}

// The target's file, for messages.
std::string Training::target_text() const {
    return arguments_.target.empty() ? trainer_.model().history.target : arguments_.target.string();
}

RunState Training::run() {
    try {
        const RunState state = train_and_save();
        finish_report(state, save_error_);
        return state;
    } catch (const std::exception& error) {
        finish_report(RunState::failed, error.what());
        throw;
    }
}

RunState Training::train_and_save() {
    const std::int64_t first = trainer_.iteration();
    if (first >= arguments_.iterations && !arguments_.quiet) {
        progress_.say("all {} iterations are done; more --iterations train on", first);
    }
    progress_.reach(first);
    while (!is_finished() && !must_stop()) iterate();
    report_log(log_ && !log_->sync());
    if (is_finished()) return finish();
    if (trainer_.iteration() == first) {
        progress_.say("{} before the first iteration was done: nothing new to save",
                      stopped_text());
    } else {
        stop();
    }
    return RunState::stopped;
}

// The median of the last losses; nothing where there are too few.
std::optional<double> Training::loss_for_stop_at() const {
    constexpr std::size_t window = 50;
    const std::vector<double>& losses = trainer_.recent_losses();
    if (losses.size() < window) return std::nullopt;
    return median({losses.end() - std::ptrdiff_t(window), losses.end()});
}

bool Training::is_finished() const {
    if (trainer_.iteration() >= arguments_.iterations) return true;
    const std::optional<double> loss = arguments_.stop_at ? loss_for_stop_at() : std::nullopt;
    return loss && *loss < *arguments_.stop_at;
}

Trainer Training::start() {
    require_output_kinds(arguments_);
    require_no_earlier_run(arguments_);
    require_writable_files(arguments_);
    const bool has_image = !arguments_.target.empty();
    const Image target = has_image ? load_target(arguments_.target) : Image();
    const TrainingConfig config = has_image ? config_for(target, arguments_) : arguments_.config;
    if (has_image && !arguments_.quiet) {
        for (const std::string& note : image_notes(target, arguments_, config)) {
            progress_.say("{}: {}", arguments_.target.string(), note);
        }
    }
    if (!arguments_.pictures.empty()) {
        make_folder(arguments_.pictures);
        for (const std::filesystem::path& path : picture_files(arguments_.pictures)) {
            require_writable(path);
        }
    }
    if (!has_image) return Trainer::from_checkpoint(arguments_.resume, arguments_.device);
    Trainer trainer(target, config, arguments_.device);
    if (!arguments_.resume.empty()) trainer.resume(arguments_.resume);
    return trainer;
}

std::string Training::engine_and_form() const {
    const Engine& engine = trainer_.engine();
    const TrainingConfig& config = trainer_.config();
    return fmt::format(
        "{}; {}", engine.description(),
        engine.rollout_form(config.batch, config.grid(), config.grid(), config.rule).text);
}

// How many iterations to run before the end or the next checkpoint.
int Training::iterations_at_most() const {
    std::int64_t most = arguments_.iterations - trainer_.iteration();
    if (!arguments_.checkpoint.empty()) {
        most = std::min(most, arguments_.every - trainer_.iteration() % arguments_.every);
    }
    return int(std::min<std::int64_t>(most, std::numeric_limits<int>::max()));
}

void Training::iterate() {
    std::vector<IterationReport> reports;
    try {
        reports = trainer_.iterate(iterations_at_most());
    } catch (const Error& error) {
        report_log(log_ && !log_->sync());
        const std::vector<Place> holes = starts_in_holes();
        throw_error<Error>("{}; {} was not written{}{}", message_of(error),
                           arguments_.output.string(), last_checkpoint(),
                           holes.empty()
                               ? ""
                               : fmt::format("; the target is {}: {}", hole_text(holes.front()),
                                             way_out(holes.front())));
    }
    for (const IterationReport& report : reports) {
        progress_.add(report);
        if (!report.recovery.empty()) {
            recovered_ = true;
            progress_.say("iteration {}: {}", report.iteration, report.recovery);
        }
        report_log(log_ && !log_->add(report));
        if (report_) report_->add(report);
    }
    progress_.reach(trainer_.iteration());
    if (!arguments_.checkpoint.empty() && reports.back().recovery.empty() &&
        trainer_.iteration() % arguments_.every == 0) {
        save_checkpoint();
    }
    if (report_) {
        const std::string problem = report_->update(trainer_);
        if (!problem.empty()) progress_.say("{}; training goes on", problem);
    }
}

void Training::finish_report(RunState state, const std::string& error) {
    const std::string problem = report_ ? report_->finish(trainer_, state, error) : "";
    if (!problem.empty()) progress_.say(problem);
}

void Training::report_log(bool failed) {
    if (failed) {
        progress_.say("cannot write {}: it ends here, training goes on", arguments_.log.string());
    }
}

void Training::save_checkpoint() {
    // First the log: a run that is resumed from the checkpoint has all rows before it.
    report_log(log_ && !log_->sync());
    const std::string problem = failure([&] { trainer_.save_checkpoint(arguments_.checkpoint); });
    if (problem.empty()) {
        checkpointed_ = trainer_.iteration();
    } else {
        progress_.say("no checkpoint: {}; training goes on", problem);
    }
}

std::string Training::last_checkpoint() const {
    return checkpointed_ < 0 ? ""
                             : fmt::format("; {} holds iteration {}",
                                           arguments_.checkpoint.string(), checkpointed_);
}

RunState Training::finish() {
    Model model = trainer_.model();
    const bool at_loss = trainer_.iteration() < arguments_.iterations;  // by --stop-at
    if (at_loss) model.history.stop_at = *arguments_.stop_at;
    if (recovered_ && !(model.history.loss < 0.95 * trainer_.blank_loss())) {
        throw_error<Error>(
            "training failed on the way and has learnt nothing: its loss is {:.3e}, that of a "
            "blank image {:.3e}; {} was not written; start again with another learning rate, "
            "another seed or more iterations",
            model.history.loss, trainer_.blank_loss(), arguments_.output.string());
    }
    // The checkpoint comes first: a run that is killed between the two goes on from it.
    std::string no_checkpoint;
    if (!arguments_.checkpoint.empty() && checkpointed_ != trainer_.iteration()) {
        no_checkpoint = failure([&] { trainer_.save_checkpoint(arguments_.checkpoint); });
    }
    save_error_ = failure([&] { model.save(arguments_.output); });
    if (!save_error_.empty()) {
        if (arguments_.checkpoint.empty()) {
            no_checkpoint = failure([&] { trainer_.save_checkpoint(arguments_.stop_checkpoint); });
        }
        if (!no_checkpoint.empty()) {
            throw_error<IoError>("{}; no checkpoint could be written either{}", save_error_,
                                 last_checkpoint());
        }
        saved_ = true;
        progress_.say("{}; the weights are in {}", save_error_,
                      arguments_.stop_checkpoint.string());
        return RunState::failed;
    }
    if (!no_checkpoint.empty()) {
        throw_error<IoError>("no checkpoint: {}; the model is in {}", no_checkpoint,
                             arguments_.output.string());
    }
    if (!arguments_.quiet) {
        if (at_loss) {
            progress_.say(
                "ends after {} of {} iterations: the median of the last 50 losses is {:.3e}, below "
                "--stop-at {}",
                trainer_.iteration(), arguments_.iterations, *loss_for_stop_at(),
                *arguments_.stop_at);
        }
        progress_.print(fmt::format("{}: {} iterations, loss {:.3e}\n",
                                    without_controls(arguments_.output.string()),
                                    model.history.iterations, model.history.loss));
    }
    return RunState::done;
}

void Training::stop() {
    // Tries to write both files: each is useful without the other. The checkpoint comes first, as
    // in finish().
    const std::string no_checkpoint =
        failure([&] { trainer_.save_checkpoint(arguments_.stop_checkpoint); });
    const std::string no_model = failure([&] { trainer_.model().save(arguments_.output); });
    progress_.say("{} after {} of {} iterations; {}", stopped_text(), trainer_.iteration(),
                  arguments_.iterations,
                  no_model.empty()
                      ? fmt::format("the weights so far are in {}", arguments_.output.string())
                      : no_model);
    if (!no_checkpoint.empty()) throw IoError(no_checkpoint + last_checkpoint());
    saved_ = true;
}

}  // namespace nca::tool
