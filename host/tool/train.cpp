// SPDX-License-Identifier: MIT
// `nca train` with one target.
#include "host/tool/arguments/arguments.hpp"
#include "host/tool/console.hpp"
#include "host/tool/stop_signal.hpp"
#include "host/tool/training.hpp"

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

int train(const TrainArguments& arguments) {
    catch_signals();
    Progress progress({""}, arguments.iterations, arguments.quiet);
    Training training(arguments, progress.of(0));
    describe(training.trainer(), arguments);
    training.check_target();
    if (training.run() == RunState::done) return exit_done;
    if (training.can_resume()) say_whole("go on with: " + arguments.resume_command);
    return exit_failed;
}

}  // namespace nca::tool
