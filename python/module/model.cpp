// SPDX-License-Identifier: MIT
// Models: files, and weights from modules of PyTorch.
#include "host/core/rule_names.hpp"
#include "host/core/throw_error.hpp"
#include "host/load_model.hpp"
#include "python/module/arrays.hpp"
#include "python/module/bindings.hpp"
#include "python/module/numbers.hpp"
#include "python/module/options.hpp"

#include <nca/error.hpp>
#include <nca/model.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

namespace nb = nanobind;

namespace nca::python {
namespace {

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;

// Sets an option to the value of that name among those of an enum.
template <class Enum, std::size_t count>
void take_choice(std::optional<Enum>& to, const char* option, const nb::handle& value,
                 const char* const (&names)[count]) {
    std::string name;
    take_option(name, option, value);
    const auto found = std::ranges::find(names, name);
    if (found == std::end(names)) {
        throw_error<InvalidArgument>("{} is '{}': expected {}", option, name,
                                     fmt::join(names, ", "));
    }
    to = Enum(found - std::begin(names));
}

LoadOptions options_of(const nb::dict& given) {
    LoadOptions options;
    for (const auto& [key, value] : given) {
        const auto name = nb::cast<std::string>(key);
        const char* option = name.c_str();
        if (value.is_none()) continue;
        if (name == "rule") {
            take_option(options.rule, option, value);
        } else if (name == "edges") {
            take_choice(options.edges, option, value, edges_names);
        } else if (name == "sobel_scale") {
            take_option(options.sobel_scale.emplace(), option, value);
        } else if (name == "identity_filter") {
            take_option(options.identity_filter.emplace(), option, value);
        } else if (name == "life") {
            take_choice(options.life, option, value, life_names);
        } else if (name == "start_cell") {
            take_choice(options.start_cell, option, value, start_cell_names);
        } else if (name == "fire_rate") {
            take_option(options.fire_rate.emplace(), option, value);
        } else if (name == "step_size") {
            take_option(options.step_size.emplace(), option, value);
        } else if (name == "premultiplied") {
            take_option(options.premultiplied.emplace(), option, value);
        } else if (name == "input_order") {
            take_choice(options.input_order, option, value, input_order_names);
        } else if (name == "transposed") {
            take_option(options.transposed, option, value);
        } else {
            throw_error<InvalidArgument>(
                "no such option: {}; there are rule, edges, sobel_scale, identity_filter, life, "
                "start_cell, fire_rate, step_size, premultiplied, input_order, transposed",
                name);
        }
    }
    return options;
}

// All weights in one array: w1, b1, w2, b2.
auto weights_of(const Model& model) {
    const auto all = model.weights.all();
    return array_of(std::vector<float>(all.begin(), all.end()), {all.size()});
}

Model make_model(const std::string& rule, const Floats& weights) {
    const bool output_bias = weights.size() == parameter_count(true);
    if (!output_bias && weights.size() != parameter_count(false)) {
        throw_error<InvalidArgument>(
            "a model of {} weights: expected {} or, without output bias, {}", weights.size(),
            parameter_count(true), parameter_count(false));
    }
    Model model{.rule = rule_of(rule), .weights = Weights(output_bias), .history = {}};
    std::copy_n(weights.data(), weights.size(), model.weights.all().data());
    return model;
}

// tensors: (name, float32 array) each. rule: none, or all that the options could say.
Model model_of_arrays(const nb::list& tensors, const std::optional<std::string>& rule,
                      const nb::dict& options, const std::string& source) {
    std::vector<ForeignTensor> found;
    for (const auto& entry : tensors) {
        const auto pair = nb::cast<nb::tuple>(entry);
        const auto array = nb::cast<Floats>(pair[1], false);
        ForeignTensor& tensor = found.emplace_back();
        tensor.name = nb::cast<std::string>(pair[0]);
        for (std::size_t i = 0; i < array.ndim(); ++i) {
            tensor.shape.push_back(std::int64_t(array.shape(i)));
        }
        tensor.read = [array] {
            return std::vector<float>(array.data(), array.data() + array.size());
        };
    }
    const LoadOptions how = options_of(options);
    return rule ? model_of_tensors(found, rule_of(*rule), how, source)
                : model_of_tensors(found, how, source);
}

// What was converted, left out or guessed, a sentence each.
std::vector<std::string> notes_of(const Model& model) {
    std::vector<std::string> notes = model.origin.notes;
    if (model.origin.rule_source == RuleSource::guess) {
        notes.push_back(fmt::format(
            "the rule is a guess, {} with inputs by {}: the first of the known ones under which "
            "the automaton lives",
            model.origin.rule, input_order_names[std::size_t(model.origin.input_order)]));
    }
    return notes;
}

nb::dict history_of(const Model& model) {
    const TrainingHistory& from = model.history;
    nb::dict history;
    history["preset"] = from.preset;
    history["target"] = from.target;
    history["iterations"] = from.iterations;
    history["height"] = from.height;
    history["width"] = from.width;
    history["padding"] = from.padding;
    history["loss"] = from.loss;
    history["seed"] = from.seed;
    history["init"] = from.init;
    nb::list places;
    for (const Place& place : from.start_cells) places.append(nb::make_tuple(place.y, place.x));
    history["start_cells"] = places;
    return history;
}

}  // namespace

void bind_model(nb::module_& module) {
    nb::class_<Model>(module, "Model")
        .def_prop_ro("rule", [](const Model& model) { return text_of(model.rule); })
        .def("weights", weights_of)
        .def_prop_ro("history", history_of)
        .def_prop_ro("notes", notes_of)
        .def("save", [](const Model& model, const std::string& path) { model.save(path); });
    module.def("make_model", make_model);
    module.def("load_model", [](const std::string& path, const nb::dict& options) {
        const LoadOptions of_file = options_of(options);
        const nb::gil_scoped_release release;
        return Model::load(path, of_file);
    });
    module.def("model_of_arrays", model_of_arrays);
}

}  // namespace nca::python
