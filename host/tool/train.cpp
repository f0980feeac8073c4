// SPDX-License-Identifier: MIT
// `nca train` with one target.
#include "host/tool/arguments/arguments.hpp"
#include "host/tool/console.hpp"
#include "host/tool/init.hpp"
#include "host/tool/resume.hpp"
#include "host/tool/signals.hpp"
#include "host/tool/training.hpp"

#include <optional>

namespace nca::tool {
namespace {

void describe(const Trainer& trainer, const TrainArguments& arguments) {
    check_precision(trainer.engine(), arguments.device);
    if (arguments.quiet) return;
    say(running_on(trainer.engine(), arguments.device));
    say("{}, {} iterations{}", description(trainer.config()), arguments.iterations,
        trainer.iteration() > 0 ? fmt::format(", going on from {}", trainer.iteration()) : "");
}

}  // namespace

int train(const TrainArguments& given) {
    catch_signals();
    limit_time(given.time);
    TrainArguments arguments = given;
    require_single_checkpoint(arguments);
    require_different_files(arguments, arguments.target);
    if (!arguments.resume.empty()) take_checkpoint_options(arguments);
    const std::optional<Model> init = load_init(arguments);
    if (init) check_init(*init, arguments);
    Progress progress({""}, arguments.iterations, arguments.quiet);
    Training training(arguments, progress.of(0), init ? &*init : nullptr);
    describe(training.trainer(), arguments);
    if (init && !arguments.quiet) describe_init(*init, arguments);
    training.check_target();
    if (training.run() == RunState::done) return exit_done;
    if (training.can_resume()) say_whole("go on with: " + arguments.resume_command);
    return exit_failed;
}

}  // namespace nca::tool
