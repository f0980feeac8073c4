// SPDX-License-Identifier: MIT
// Model::load: finds out what a file is, reads it, and guesses the rule that it does not say.
#include "host/load_model.hpp"

#include <nca/engine.hpp>
#include <nca/model.hpp>
#include <nca/simulator.hpp>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "host/core/rule_names.hpp"
#include "host/core/throw_error.hpp"
#include "host/files/atomic_file.hpp"
#include "host/files/distill_json.hpp"
#include "host/files/file_kind.hpp"
#include "host/files/json_fields.hpp"
#include "host/files/model_file.hpp"
#include "host/files/rule_options.hpp"
#include "host/import/found_weights.hpp"
#include "host/import/pytorch_file.hpp"
#include "host/import/tensorflow_graph.hpp"

namespace nca {
namespace {

// One way to run weights that have no rule.
struct Candidate {
    const char* name;  // of the rule
    Rule rule;
    InputOrder input_order = InputOrder::channel;
};

std::string read_text(const std::filesystem::path& path) {
    constexpr std::size_t most_bytes = std::size_t{4} << 20;  // the notebook's graph has 100 kB
    const std::vector<std::uint8_t> bytes = read_file(path, most_bytes);
    return {bytes.begin(), bytes.end()};
}

// Those of this name, or of no name those that are tried, in this order. The notebook's comes
// first: its filters are eight times as strong, so that weights of another rule explode under it,
// while its own may well live under weaker ones.
std::vector<Candidate> named_rules(const std::string& name) {
    const Candidate all[] = {{rule_names[0], notebook_rule()},
                             {rule_names[1], Rule()},
                             {rule_names[2], distill_demo_rule()}};
    if (name.empty()) return {all[0], all[1]};
    const auto found = std::ranges::find(all, name, &Candidate::name);
    if (found == std::end(all)) {
        throw_error<InvalidArgument>("rule {}: no such rule, expected {}", printable(name),
                                     fmt::join(rule_names, ", "));
    }
    return {*found};
}

// The columns of w1 in this library's order.
Weights by_channel(const Weights& weights, InputOrder order) {
    if (order == InputOrder::channel) return weights;
    Weights ordered = weights;
    const float* from = weights.view().w1;
    float* to = ordered.view().w1;
    for (int row = 0; row < hidden; ++row) {
        for (int channel = 0; channel < channels; ++channel) {
            for (int filter = 0; filter < filter_count; ++filter) {
                to[row * perception + channel * filter_count + filter] =
                    from[row * perception + filter * channels + channel];
            }
        }
    }
    return ordered;
}

// Whether training has changed the weights of Sobel x and y and not those of the identity. Behind a
// filter of zeros a weight stays where PyTorch has drawn it, uniformly in +-1/sqrt(48).
bool identity_is_untrained(const Weights& weights) {
    const float bound = std::nextafter(float(1 / std::sqrt(double{perception})), 1.0F);
    float identity = 0, others = 0;  // largest magnitudes
    for (std::size_t i = 0; i < w1_size; ++i) {
        float& largest = i % filter_count == 0 ? identity : others;
        largest = std::max(largest, std::abs(weights.all()[i]));
    }
    return identity <= bound && identity > 0.9F * bound && others > bound;
}

// Whether the automaton lives and stays bounded. After so many steps by its own rule a trained
// automaton has values of 10 or less. Where another rule or order of inputs is tried before, it has
// values of 79 and mostly far more, or every cell has died (docs/weights-from-elsewhere.md).
bool lives(const Model& model) {
    constexpr int side = 32;
    constexpr int steps = 96;
    constexpr float largest_value = 25;
    Simulator simulator(model, {.device = Device::cpu(1), .height = side, .width = side});
    simulator.plant_seed(side / 2, side / 2);
    simulator.step(steps);
    const StateCheck check = simulator.check();
    return check.living > 0 && check.finite && check.largest <= largest_value;
}

// The sum of the squares of both Sobel filters: 24 of the notebook's, 0.375 of the others.
double strength(const Rule& rule) {
    double sum = 0;
    for (const std::size_t k : {1, 2}) {
        for (const float value : rule.filters[k]) sum += double(value) * value;
    }
    return sum;
}

std::string text_of(const Candidate& candidate) {
    return fmt::format("{} by {}", candidate.name,
                       input_order_names[std::size_t(candidate.input_order)]);
}

// The order of the inputs, where the filters or the options say it.
std::optional<InputOrder> known_order(const FoundWeights& found, const LoadOptions& options,
                                      const std::string& file) {
    if (found.input_order && options.input_order && *found.input_order != *options.input_order) {
        throw_error<InvalidArgument>(
            "{}: its filters say that its inputs are by {}: leave --input-order out", file,
            input_order_names[std::size_t(*found.input_order)]);
    }
    return found.input_order ? found.input_order : options.input_order;
}

// The rules and orders that are left, in the order in which they are tried.
std::vector<Candidate> candidates(const FoundWeights& found, const LoadOptions& options,
                                  const std::string& file) {
    if (found.filters && (options.sobel_scale || options.identity_filter)) {
        throw_error<InvalidArgument>(
            "{} has filters of its own: leave --sobel-scale and --identity-filter out", file);
    }
    const std::optional<InputOrder> known = known_order(found, options, file);
    const auto completed = [&](Candidate candidate) {
        if (found.filters) candidate.rule.filters = *found.filters;
        apply(options, candidate.rule);
        return candidate;
    };
    // Where the filters are known, weights for the one rule may live under the other. Then the rule
    // whose own filters are nearer in strength comes first.
    std::vector<Candidate> rules = named_rules(options.rule);
    std::ranges::stable_sort(rules, {}, [&](const Candidate& named) {
        return std::abs(std::log(strength(completed(named).rule) / strength(named.rule)));
    });
    std::vector<Candidate> all;
    for (const Candidate& named : rules) {
        Candidate candidate = completed(named);
        for (const InputOrder order : {InputOrder::channel, InputOrder::filter}) {
            candidate.input_order = order;
            if (!known || *known == order) all.push_back(candidate);
        }
    }
    return all;
}

// A model of weights whose file has no rule.
Model complete(const FoundWeights& found, const LoadOptions& options, const std::string& file) {
    const std::vector<Candidate> all = candidates(found, options, file);
    std::string tried;
    for (const Candidate& candidate : all) {
        Model model;
        model.rule = candidate.rule;
        model.weights = by_channel(found.weights, candidate.input_order);
        model.origin = {.rule_source = all.size() == 1 ? RuleSource::options : RuleSource::guess,
                        .rule = candidate.name,
                        .input_order = candidate.input_order,
                        .notes = found.notes};
        if (!found.filters && !options.identity_filter && identity_is_untrained(model.weights)) {
            model.rule.filters[0] = {};
            model.origin.notes.emplace_back(
                "no training has changed the weights of the identity filter, so that filter is "
                "taken for zeros; --identity-filter 1 takes the identity");
        }
        if (all.size() == 1 || lives(model)) return model;
        tried += fmt::format("{}{}", tried.empty() ? "" : ", ", text_of(candidate));
    }
    throw_error<InvalidArgument>(
        "{} has no rule, and its automaton lives and stays bounded under none of these: {}; say "
        "how it was trained with --rule, --input-order and, where it differs, --edges, "
        "--sobel-scale, --life, --start-cell or --step-size",
        file, tried);
}

void refuse_options(const LoadOptions& options, const std::string& file) {
    if (options == LoadOptions{}) return;
    throw_error<InvalidArgument>(
        "{} has a rule of its own: leave out --rule, --input-order and all that is for files "
        "without one",
        file);
}

Model load_safetensors(const std::filesystem::path& path, const LoadOptions& options) {
    const SafetensorsReader file(path);
    if (has_rule(file)) {
        refuse_options(options, file.name());
        if (has_own_tensors(file)) return take_model(file);
        const FoundWeights found =
            find_weights(tensors_of(file), file.name(), OtherTensors::refused);
        Model model;
        model.rule = take_rule(file);
        model.weights = found.weights;
        model.history = take_history(file);
        model.origin.notes = found.notes;
        return model;
    }
    Model model = complete(find_weights(tensors_of(file), file.name(), OtherTensors::refused),
                           options, file.name());
    model.history = take_history(file);
    return model;
}

// Of the web demo the format says the order, and the demo itself has one rule.
Model load_demo(const nlohmann::json& json, const LoadOptions& options, const std::string& file) {
    if (options.input_order == InputOrder::channel) {
        throw_error<InvalidArgument>(
            "{}: a file of the web demo has its inputs by filter: leave --input-order out", file);
    }
    Model model = model_of_distill_json(json, file);
    LoadOptions of_rule = options;
    of_rule.input_order.reset();
    if (of_rule == LoadOptions{}) return model;
    if (!options.rule.empty()) {
        model.rule = named_rules(options.rule).front().rule;
        model.origin.rule = options.rule;
    }
    apply(options, model.rule);
    model.origin.rule_source = RuleSource::options;
    return model;
}

Model load_json(const std::filesystem::path& path, const LoadOptions& options) {
    constexpr int deepest = 24;
    const std::string file = path.string();
    const nlohmann::json json = parse_json(read_text(path), file, deepest);
    if (json.is_array()) return load_demo(json, options, file);
    return complete(find_weights(constants_of_graph(json, file), file, OtherTensors::ignored),
                    options, file);
}

}  // namespace

Model model_of_tensors(const std::vector<ForeignTensor>& tensors, const LoadOptions& options,
                       const std::string& source) {
    return complete(find_weights(tensors, source, OtherTensors::refused), options, source);
}

Model model_of_tensors(const std::vector<ForeignTensor>& tensors, const Rule& rule,
                       LoadOptions options, const std::string& source) {
    const FoundWeights found = find_weights(tensors, source, OtherTensors::refused);
    const std::optional<InputOrder> order = known_order(found, options, source);
    options.input_order.reset();
    if (options != LoadOptions{}) {
        throw_error<InvalidArgument>(
            "{}: the rule is given: of the options for what is not known only --input-order may be",
            source);
    }
    if (found.filters && *found.filters != rule.filters) {
        throw_error<InvalidArgument>(
            "{} has filters of its own, and the rule that is given has others: give a rule with "
            "the same, or none",
            source);
    }
    Model model;
    model.rule = rule;
    model.weights = by_channel(found.weights, order.value_or(InputOrder::channel));
    model.origin = {.rule_source = RuleSource::options,
                    .rule = {},
                    .input_order = order.value_or(InputOrder::channel),
                    .notes = found.notes};
    return model;
}

Model Model::load(const std::filesystem::path& path, const LoadOptions& options) {
    const FileKind kind = file_kind(path);
    if (kind == FileKind::zip) {
        return model_of_tensors(open_pytorch_file(path), options, path.string());
    }
    if (kind == FileKind::old_pytorch) {
        constexpr std::size_t most_bytes = std::size_t{64} << 20;
        const std::vector<std::uint8_t> bytes = read_file(path, most_bytes);
        return model_of_tensors(open_old_pytorch_file(bytes, path.string()), options,
                                path.string());
    }
    if (kind == FileKind::json) return load_json(path, options);
    return load_safetensors(path, options);
}

}  // namespace nca
