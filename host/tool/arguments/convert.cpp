// SPDX-License-Identifier: MIT
#include "host/tool/arguments/options.hpp"

#include <memory>

namespace nca::tool {

Command add_convert(CLI::App& app) {
    const auto a = std::make_shared<ConvertArguments>();
    CLI::App* command = app.add_subcommand(
        "convert",
        "Turn a model of another program into one of this, or a model into one of the "
        "Distill article's web demo");
    add(*command, "IN", a->input, "",
        "safetensors, PyTorch's .pt and .pth, or json of the Distill article's demo or notebook")
        ->required();
    add(*command, "OUT", a->output, "", "a .safetensors, or a .json of the demo")->required();
    add_load_options(*command, a->load);
    add_fire_rate(*command, a->load.fire_rate);
    command->footer(
        "A file without a rule gets the one that is given, or a guess, and OUT has it stored.\n"
        "The demo keeps weights in 8 bits and runs them all by one rule: where the model's is\n"
        "another, a line says what will differ.\n\n"
        "Example:\n  nca convert model.pth model.safetensors --rule growing --input-order filter\n"
        "  nca convert lizard.safetensors lizard.json");
    return {command, [a] { return *a; }};
}

}  // namespace nca::tool
