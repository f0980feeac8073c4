// SPDX-License-Identifier: MIT
#include "host/training/checkpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nca/error.hpp>

#include "host/files/json_fields.hpp"
#include "host/files/model_file.hpp"
#include "host/files/safetensors.hpp"

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
        {"warmup", config.warmup},
        {"pool", config.pool},
        {"damaged", config.damaged},
        {"damage_centre", config.damage_centre},
        {"smallest_damage", config.smallest_damage},
        {"largest_damage", config.largest_damage},
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
    config.warmup = int(fields.integer("warmup", 0, largest_int));
    config.pool = int(fields.integer("pool", 0, largest_int));
    config.damaged = int(fields.integer("damaged", 0, largest_int));
    config.damage_centre = fields.single("damage_centre");
    config.smallest_damage = fields.single("smallest_damage");
    config.largest_damage = fields.single("largest_damage");
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

// All states of the pool, as it keeps them: pool.loss [size], pool.counts [size] cells that are not
// zero in each, then these of all states behind each other, pool.cells [n] their places in the grid
// and pool.values [n, 16].
void put_pool(SafetensorsFile& file, const StatePool& pool) {
    std::vector<float> losses, counts, cells, values;
    for (int i = 0; i < pool.size(); ++i) {
        const StatePool::Entry& entry = pool.entry(i);
        losses.push_back(entry.loss);
        counts.push_back(float(entry.cells.size()));
        cells.insert(cells.end(), entry.cells.begin(), entry.cells.end());
        values.insert(values.end(), entry.values.begin(), entry.values.end());
    }
    const auto size = std::int64_t(losses.size());
    const auto all = std::int64_t(cells.size());
    file.tensors.push_back({"pool.loss", {size}, std::move(losses)});
    file.tensors.push_back({"pool.counts", {size}, std::move(counts)});
    file.tensors.push_back({"pool.cells", {all}, std::move(cells)});
    file.tensors.push_back({"pool.values", {all, channels}, std::move(values)});
}

StatePool take_pool(const SafetensorsFile& file, const TrainingConfig& config,
                    const std::filesystem::path& path) {
    const auto fail = [&](const std::string& what) {
        throw FormatError(fmt::format("{}: {}; the file is damaged", path.string(), what));
    };
    const auto tensor = [&](const char* name) -> const NamedTensor& {
        const NamedTensor* found = file.find(name);
        if (found == nullptr) {
            throw FormatError(fmt::format(
                "{} has no tensor {}, expected since its training has a pool of {} states: without "
                "its pool it cannot be gone on with",
                path.string(), name, config.pool));
        }
        return *found;
    };
    try {
        config.validate();  // the grid's size is about to be used
    } catch (const InvalidArgument& error) {
        fail(error.what());
    }
    const NamedTensor& losses = tensor("pool.loss");
    const NamedTensor& counts = tensor("pool.counts");
    const NamedTensor& cells = tensor("pool.cells");
    const NamedTensor& values = tensor("pool.values");
    const auto all = std::int64_t(cells.values.size());
    const auto require_shape = [&](const NamedTensor& got, std::vector<std::int64_t> expected) {
        if (got.shape != expected) {
            fail(fmt::format("tensor {} has shape {}, expected {}", got.name, shape_text(got.shape),
                             shape_text(expected)));
        }
    };
    require_shape(losses, {config.pool});
    require_shape(counts, {config.pool});
    require_shape(cells, {all});
    if (values.shape != std::vector<std::int64_t>{all, channels}) {
        fail(fmt::format("tensor pool.values has shape {}, expected {}, as pool.cells has shape {}",
                         shape_text(values.shape), shape_text({all, channels}),
                         shape_text(cells.shape)));
    }

    const int grid_cells = config.grid() * config.grid();
    StatePool pool(config.pool, grid_cells);
    std::size_t at = 0;
    for (int i = 0; i < config.pool; ++i) {
        const double count = counts.values[std::size_t(i)];
        if (!(count >= 0 && count <= double(cells.values.size() - at)) ||
            count != std::floor(count)) {
            fail(fmt::format("pool.counts holds {} at {}, expected whole numbers that add up to {}",
                             count, i, all));
        }
        StatePool::Entry entry{.cells = {}, .values = {}, .loss = losses.values[std::size_t(i)]};
        if (!std::isfinite(entry.loss)) {
            fail(fmt::format("pool.loss holds {}, expected finite numbers", entry.loss));
        }
        for (const std::size_t end = at + std::size_t(count); at < end; ++at) {
            const float cell = cells.values[at];
            const bool in_order = entry.cells.empty() || cell > float(entry.cells.back());
            if (!(cell >= 0 && cell < float(grid_cells)) || cell != std::floor(cell) || !in_order) {
                fail(
                    fmt::format("pool.cells holds {}, expected whole numbers below {} that ascend "
                                "in each state",
                                cell, grid_cells));
            }
            entry.cells.push_back(std::uint32_t(cell));
            const auto first = values.values.begin() + std::ptrdiff_t(at * channels);
            entry.values.insert(entry.values.end(), first, first + channels);
        }
        pool.set_entry(i, std::move(entry));
    }
    if (at != cells.values.size()) {
        fail(fmt::format("pool.counts adds up to {}, expected {}", at, all));
    }
    return pool;
}

const std::string& metadata(const SafetensorsFile& file, const char* key,
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
    if (checkpoint.config.pool > 0) put_pool(file, checkpoint.pool);
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
        {"learnt", checkpoint.learnt},
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
    if (checkpoint.config.pool > 0) checkpoint.pool = take_pool(file, checkpoint.config, path);

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
    checkpoint.learnt = fields.boolean("learnt");
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
