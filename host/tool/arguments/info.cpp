// SPDX-License-Identifier: MIT
#include "host/tool/arguments/options.hpp"

#include <memory>

namespace nca::tool {

Command add_info(CLI::App& app) {
    struct Options {
        InfoArguments arguments;
        DeviceOptions device;
    };
    const auto options = std::make_shared<Options>();
    InfoArguments& a = options->arguments;
    CLI::App* command = app.add_subcommand(
        "info", "Print a model's rule, weights and history, or what an engine is");
    add(*command, "MODEL", a.model, "",
        "made by nca train, or by another program (as nca convert --help says); not needed for "
        "--device");
    add_load_options(*command, a.load);
    add_fire_rate(*command, a.load.fire_rate);
    auto* name = add(*command, "--device", options->device.name, "[DEVICE]",
                     "what this engine is and in which form it runs the iterations of each preset: "
                     "auto (default), cpu, cuda or cuda:1")
                     ->expected(0, 1);
    options->device.add_precision(*command)->needs(name);
    command->footer("Example:\n  nca info lizard.safetensors\n  nca info --device cuda");
    return {command, [options, name] {
                InfoArguments& arguments = options->arguments;
                if (name->count() > 0) {
                    if (options->device.name.empty()) {  // the option without a value
                        options->device.name = "auto";
                    }
                    arguments.device = options->device.parse();
                } else if (arguments.model.empty()) {
                    throw UsageError("MODEL or --device is required (see nca info --help)");
                }
                return arguments;
            }};
}

}  // namespace nca::tool
