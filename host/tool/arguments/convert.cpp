// SPDX-License-Identifier: MIT
#include "host/tool/arguments/options.hpp"

#include <memory>

namespace nca::tool {

Command add_convert(CLI::App& app) {
    const auto a = std::make_shared<ConvertArguments>();
    CLI::App* command = app.add_subcommand(
        "convert", "Turn a model into one of the Distill article's web demo, or back");
    add(*command, "IN", a->input, "", "a model.safetensors, or a model.json of the demo")
        ->required();
    add(*command, "OUT", a->output, "", "the other of the two")->required();
    command->footer(
        "The demo keeps weights in 8 bits and runs them all by one rule: where the model's is\n"
        "another, a line says what will differ.\n\n"
        "Example:\n  nca convert lizard.safetensors lizard.json\n"
        "  nca convert lizard.json lizard.safetensors");
    return {command, [a] { return *a; }};
}

}  // namespace nca::tool
