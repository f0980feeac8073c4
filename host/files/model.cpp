// SPDX-License-Identifier: MIT
#include "host/core/checks.hpp"
#include "host/core/rule_names.hpp"
#include "host/core/start_cells.hpp"
#include "host/core/throw_error.hpp"
#include "host/files/json_fields.hpp"
#include "host/files/model_file.hpp"
#include "host/files/place_fields.hpp"

#include <nca/error.hpp>
#include <nca/model.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace nca {
namespace {

constexpr auto rule_key = "nca.rule";
constexpr auto history_key = "nca.history";

std::string history_to_text(const TrainingHistory& history) {
    nlohmann::ordered_json json = {
        {"preset", history.preset}, {"target", history.target}, {"iterations", history.iterations},
        {"height", history.height}, {"width", history.width},   {"padding", history.padding},
        {"loss", history.loss},     {"seed", history.seed}};
    put_start_cells(json, history.start_cells);
    if (!history.init.empty()) json["init"] = history.init;
    if (history.stop_at > 0) json["stop_at"] = history.stop_at;
    return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

TrainingHistory history_from_text(const std::string& text, const std::string& where) {
    constexpr int largest_int = std::numeric_limits<int>::max();
    JsonFields fields(text, where);
    TrainingHistory history;
    history.preset = fields.text("preset");
    history.target = fields.text("target");
    history.iterations = fields.integer("iterations", 0, std::numeric_limits<std::int64_t>::max());
    history.height = int(fields.integer("height", 0, largest_int));
    history.width = int(fields.integer("width", 0, largest_int));
    history.padding = int(fields.integer("padding", 0, largest_int));
    // JSON has no NaN or infinity; both are written as null.
    history.loss = fields.take("loss").is_null() ? std::numeric_limits<double>::quiet_NaN()
                                                 : fields.number("loss");
    history.seed =
        std::uint32_t(fields.integer("seed", 0, std::numeric_limits<std::uint32_t>::max()));
    history.start_cells = take_start_cells(fields);
    if (fields.has("init")) history.init = fields.text("init");
    if (fields.has("stop_at")) {
        history.stop_at = fields.number("stop_at");
        if (!(history.stop_at > 0)) {
            fields.fail("stop_at", fields.take("stop_at"), "a number above 0");
        }
    }
    fields.finish();
    const std::string wrong =
        wrong_start_cells(history.start_cells, {history.height, history.width});
    if (!wrong.empty()) throw_error<FormatError>("{}: {}; the file is damaged", where, wrong);
    return history;
}

// The tensor of this name, which has to have this shape.
const TensorEntry& require_tensor(const SafetensorsReader& file, const std::string& name,
                                  const std::vector<std::int64_t>& shape) {
    const TensorEntry* tensor = file.find(name);
    if (tensor == nullptr) {
        throw_error<FormatError>(
            "{}: tensor {} is missing, expected it with shape {}; the file is not a model of this "
            "library",
            file.name(), name, shape_text(shape));
    }
    if (tensor->shape != shape) {
        throw_error<FormatError>(
            "{}: tensor {} has shape {}, expected {}; another program has changed the file, so go "
            "on from the one that was written",
            file.name(), name, shape_text(tensor->shape), shape_text(shape));
    }
    return *tensor;
}

// Checks the names of all tensors and the shapes of the weights. Returns whether there is an output
// bias.
bool check_model_tensors(const SafetensorsReader& file) {
    const bool output_bias = file.find("net.2.bias") != nullptr;
    const auto parameters = parameter_tensors(output_bias);
    for (const TensorEntry& tensor : file.tensors()) {
        const bool known = std::ranges::any_of(
            parameters, [&](const ParameterTensor& p) { return p.name == tensor.name; });
        if (!known && !is_checkpoint_tensor(tensor.name)) {
            throw_error<FormatError>(
                "{}: unknown tensor {}, expected net.0.weight, net.0.bias, net.2.weight and "
                "perhaps net.2.bias; the file is not a model of this library",
                file.name(), printable(tensor.name));
        }
    }
    for (const ParameterTensor& tensor : parameters) {
        require_tensor(file, tensor.name, tensor.shape);
    }
    return output_bias;
}

}  // namespace

const float* find_not_finite(std::span<const float> values) {
    const auto found = std::ranges::find_if_not(values, [](float v) { return std::isfinite(v); });
    return found == values.end() ? nullptr : &*found;
}

bool is_checkpoint_tensor(std::string_view name) {
    return name.starts_with("adam.") || name.starts_with("good.") || name.starts_with("pool.") ||
           name.starts_with("recovery.") || name.starts_with("init.") || name == "target";
}

std::string rule_to_text(const Rule& rule) {
    const nlohmann::ordered_json json = {
        {"filters", rule.filters},
        {"edges", edges_names[std::size_t(rule.edges)]},
        {"life", life_names[std::size_t(rule.life)]},
        {"start_cell", start_cell_names[std::size_t(rule.start_cell)]},
        {"fire_rate", rule.fire_rate},
        {"step_size", rule.step_size},
        {"premultiplied", rule.premultiplied},
    };
    return json.dump();
}

Rule rule_from_text(const std::string& text, const std::string& where) {
    JsonFields fields(text, where);
    Rule rule;
    const auto& filters = fields.take("filters");
    bool right_shape = filters.is_array() && filters.size() == filter_count;
    for (std::size_t k = 0; right_shape && k < filter_count; ++k) {
        right_shape = filters[k].is_array() && filters[k].size() == rule.filters[k].size();
    }
    if (!right_shape)
        fields.fail("filters", std::string("of another shape"), "3 arrays of 9 numbers");
    for (std::size_t k = 0; k < filter_count; ++k) {
        for (std::size_t i = 0; i < rule.filters[k].size(); ++i) {
            rule.filters[k][i] = fields.to_single("filters", filters[k][i]);
        }
    }
    rule.edges = static_cast<Edges>(fields.choice("edges", edges_names));
    rule.life = static_cast<Life>(fields.choice("life", life_names));
    rule.start_cell = static_cast<StartCell>(fields.choice("start_cell", start_cell_names));
    rule.fire_rate = fields.single("fire_rate");
    rule.step_size = fields.single("step_size");
    rule.premultiplied = fields.boolean("premultiplied");
    fields.finish();
    try {
        rule.validate();
    } catch (const InvalidArgument& error) {
        throw_error<FormatError>("{}: {}", where, error.what());
    }
    return rule;
}

void require_finite(const Weights& weights) {
    check_weights(weights);
    for (const ParameterTensor& tensor : parameter_tensors(weights.has_output_bias())) {
        const auto values = weights.all().subspan(tensor.offset, tensor.size);
        if (const float* bad = find_not_finite(values)) {
            throw_error<InvalidArgument>(
                "weight {} of tensor {} is {}, expected a finite number; the model was not saved",
                bad - values.data(), tensor.name, *bad);
        }
    }
}

void put_parameters(SafetensorsFile& file, const std::string& prefix, std::span<const float> all,
                    bool output_bias) {
    if (all.size() != parameter_count(output_bias)) {
        throw_error<InvalidArgument>("{} values for the tensors {}net.*, expected {}", all.size(),
                                     prefix, parameter_count(output_bias));
    }
    for (ParameterTensor& tensor : parameter_tensors(output_bias)) {
        const auto values = all.subspan(tensor.offset, tensor.size);
        file.tensors.push_back(
            {prefix + tensor.name, std::move(tensor.shape), {values.begin(), values.end()}});
    }
}

void take_parameters(std::span<float> all, const SafetensorsReader& file, const std::string& prefix,
                     bool output_bias) {
    for (const ParameterTensor& tensor : parameter_tensors(output_bias)) {
        const std::string name = prefix + tensor.name;
        const auto values = all.subspan(tensor.offset, tensor.size);
        file.read(values, require_tensor(file, name, tensor.shape));
        if (const float* bad = find_not_finite(values)) {
            throw_error<FormatError>(
                "{}: tensor {} has the value {} at index {}, expected finite numbers; its training "
                "failed, use an earlier file",
                file.name(), name, *bad, bad - values.data());
        }
    }
}

void put_model(const Model& model, SafetensorsFile& file) {
    model.rule.validate();
    const std::string wrong =
        wrong_start_cells(model.history.start_cells, {model.history.height, model.history.width});
    if (!wrong.empty()) throw InvalidArgument("the history: " + wrong);
    require_finite(model.weights);
    put_parameters(file, "", model.weights.all(), model.weights.has_output_bias());
    file.metadata[rule_key] = rule_to_text(model.rule);
    file.metadata[history_key] = history_to_text(model.history);
}

bool has_rule(const SafetensorsReader& file) { return file.metadata().contains(rule_key); }

TrainingHistory take_history(const SafetensorsReader& file) {
    const auto history = file.metadata().find(history_key);
    return history == file.metadata().end()
               ? TrainingHistory{}
               : history_from_text(history->second,
                                   fmt::format("{}: {}", file.name(), history_key));
}

Rule take_rule(const SafetensorsReader& file) {
    const auto rule = file.metadata().find(rule_key);
    if (rule == file.metadata().end()) {
        throw_error<FormatError>("{}: the metadata {} are missing, expected the model's rule",
                                 file.name(), rule_key);
    }
    return rule_from_text(rule->second, fmt::format("{}: {}", file.name(), rule_key));
}

bool has_own_tensors(const SafetensorsReader& file) {
    return std::ranges::all_of(parameter_tensors(false), [&](const ParameterTensor& parameter) {
        const TensorEntry* tensor = file.find(parameter.name);
        return tensor != nullptr && tensor->shape == parameter.shape;
    });
}

Model take_model(const SafetensorsReader& file) {
    const bool output_bias = check_model_tensors(file);
    Model model;
    model.rule = take_rule(file);
    model.weights = Weights(output_bias);
    take_parameters(model.weights.all(), file, "", output_bias);
    model.history = take_history(file);
    const NumberType type = file.find("net.0.weight")->type;
    if (type != NumberType::float32) model.origin.notes.push_back(conversion_note(type));
    return model;
}

std::int64_t iterations_in_file(const std::filesystem::path& path) {
    try {
        const SafetensorsReader file(path);
        check_model_tensors(file);
        const auto& metadata = file.metadata();
        constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
        if (const auto text = metadata.find(progress_key); text != metadata.end()) {
            return JsonFields(text->second, progress_key).integer("iteration", 0, most);
        }
        const auto text = metadata.find(history_key);
        return text == metadata.end()
                   ? 0
                   : JsonFields(text->second, history_key).integer("iterations", 0, most);
    } catch (const std::exception&) {
        return 0;
    }
}

void Model::save(const std::filesystem::path& path) const {
    SafetensorsFile file;
    put_model(*this, file);
    write_safetensors(path, file);
}

}  // namespace nca
