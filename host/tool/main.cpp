// SPDX-License-Identifier: MIT
#include "host/tool/arguments/arguments.hpp"
#include "host/tool/console.hpp"

#include <nca/error.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>

namespace {

using namespace nca::tool;

struct Run {
    int operator()(const HelpArguments& help) const {
        print(help.text);
        return exit_done;
    }
    int operator()(const TrainArguments& arguments) const { return train(arguments); }
    int operator()(const TrainManyArguments& arguments) const { return train(arguments); }
    int operator()(const GrowArguments& arguments) const { return grow(arguments); }
    int operator()(const GradcheckArguments& arguments) const { return gradcheck(arguments); }
    int operator()(const InfoArguments& arguments) const { return info(arguments); }
    int operator()(const ConvertArguments& arguments) const { return convert(arguments); }
};

int run(int argc, char** argv) {
    try {
        return std::visit(Run{}, parse_arguments(argc, argv));
    } catch (const nca::InvalidArgument& error) {  // the options were wrong
        say(error.what());
        return exit_usage;
    } catch (const std::exception& error) {
        say(message_of(error));
        return exit_failed;
    }
}

// Without these a file that is opened later would get a number below 3, and with it what is printed
// on standard output or standard error.
void open_missing_standard_files() {
    int descriptor = 0;
    while (descriptor >= 0 && descriptor <= STDERR_FILENO) {
        descriptor = ::open("/dev/null", O_RDWR);
    }
    if (descriptor > STDERR_FILENO) ::close(descriptor);
}

}  // namespace

int main(int argc, char** argv) {
    open_missing_standard_files();
    std::signal(SIGXFSZ, SIG_IGN);  // so that a limit on file sizes gives a message
    const int code = run(argc, argv);
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
        say("cannot write to standard output");
        return code == exit_done ? exit_failed : code;
    }
    return code;
}
