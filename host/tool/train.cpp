// SPDX-License-Identifier: MIT
// `nca train`.
#include "host/tool/arguments.hpp"
#include "host/tool/stop_signal.hpp"
#include "host/tool/training.hpp"

namespace nca::tool {

int train(const TrainArguments& arguments) {
    catch_signals();
    return Training(arguments).run();
}

}  // namespace nca::tool
