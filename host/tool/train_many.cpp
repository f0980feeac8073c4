// SPDX-License-Identifier: MIT
// `nca train` with several targets: independent trainings side by side, on several threads.
#include "host/core/throw_error.hpp"
#include "host/files/json_fields.hpp"
#include "host/tool/arguments/arguments.hpp"
#include "host/tool/console.hpp"
#include "host/tool/init.hpp"
#include "host/tool/output_files.hpp"
#include "host/tool/resume.hpp"
#include "host/tool/signals.hpp"
#include "host/tool/target_image.hpp"
#include "host/tool/threads.hpp"
#include "host/tool/training.hpp"

#include <nca/engine.hpp>
#include <nca/error.hpp>
#include <nca/image.hpp>
#include <nca/model.hpp>

#include <algorithm>
#include <atomic>
#include <optional>
#include <system_error>
#include <thread>

namespace nca::tool {
namespace {

enum class End { not_begun, done, stopped, failed };

struct Run {
    std::string name;
    TrainArguments arguments;
    TrainingConfig config;  // for its target
    End end = End::not_begun;
};

// One target's training, with its own files in the common folders.
Run run_of(const TrainManyArguments& many, const std::filesystem::path& target) {
    Run run{target.stem().string(), many.common, {}, End::not_begun};
    const auto name_file = [&](std::filesystem::path& path, const char* extension) {
        if (!path.empty()) path /= run.name + extension;
    };
    TrainArguments& one = run.arguments;
    one.target = target;
    one.output /= run.name + ".safetensors";
    name_file(one.checkpoint, ".checkpoint");
    name_file(one.stop_checkpoint, ".checkpoint");
    name_file(one.resume, ".checkpoint");
    name_file(one.log, ".csv");
    name_file(one.report, ".html");
    name_file(one.pictures, "");
    return run;
}

std::vector<Run> runs_of(const TrainManyArguments& many) {
    std::vector<Run> runs;
    for (const std::filesystem::path& target : many.targets) {
        const Run run = run_of(many, target);
        for (const Run& other : runs) {
            if (other.name == run.name) {
                throw_error<UsageError>(
                    "{} and {} would both become {}: rename one, or train it on its own",
                    other.arguments.target.string(), target.string(),
                    run.arguments.output.string());
            }
        }
        runs.push_back(run);
    }
    return runs;
}

// Checks the files of all trainings before hours of work. Throws Error and UsageError.
void check_files(const TrainManyArguments& many, const std::vector<Run>& runs) {
    const TrainArguments& common = many.common;
    if (!common.checkpoint.empty() && !common.resume.empty() &&
        resolved(common.checkpoint) != resolved(common.resume)) {
        throw_error<UsageError>(
            "--checkpoint {} and --resume {}: several targets go on in the folder that they came "
            "from, name one",
            common.checkpoint.string(), common.resume.string());
    }
    for (const Run& run : runs) {
        for (const std::filesystem::path& target : many.targets) {
            require_different_files(run.arguments, target);
        }
    }
    if (lower_case_extension(common.output) == ".safetensors") {
        throw_error<UsageError>("-o {}: of several targets it is a folder, with a model for each",
                                common.output.string());
    }
    for (const auto& [name, folder] :
         {std::pair<const char*, std::filesystem::path>{"-o", common.output},
          {"--checkpoint", common.checkpoint},
          {"--log", common.log},
          {"--report", common.report},
          {"--pictures", common.pictures}}) {
        require_folder(name, folder);
    }
    for (const Run& run : runs) require_output_kinds(run.arguments);
}

// One of the checkpoints in the folder of --resume. The others have the same options.
struct AnyCheckpoint {
    std::filesystem::path path;
    CheckpointInfo info;
};

// Takes the options that the checkpoints in the folder of --resume have in common; where there are
// none, those of the command line. Trainings without a checkpoint there will begin. Throws
// UsageError where checkpoints differ.
std::optional<AnyCheckpoint> take_options(TrainArguments& common, std::vector<Run>& runs) {
    std::optional<AnyCheckpoint> first;
    for (Run& run : runs) {
        std::filesystem::path& path = run.arguments.resume;
        std::error_code ignored;
        if (!std::filesystem::exists(path, ignored)) {  // begins anew, unless there is a model
            path.clear();
            run.arguments.overwrite |= !has_contents(run.arguments.output);
            continue;
        }
        const CheckpointInfo info = resumed_info(path);
        require_same_options(common, path, info);
        if (!first) first = {path, info};
        require_same_options(first->path, first->info, path, info);
        const std::int64_t wanted = wanted_iterations(common, first->info);
        if (wanted_iterations(common, info) != wanted) {
            throw_error<UsageError>(
                "{} was to have {} iterations, and {} {}: give --iterations, for all of them",
                first->path.string(), wanted, path.string(), wanted_iterations(common, info));
        }
        run.arguments.config = info.config;
    }
    if (!first) {
        common.config = common.configure(nullptr);
        return first;
    }
    common.config = first->info.config;
    common.iterations = wanted_iterations(common, first->info);
    for (Run& run : runs) run.arguments.iterations = common.iterations;
    return first;
}

// Reads the targets and sets the configurations for them. Throws Error where one is bad, and
// UsageError where the checkpoints of --resume differ in --size.
void read_targets(TrainArguments& common, std::vector<Run>& runs) {
    const auto read = [](Run& run) {
        const Image target = load_target(run.arguments.target);
        run.config = config_for(target, run.arguments);
        make_target(target, run.config);
        return longer_side(target);
    };
    // A checkpoint does not say whether there was a --size. Without it small targets keep their own
    // size, and with it all have the same.
    const int usual_size = TrainingConfig().target_size;
    bool own_sizes = !common.size_given;
    std::vector<const Run*> resumed;
    for (Run& run : runs) {
        if (run.arguments.resume.empty()) continue;
        const int longer = read(run);
        own_sizes &= run.config.target_size == std::min(longer, usual_size);
        resumed.push_back(&run);
    }
    for (const Run* run : resumed) {
        const Run& first = *resumed.front();
        if (own_sizes || run->config.target_size == first.config.target_size) continue;
        throw_error<UsageError>(
            "{} was made with --size {}, and {} with {}: several targets have the same options, so "
            "resume each by itself",
            first.arguments.resume.string(), first.config.target_size,
            run->arguments.resume.string(), run->config.target_size);
    }
    if (!resumed.empty()) {
        common.size_given = !own_sizes;
        if (own_sizes) common.config.target_size = usual_size;
    }
    for (Run& run : runs) {
        if (!run.arguments.resume.empty()) continue;
        run.arguments.config = common.config;
        run.arguments.size_given = common.size_given;
        read(run);
    }
}

void make_folders(const TrainArguments& common, const std::vector<Run>& runs) {
    for (const std::filesystem::path& folder :
         {common.output, common.checkpoint, common.log, common.report, common.pictures}) {
        if (!folder.empty()) make_folder(folder);
    }
    for (const Run& run : runs) require_writable_files(run.arguments);
}

// Whether an earlier run has finished this training: its model file says so. init: what it started
// from, where --init says that.
bool is_done(const TrainArguments& arguments, const std::optional<std::string>& init) {
    try {
        const Model model = Model::load(arguments.output);
        const TrainingHistory& history = model.history;
        return history.preset == arguments.config.preset && history.seed == arguments.config.seed &&
               history.start_cells == arguments.config.start_cells &&
               model.rule == arguments.config.rule && (!init || history.init == *init) &&
               history.target == as_in_file(arguments.target.filename().string()) &&
               (history.iterations >= arguments.iterations ||
                (history.stop_at > 0 && history.stop_at <= arguments.stop_at));
    } catch (const Error&) {
        return false;
    }
}

// What trainings with --init start from, as their files have it.
std::optional<std::string> init_in_file(const TrainArguments& common,
                                        const std::optional<Model>& init) {
    if (!init) return {};
    return as_in_file(init_text(init->history, init_name(common)));
}

// Marks the trainings that are done.
void look_for_done(const TrainArguments& common, const std::optional<Model>& init,
                   std::vector<Run>& runs) {
    bool found = false;
    for (Run& run : runs) {
        if (is_done(run.arguments, init_in_file(common, init))) run.end = End::done;
        found |= run.end == End::done || !run.arguments.resume.empty();
    }
    if (!found) {
        throw_error<IoError>(
            "--resume {}: there is nothing to go on with, expected the folder of checkpoints such "
            "as {}.checkpoint",
            common.resume.string(), runs.front().name);
    }
}

// Throws UsageError where the checkpoints of --resume started from another model than --init, or
// trainings that begin now would not start from theirs.
void require_init(const TrainArguments& common, const std::optional<Model>& init,
                  const AnyCheckpoint& checkpoint, const std::vector<Run>& runs) {
    const std::string& from = checkpoint.info.init;
    if (init && init_in_file(common, init) != from) {
        throw_error<UsageError>("--init {}: {} started from {}; all targets start from the same",
                                common.init.string(), checkpoint.path.string(),
                                from.empty() ? "new weights" : from);
    }
    const auto begins = std::ranges::find_if(
        runs, [](const Run& run) { return run.end != End::done && run.arguments.resume.empty(); });
    if (!init && !from.empty() && begins != runs.end()) {
        throw_error<UsageError>("{} started from {}: give --init, for {} starts from it, too",
                                checkpoint.path.string(), from, begins->name);
    }
}

// How many trainings run at a time. A GPU has room for several small ones, a CPU core for one.
int side_by_side(const Engine& engine, const TrainArguments& common, int trainings) {
    constexpr int most_on_gpu = 16;
    const bool on_cpu = engine.memory_space() == MemorySpace::host;
    return std::min(trainings, on_cpu ? thread_count(common.device) : most_on_gpu);
}

void describe(const Engine& engine, const TrainArguments& common, const std::vector<Run>& runs,
              int workers) {
    check_precision(engine, common.device);
    if (common.quiet) return;
    if (workers > 0) {
        say(running_on(engine, common.device));
        const auto grid = [](const Run& run) { return run.config.grid(); };
        const auto [smallest, largest] = std::ranges::minmax_element(runs, {}, grid);
        say("{}, {} iterations of each of {} targets, {} at a time",
            description(smallest->config, grid(*largest)), common.iterations, runs.size(), workers);
    }
    for (const Run& run : runs) {
        if (run.end == End::done) {
            const std::int64_t done = iterations_in_file(run.arguments.output);
            if (done < common.iterations) {
                say("{}: done already, --stop-at has ended it after {} iterations", run.name, done);
            } else {
                say("{}: all {} iterations are done already", run.name, common.iterations);
            }
        } else if (!common.resume.empty() && run.arguments.resume.empty()) {
            say("{}: no checkpoint in {}, begins", run.name, common.resume.string());
        }
    }
}

void train_one(Run& run, Progress::Training progress, const Model* init) {
    try {
        Training training(run.arguments, progress, init);
        if (training.trainer().iteration() > 0 && !run.arguments.quiet) {
            progress.say("going on from {}", training.trainer().iteration());
        }
        training.check_target();
        run.end = training.run() == RunState::done ? End::done : End::stopped;
    } catch (const std::exception& error) {  // the others continue
        progress.say(message_of(error));
        run.end = End::failed;
    }
    progress.end();
}

// Each thread takes the next training, until none is left or all have to stop.
void train_all(const std::vector<Run*>& runs, const TrainArguments& common, const Model* init,
               int workers) {
    std::vector<std::string> names;
    for (const Run* run : runs) names.push_back(run->name);
    Progress progress(names, common.iterations, common.quiet);
    std::atomic<std::size_t> next = 0;
    std::vector<std::jthread> threads;
    const auto work = [&] {
        for (std::size_t j = next++; j < runs.size() && !must_stop(); j = next++) {
            train_one(*runs[j], progress.of(j), init);
        }
    };
    try {
        for (int i = 1; i < workers; ++i) threads.emplace_back(work);
    } catch (const std::system_error& error) {  // fewer then
        progress.say(fmt::format("only {} trainings at a time: no more threads can be made ({})",
                                 threads.size() + 1, error.what()));
    }
    if (workers > 0) work();
}

int sum_up(const std::vector<Run>& runs, const TrainArguments& common) {
    const auto count = [&](End end) {
        return std::count_if(runs.begin(), runs.end(),
                             [&](const Run& run) { return run.end == end; });
    };
    const auto done = count(End::done);
    if (done == std::ptrdiff_t(runs.size())) return exit_done;
    if (count(End::failed) > 0) {
        std::vector<std::string> failed;
        for (const Run& run : runs) {
            if (run.end == End::failed) failed.push_back(run.name);
        }
        say("{} of {} trainings failed: {}", failed.size(), runs.size(), fmt::join(failed, ", "));
    }
    if (count(End::stopped) + count(End::not_begun) > 0) {
        say("{} with {} of {} trainings done", stopped_text(), done, runs.size());
        say_whole("go on with: " + common.resume_command);
    }
    return exit_failed;
}

}  // namespace

int train(const TrainManyArguments& many) {
    TrainArguments common = many.common;
    catch_signals();
    limit_time(common.time);
    std::vector<Run> runs = runs_of(many);
    check_files(many, runs);
    const std::optional<Model> init = load_init(common);
    std::optional<AnyCheckpoint> checkpoint;
    if (!common.resume.empty()) checkpoint = take_options(common, runs);
    if (init) check_init(*init, common);
    read_targets(common, runs);
    if (!common.resume.empty()) look_for_done(common, init, runs);
    if (checkpoint) require_init(common, init, *checkpoint, runs);
    for (const Run& run : runs) {
        if (run.end != End::done) require_no_earlier_run(run.arguments);
    }
    make_folders(common, runs);
    std::vector<Run*> to_train;
    for (Run& run : runs) {
        if (run.end != End::done) to_train.push_back(&run);
    }
    const auto engine = make_engine(common.device);
    const int trainings = int(to_train.size());
    for (int i = 0; i < trainings; ++i) {
        to_train[std::size_t(i)]->arguments.device.threads =
            thread_share(thread_count(common.device), trainings, i);
    }
    const int workers = side_by_side(*engine, common, trainings);
    // Counted over all targets, so that a resumed run has the same form.
    const int engines_on_device = side_by_side(*engine, common, int(runs.size()));
    for (Run* run : to_train) run->arguments.device.engines_on_device = engines_on_device;
    describe(*engine, common, runs, workers);
    const bool begins =
        std::ranges::any_of(to_train, [](const Run* run) { return run->arguments.resume.empty(); });
    if (init && begins && !common.quiet) describe_init(*init, common);
    train_all(to_train, common, init ? &*init : nullptr, workers);
    return sum_up(runs, common);
}

}  // namespace nca::tool
