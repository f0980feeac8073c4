// SPDX-License-Identifier: MIT
#include "host/checkpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nca/error.hpp>

#include "host/json_fields.hpp"
#include "host/model_file.hpp"
#include "host/safetensors.hpp"

namespace nca {
namespace {

constexpr auto training_key = "nca.training";
constexpr auto progress_key = "nca.progress";
constexpr int largest_int = std::numeric_limits<int>::max();
// Of anything that is counted; a run that goes on from there counts on without overflow.
constexpr std::int64_t largest_count = 1'000'000'000;
constexpr std::size_t most_recent_losses = 1000;

// In the order of the enumerators.
constexpr const char* initialisation_names[] = {"pytorch", "glorot"};
constexpr const char* schedule_names[] = {"exponential", "drop"};

// Text that is not UTF-8 becomes U+FFFD.
std::string dumped(const nlohmann::ordered_json& json) {
    return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// The configuration but for its rule, which is in the file anyway.
nlohmann::ordered_json config_to_json(const TrainingConfig& config) {
    return {
        {"preset", config.preset},
        {"output_bias", config.output_bias},
        {"initialisation", initialisation_names[std::size_t(config.initialisation)]},
        {"schedule", schedule_names[std::size_t(config.schedule)]},
        {"normalise_gradients", config.normalise_gradients},
        {"learning_rate", config.learning_rate},
        {"beta1", config.beta1},
        {"beta2", config.beta2},
        {"batch", config.batch},
        {"fewest_steps", config.fewest_steps},
        {"most_steps", config.most_steps},
        {"target_size", config.target_size},
        {"padding", config.padding},
        {"seed", config.seed},
    };
}

TrainingConfig config_from_text(const std::string& text, const Rule& rule,
                                const std::string& where) {
    JsonFields fields(text, where);
    TrainingConfig config;
    config.preset = fields.text("preset");
    config.rule = rule;
    config.output_bias = fields.boolean("output_bias");
    config.initialisation = Initialisation(fields.choice("initialisation", initialisation_names));
    config.schedule = Schedule(fields.choice("schedule", schedule_names));
    config.normalise_gradients = fields.boolean("normalise_gradients");
    config.learning_rate = fields.single("learning_rate");
    config.beta1 = fields.single("beta1");
    config.beta2 = fields.single("beta2");
    config.batch = int(fields.integer("batch", 1, largest_int));
    config.fewest_steps = int(fields.integer("fewest_steps", 1, largest_int));
    config.most_steps = int(fields.integer("most_steps", 1, largest_int));
    config.target_size = int(fields.integer("target_size", 1, largest_int));
    config.padding = int(fields.integer("padding", 0, largest_int));
    config.seed =
        std::uint32_t(fields.integer("seed", 0, std::numeric_limits<std::uint32_t>::max()));
    fields.finish();
    return config;
}

// Each array of Parameters by the prefix of its tensors' names.
void put_array(SafetensorsFile& file, const std::string& prefix, std::span<const float> all,
               bool output_bias) {
    for (ParameterTensor& tensor : parameter_tensors(output_bias)) {
        const auto values = all.subspan(tensor.offset, tensor.size);
        file.tensors.push_back(
            {prefix + tensor.name, std::move(tensor.shape), {values.begin(), values.end()}});
    }
}

void take_array(std::span<float> all, const SafetensorsFile& file, const std::string& prefix,
                bool output_bias, const std::filesystem::path& path) {
    for (const ParameterTensor& tensor : parameter_tensors(output_bias)) {
        take_tensor(all.subspan(tensor.offset, tensor.size), file, prefix + tensor.name,
                    tensor.shape, path);
    }
}

void put_moments(SafetensorsFile& file, const std::string& prefix, const Parameters& parameters) {
    const bool output_bias = parameters.weights.has_output_bias();
    put_array(file, prefix + "adam.m.", parameters.first_moments, output_bias);
    put_array(file, prefix + "adam.v.", parameters.second_moments, output_bias);
}

void take_moments(Parameters& parameters, const SafetensorsFile& file, const std::string& prefix,
                  const std::filesystem::path& path) {
    const bool output_bias = parameters.weights.has_output_bias();
    take_array(parameters.first_moments, file, prefix + "adam.m.", output_bias, path);
    take_array(parameters.second_moments, file, prefix + "adam.v.", output_bias, path);
    if (const float least = std::ranges::min(parameters.second_moments); least < 0) {
        throw FormatError(
            fmt::format("{}: {}adam.v holds {}, expected squares; the file is damaged",
                        path.string(), prefix, least));
    }
}

const std::string& metadata(const SafetensorsFile& file, const std::string& key,
                            const std::filesystem::path& path) {
    const auto found = file.metadata.find(key);
    if (found == file.metadata.end()) {
        throw FormatError(
            fmt::format("{} has no \"{}\" in its metadata: it is a model and not a "
                        "checkpoint; resume from a file that --checkpoint wrote",
                        path.string(), key));
    }
    return found->second;
}

}  // namespace

std::string first_difference(const TrainingConfig& got, const TrainingConfig& expected) {
    const auto got_json = config_to_json(got);
    const auto expected_json = config_to_json(expected);
    for (const auto& [name, value] : got_json.items()) {
        if (value != expected_json[name]) {
            return fmt::format("{} is {}, expected {}", name, dumped(value),
                               dumped(expected_json[name]));
        }
    }
    if (got.rule != expected.rule) {
        return fmt::format("the rule is {}, expected {}", rule_to_text(got.rule),
                           rule_to_text(expected.rule));
    }
    return {};
}

std::uint64_t hash_target(const std::vector<float>& target) {
    std::uint64_t hash = 0xcbf29ce484222325;
    const auto* bytes = reinterpret_cast<const unsigned char*>(target.data());
    for (std::size_t i = 0; i < target.size() * sizeof(float); ++i) {
        hash = (hash ^ bytes[i]) * 0x100000001b3;
    }
    return hash;
}

void save_checkpoint(const std::filesystem::path& path, const Checkpoint& checkpoint,
                     const TrainingHistory& history) {
    SafetensorsFile file;
    put_model({checkpoint.config.rule, checkpoint.current.weights, history}, file);
    put_moments(file, "", checkpoint.current);
    const Weights& anchor = checkpoint.anchor.weights;
    put_array(file, "recovery.", anchor.all(), anchor.has_output_bias());
    put_moments(file, "recovery.", checkpoint.anchor);
    file.metadata[training_key] = dumped(config_to_json(checkpoint.config));
    // The hash as text: JSON readers in other languages keep 53 bits of a number.
    const nlohmann::ordered_json progress = {
        {"target", checkpoint.target_name},
        {"target_hash", fmt::format("{:016x}", checkpoint.target_hash)},
        {"iteration", checkpoint.iteration},
        {"updates", checkpoint.current.updates},
        {"recoveries", checkpoint.recoveries},
        {"failures", checkpoint.failures},
        {"good_iterations", checkpoint.good_iterations},
        {"recovery_updates", checkpoint.anchor.updates},
        {"recent_losses", checkpoint.recent_losses},
    };
    file.metadata[progress_key] = dumped(progress);
    write_safetensors(path, file);
}

Checkpoint load_checkpoint(const std::filesystem::path& path) {
    const SafetensorsFile file = read_safetensors(path);
    const std::string& training = metadata(file, training_key, path);
    const Model model = take_model(file, path);
    const std::string name = path.string();
    Checkpoint checkpoint{
        .config = config_from_text(training, model.rule, name + ": " + training_key),
        .current = Parameters(model.weights),
        .anchor = Parameters(model.weights),
    };
    // A trainer sizes its buffers by the configuration.
    if (checkpoint.config.output_bias != model.weights.has_output_bias()) {
        throw FormatError(
            fmt::format("{}: output_bias is {}, but tensor net.2.bias is {}; the "
                        "file is damaged",
                        name, checkpoint.config.output_bias,
                        model.weights.has_output_bias() ? "there" : "missing"));
    }
    take_moments(checkpoint.current, file, "", path);
    Parameters& anchor = checkpoint.anchor;
    take_array(anchor.weights.all(), file, "recovery.", anchor.weights.has_output_bias(), path);
    take_moments(anchor, file, "recovery.", path);

    JsonFields fields(metadata(file, progress_key, path), name + ": " + progress_key);
    checkpoint.target_name = fields.text("target");
    const std::string hash = fields.text("target_hash");
    if (hash.size() != 16 || hash.find_first_not_of("0123456789abcdef") != std::string::npos) {
        fields.fail("target_hash", printable(hash), "16 hexadecimal digits");
    }
    checkpoint.target_hash = std::stoull(hash, nullptr, 16);
    checkpoint.iteration = fields.integer("iteration", 0, largest_count);
    checkpoint.current.updates = fields.integer("updates", 0, largest_count);
    checkpoint.recoveries = int(fields.integer("recoveries", 0, 1000));
    checkpoint.failures = int(fields.integer("failures", 0, 1000));
    checkpoint.good_iterations = int(fields.integer("good_iterations", 0, largest_count));
    anchor.updates = fields.integer("recovery_updates", 0, largest_count);
    const auto& losses = fields.take("recent_losses");
    if (!losses.is_array() || losses.size() > most_recent_losses) {
        fields.fail("recent_losses", std::string("of another kind"),
                    fmt::format("an array of at most {} numbers", most_recent_losses));
    }
    for (const auto& loss : losses) {
        if (!loss.is_number()) fields.fail("recent_losses", loss, "numbers only");
        checkpoint.recent_losses.push_back(loss.get<double>());
    }
    fields.finish();
    return checkpoint;
}

}  // namespace nca
