// SPDX-License-Identifier: MIT
// Models: files, and weights from modules of PyTorch.
#include "host/core/rule_names.hpp"
#include "host/core/throw_error.hpp"
#include "host/load_model.hpp"
#include "python/module/bindings.hpp"
#include "python/module/numbers.hpp"

#include <nca/error.hpp>
#include <nca/model.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <string>
#include <vector>

namespace nb = nanobind;

namespace nca::python {
namespace {

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;

// The value of that name among those of an enum.
template <class Enum, std::size_t count>
Enum named(const char* option, const std::string& name, const char* const (&names)[count]) {
    const auto found = std::ranges::find(names, name);
    if (found == std::end(names)) {
        throw_error<InvalidArgument>("{}='{}': expected {}", option, name, fmt::join(names, ", "));
    }
    return Enum(found - std::begin(names));
}

LoadOptions options_of(const nb::dict& given) {
    LoadOptions options;
    for (const auto& [key, value] : given) {
        const auto name = nb::cast<std::string>(key);
        if (value.is_none()) continue;
        if (name == "rule") {
            options.rule = nb::cast<std::string>(value);
        } else if (name == "edges") {
            options.edges = named<Edges>("edges", nb::cast<std::string>(value), edges_names);
        } else if (name == "sobel_scale") {
            options.sobel_scale = nb::cast<float>(value);
        } else if (name == "identity_filter") {
            options.identity_filter = nb::cast<bool>(value);
        } else if (name == "life") {
            options.life = named<Life>("life", nb::cast<std::string>(value), life_names);
        } else if (name == "start_cell") {
            options.start_cell =
                named<StartCell>("start_cell", nb::cast<std::string>(value), start_cell_names);
        } else if (name == "fire_rate") {
            options.fire_rate = nb::cast<float>(value);
        } else if (name == "step_size") {
            options.step_size = nb::cast<float>(value);
        } else if (name == "premultiplied") {
            options.premultiplied = nb::cast<bool>(value);
        } else if (name == "input_order") {
            options.input_order =
                named<InputOrder>("input_order", nb::cast<std::string>(value), input_order_names);
        } else if (name == "transposed") {
            options.transposed = nb::cast<bool>(value);
        } else {
            throw_error<InvalidArgument>("no such option: {}", name);
        }
    }
    return options;
}

// All weights in one array: w1, b1, w2, b2.
nb::ndarray<nb::numpy, float, nb::ndim<1>> weights_of(const Model& model) {
    const auto all = model.weights.all();
    auto* copy = new std::vector<float>(all.begin(), all.end());
    const nb::capsule owner(
        copy, [](void* pointer) noexcept { delete static_cast<std::vector<float>*>(pointer); });
    return {copy->data(), {copy->size()}, owner};
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

// tensors: (name, float32 array) each.
Model model_of_arrays(const nb::list& tensors, const nb::dict& options, const std::string& source) {
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
    return model_of_tensors(found, options_of(options), source);
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
        .def_prop_ro("notes", [](const Model& model) { return model.origin.notes; })
        .def_prop_ro(
            "is_guess",
            [](const Model& model) { return model.origin.rule_source == RuleSource::guess; })
        .def("copy", [](const Model& model) { return Model(model); })
        .def("set_weights",
             [](Model& model, const Floats& weights) {
                 model.weights = make_model(text_of(model.rule), weights).weights;
             })
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
