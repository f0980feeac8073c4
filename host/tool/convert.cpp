// SPDX-License-Identifier: MIT
// `nca convert`: a model from one file format to another.
#include "host/core/throw_error.hpp"
#include "host/tool/arguments/arguments.hpp"
#include "host/tool/console.hpp"
#include "host/tool/output_files.hpp"

#include <nca/error.hpp>
#include <nca/model.hpp>

namespace nca::tool {
namespace {

enum class Format { safetensors, distill_json };

Format format_of(const char* name, const std::filesystem::path& path) {
    const std::string extension = lower_case_extension(path);
    if (extension == ".safetensors") return Format::safetensors;
    if (extension == ".json") return Format::distill_json;
    throw_error<UsageError>(
        "{} {}: the name has to end in .safetensors or .json (the Distill web demo's)", name,
        path.string());
}

void say_difference(const std::filesystem::path& path, const char* field, const std::string& what) {
    say(fmt::format("{}: the web demo differs in {}: {}", path.string(), field, what));
}

// Says where the demo's rule differs from the model's. The demo's files cannot hold a rule.
void say_differences(const std::filesystem::path& path, const Rule& rule) {
    const Rule demo = distill_demo_rule();
    if (rule.filters != demo.filters) {
        say_difference(
            path, "filters",
            "it perceives by identity, Sobel x / 8 and Sobel y / 8, the model by others");
    }
    if (rule.edges != demo.edges) {
        say_difference(path, "edges", "its grid wraps around, the model's ends in dead cells");
    }
    if (rule.life != demo.life) {
        say_difference(path, "life",
                       "its cells must live before and after the update, the model's only after");
    }
    if (rule.start_cell != demo.start_cell) {
        say_difference(
            path, "start_cell",
            "it plants alpha = 1 and all hidden channels = 1, the model expects alpha = 1 alone");
    }
    if (rule.fire_rate != demo.fire_rate) {
        say_difference(path, "fire_rate",
                       fmt::format("its cells update with a chance of {}, the model's of {}",
                                   demo.fire_rate, rule.fire_rate));
    }
    if (rule.step_size != demo.step_size) {
        say_difference(path, "step_size",
                       fmt::format("it adds updates {} times, the model {} times", demo.step_size,
                                   rule.step_size));
    }
    if (rule.premultiplied != demo.premultiplied) {
        say_difference(path, "premultiplied",
                       "it shows colours as already multiplied by alpha, the model's are straight");
    }
}

void export_to_demo(const ConvertArguments& arguments) {
    const Model model = Model::load(arguments.input);
    if (!model.rule_in_file) {
        say(fmt::format("{}: no rule in the file, the notebook's is assumed",
                        arguments.input.string()));
    }
    try {
        save_distill_json(arguments.output, model);
    } catch (const InvalidArgument& error) {  // the model's fault, not the command line's
        throw_error<FormatError>("{}: {}", arguments.input.string(), error.what());
    }
    say_differences(arguments.output, model.rule);
}

}  // namespace

int convert(const ConvertArguments& arguments) {
    const Format from = format_of("IN", arguments.input);
    const Format to = format_of("OUT", arguments.output);
    if (from == to) {
        throw_error<UsageError>(
            "{} and {}: both are of one format, expected .safetensors and .json in either order",
            arguments.input.string(), arguments.output.string());
    }
    require_different("OUT", arguments.output, "IN", arguments.input);
    require_writable(arguments.output);
    if (to == Format::distill_json) {
        export_to_demo(arguments);
    } else {
        load_distill_json(arguments.input).save(arguments.output);
    }
    print(fmt::format("{}: made from {}\n", without_controls(arguments.output.string()),
                      without_controls(arguments.input.string())));
    return exit_done;
}

}  // namespace nca::tool
