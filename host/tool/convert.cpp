// SPDX-License-Identifier: MIT
// `nca convert`: a model from one file format to another.
#include "host/core/start_cells.hpp"
#include "host/core/throw_error.hpp"
#include "host/tool/arguments/arguments.hpp"
#include "host/tool/console.hpp"
#include "host/tool/output_files.hpp"

#include <nca/error.hpp>
#include <nca/model.hpp>

#include <cstdint>
#include <tuple>

namespace nca::tool {
namespace {

bool is_demo(const std::filesystem::path& path) {
    load_distill_json(path);
    return true;
}
const OutputKind demo_kind{"a model of the web demo", {".json"}, is_demo};

enum class ModelFormat { safetensors, distill_json };

ModelFormat output_format(const std::filesystem::path& path) {
    const std::string extension = lower_case_extension(path);
    if (extension == ".safetensors") return ModelFormat::safetensors;
    if (extension == ".json") return ModelFormat::distill_json;
    throw_error<UsageError>(
        "OUT {}: the name has to end in .safetensors or .json (the Distill web demo's)",
        path.string());
}

// Says where the demo differs from the model. Its files cannot hold a rule or start cells.
void say_differences(const std::filesystem::path& path, const Model& model) {
    const Rule& rule = model.rule;
    const Rule demo = distill_demo_rule();
    const std::tuple<bool, const char*, std::string> fields[] = {
        {rule.filters == demo.filters, "filters",
         "it perceives by identity, Sobel x / 8 and Sobel y / 8, the model by others"},
        {rule.edges == demo.edges, "edges",
         "its grid wraps around, the model's ends in dead cells"},
        {rule.life == demo.life, "life",
         "its cells must live before and after the update, the model's only after"},
        {rule.start_cell == demo.start_cell, "start_cell",
         "it plants alpha = 1 and all hidden channels = 1, the model expects alpha = 1 alone"},
        {rule.fire_rate == demo.fire_rate, "fire_rate",
         fmt::format("its cells update with a chance of {}, the model's of {}", demo.fire_rate,
                     rule.fire_rate)},
        {rule.step_size == demo.step_size, "step_size",
         fmt::format("it adds updates {} times, the model {} times", demo.step_size,
                     rule.step_size)},
        {rule.premultiplied == demo.premultiplied, "premultiplied",
         "it shows colours as already multiplied by alpha, the model's are straight"},
    };
    for (const auto& [same, field, what] : fields) {
        if (!same) say("{}: the web demo differs in {}: {}", path.string(), field, what);
    }
    const TrainingHistory& history = model.history;
    if (history.start_cells.empty()) return;
    say("{}: the web demo differs in start cells: it plants one in the middle, the model was "
        "trained to start from {} of {}x{} cells",
        path.string(), start_cells_text(history.start_cells), history.height, history.width);
}

// Throws FormatError where the format cannot hold the model.
void save(const Model& model, const ConvertArguments& arguments) {
    try {
        if (output_format(arguments.output) == ModelFormat::distill_json) {
            save_distill_json(arguments.output, model);
        } else {
            model.save(arguments.output);
        }
    } catch (const InvalidArgument& error) {  // the model's fault, not the command line's
        throw_error<FormatError>("{}: {}", arguments.input.string(), error.what());
    }
}

}  // namespace

int convert(const ConvertArguments& arguments) {
    const ModelFormat format = output_format(arguments.output);
    require_different("OUT", arguments.output, "IN", arguments.input);
    require_kind("OUT", arguments.output,
                 format == ModelFormat::distill_json ? demo_kind : model_kind);
    if (const std::int64_t iterations = iterations_in_file(arguments.output); iterations > 0) {
        throw_error<UsageError>(
            "OUT {}: the model that is there has {} iterations of training and is not replaced: "
            "name another file, or remove it",
            arguments.output.string(), iterations);
    }
    require_writable(arguments.output);
    const Model model = load_model(arguments.input, arguments.load);
    save(model, arguments);
    if (format == ModelFormat::distill_json) say_differences(arguments.output, model);
    print("{}: made from {}\n", without_controls(arguments.output.string()),
          without_controls(arguments.input.string()));
    return exit_done;
}

}  // namespace nca::tool
