// SPDX-License-Identifier: MIT
// `nca info`: prints what a model file contains, and describes an engine.
#include "host/core/start_cells.hpp"
#include "host/tool/arguments/arguments.hpp"
#include "host/tool/console.hpp"
#include "host/tool/rule_text.hpp"

#include <nca/engine.hpp>
#include <nca/model.hpp>
#include <nca/trainer.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <string_view>

namespace nca::tool {
namespace {

void print_rule(const Rule& rule, const std::string& preset_name) {
    for (const auto& [name, value] : rule_table(rule, preset_name)) {
        print("  {:<14}{}\n", name, value);
    }
    for (int row = 0; row < 3; ++row) {
        print(row == 0 ? "  filters     " : "              ");
        for (const Filter& filter : rule.filters) {
            for (std::size_t column = 0; column < 3; ++column) {
                print("{:8.4g}", filter[std::size_t(row) * 3 + column]);
            }
            print("    ");
        }
        print("\n");
    }
}

void print_tensor(const ParameterTensor& tensor, std::span<const float> all) {
    const std::span<const float> values = all.subspan(tensor.offset, tensor.size);
    const auto [smallest, largest] = std::minmax_element(values.begin(), values.end());
    double sum = 0;
    double squares = 0;
    for (const double value : values) {
        sum += value;
        squares += value * value;
    }
    const double count = double(values.size());
    print("  {:<12}  {:<16} {:>11.4g} {:>11.4g} {:>11.4g} {:>11.4g}\n", tensor.name,
          fmt::format("[{}]", fmt::join(tensor.shape, ", ")), *smallest, *largest, sum / count,
          std::sqrt(squares / count));
}

void print_history(const TrainingHistory& history) {
    const auto known = [](const std::string& text) {
        return text.empty() ? std::string("unknown") : without_controls(text);
    };
    if (history == TrainingHistory{}) {
        print("  unknown\n");
        return;
    }
    print("  preset        {}\n", known(history.preset));
    print("  target        {}\n", known(history.target));
    print("  iterations    {}\n", history.iterations);
    print("  grid          {}\n",
          history.height > 0 ? fmt::format("{}x{}", history.height, history.width) : "unknown");
    if (!history.start_cells.empty()) {
        print("  start cells   {}\n", start_cells_text(history.start_cells));
    }
    print("  loss          {:.4g} (mean of the last 100 iterations)\n", history.loss);
    print("  seed          {}\n", history.seed);
    if (!history.init.empty()) {
        print("  started from  {}\n", without_controls(history.init));
    }
    if (history.stop_at > 0) print("  ended by      --stop-at {}\n", history.stop_at);
}

void print_model(const std::filesystem::path& path, const LoadOptions& options) {
    const Model model = Model::load(path, options);
    print("{}\n", without_controls(path.string()));
    for (const std::string& line : origin_text(model.origin)) {
        print("  {}\n", without_controls(line));
    }
    print("\nrule{}\n", model.origin.rule_source == RuleSource::format
                            ? " (none in the file: the web demo's)"
                            : "");
    print_rule(model.rule, model.history.preset);
    const bool output_bias = model.weights.has_output_bias();
    print(
        "\nsizes\n  channels      {}\n  perception    {}\n  hidden        {}\n  parameters    "
        "{}{}\n",
        channels, perception, hidden, model.weights.all().size(),
        output_bias ? "" : ", no output bias");
    print("\n  {:<12}  {:<16} {:>11} {:>11} {:>11} {:>11}\n", "tensor", "shape", "min", "max",
          "mean", "rms");
    for (const ParameterTensor& tensor : parameter_tensors(output_bias)) {
        print_tensor(tensor, model.weights.all());
    }
    print("\ntraining\n");
    print_history(model.history);
}

void print_engine(const Device& device) {
    const std::unique_ptr<Engine> engine = make_engine(device);
    check_precision(*engine, device);
    print("engine\n  {:<14}{}\n", "device", without_controls(engine->description()));
    for (const std::string_view name : all_presets) {
        const TrainingConfig config = preset(name);
        const int grid = config.grid();
        print("  {:<14}batch {} at {}x{}: {}\n", name, config.batch, grid, grid,
              engine->rollout_form(config.batch, grid, grid, config.rule).text);
    }
}

}  // namespace

int info(const InfoArguments& arguments) {
    if (!arguments.model.empty()) print_model(arguments.model, arguments.load);
    if (arguments.device) {
        print(arguments.model.empty() ? "" : "\n");
        print_engine(*arguments.device);
    }
    return exit_done;
}

}  // namespace nca::tool
