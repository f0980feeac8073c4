// SPDX-License-Identifier: MIT
#include "host/tool/arguments/options.hpp"

#include <memory>

namespace nca::tool {

Command add_gradcheck(CLI::App& app) {
    struct Options {
        GradcheckArguments arguments;
        DeviceOptions device;
    };
    const auto options = std::make_shared<Options>();
    GradcheckArguments& a = options->arguments;
    CLI::App* command = app.add_subcommand(
        "gradcheck", "Compare an engine's gradients with a reference in double precision");
    add(*command, "MODEL", a.model, "", "made by nca train, or by another program")->required();
    add(*command, "TARGET", a.target, "", "a picture; its own size is the grid's")->required();
    add(*command, "--steps", a.steps, "N", "of the rollout (8)")->transform(int_range(1, 1000));
    add(*command, "--batch", a.batch, "N", "grids (1)")->transform(int_range(1, 64));
    add_fire_rate(*command, a.fire_rate);
    add_seed(*command, a.seed);
    options->device.add_to(*command);
    add(*command, "--out", a.out, "GRADS", "the engine's gradients as .safetensors");
    command->footer("Example:\n  nca gradcheck lizard.safetensors small.png --steps 8");
    return {command, [options] {
                options->arguments.device = options->device.parse();
                return options->arguments;
            }};
}

}  // namespace nca::tool
