// SPDX-License-Identifier: MIT
#include "host/training/checkpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nca/error.hpp>
#include <span>
#include <type_traits>

#include "host/core/checks.hpp"
#include "host/core/start_cells.hpp"
#include "host/core/throw_error.hpp"
#include "host/files/json_fields.hpp"
#include "host/files/model_file.hpp"
#include "host/files/place_fields.hpp"
#include "host/training/config_fields.hpp"

namespace nca {
namespace {

constexpr auto training_key = "nca.training";
constexpr auto target_tensor = "target";
constexpr auto wanted_key = "wanted_iterations";  // of the progress; optional
// The largest count that a file may hold. A resumed run counts on from it without overflow.
constexpr std::int64_t largest_count = 1'000'000'000;
constexpr std::size_t most_recent_losses = 1000;

// JSON as text. Bytes that are not UTF-8 become U+FFFD.
std::string dumped(const nlohmann::ordered_json& json) {
    return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

bool is_default(const ConfigField& field, const TrainingConfig& config) {
    return std::visit([&](auto member) { return config.*member == TrainingConfig{}.*member; },
                      field.member);
}

// The fields of the table. The rule is stored as in every model file, the start cells beside them.
// all: with fields that a checkpoint does not have because they are at their default.
nlohmann::ordered_json config_to_json(const TrainingConfig& config, bool all) {
    nlohmann::ordered_json json;
    for (const ConfigField& field : config_fields) {
        if (field.newer && !all && is_default(field, config)) continue;
        const auto put = [&]<class Value>(const Value& value) {
            if constexpr (std::is_enum_v<Value>) {
                json[field.name] = field.values.choices[std::size_t(value)];
            } else {
                json[field.name] = value;
            }
        };
        std::visit([&](auto member) { put(config.*member); }, field.member);
    }
    return json;
}

template <class Value>
Value take_value(const ConfigField& field, JsonFields& fields) {
    if constexpr (std::is_same_v<Value, std::string>) return fields.text(field.name);
    if constexpr (std::is_same_v<Value, bool>) return fields.boolean(field.name);
    if constexpr (std::is_same_v<Value, float>) return fields.single(field.name);
    if constexpr (std::is_enum_v<Value>) {
        return Value(fields.choice(field.name, field.values.choices));
    } else if constexpr (std::is_integral_v<Value> && !std::is_same_v<Value, bool>) {
        return Value(fields.integer(field.name, std::int64_t(field.values.least),
                                    std::numeric_limits<Value>::max()));
    }
}

TrainingConfig config_from_text(const std::string& text, const Rule& rule,
                                const std::string& where) {
    JsonFields fields(text, where);
    TrainingConfig config;
    config.rule = rule;
    for (const ConfigField& field : config_fields) {
        if (field.newer && !fields.has(field.name)) continue;
        const auto take = [&]<class Value>(Value& value) {
            value = take_value<Value>(field, fields);
        };
        std::visit([&](auto member) { take(config.*member); }, field.member);
    }
    config.start_cells = take_start_cells(fields);
    fields.finish();
    try {
        config.validate();
    } catch (const InvalidArgument& error) {
        throw_error<FormatError>("{}: {}; the file is damaged", where, error.what());
    }
    return config;
}

void put_weights(SafetensorsFile& file, const std::string& prefix, const Weights& weights) {
    check_weights(weights);
    put_parameters(file, prefix, weights.all(), weights.has_output_bias());
}

void put_moments(SafetensorsFile& file, const std::string& prefix, const Parameters& parameters) {
    const bool output_bias = parameters.weights.has_output_bias();
    put_parameters(file, prefix + "adam.m.", parameters.first_moments, output_bias);
    put_parameters(file, prefix + "adam.v.", parameters.second_moments, output_bias);
}

// All states of the pool, stored as in StatePool: pool.loss [size]; pool.counts [size], the number
// of cells of each state that are not zero; and of all states together, one after the other,
// pool.cells [n], the places of these cells in the grid, and pool.values [n, 16].
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

// For a message. The texts are from a file.
std::string shown(const nlohmann::ordered_json& value) {
    return value.is_string() ? printable(value.get_ref<const std::string&>()) : value.dump();
}

// The first field that has another value in `expected`, as "batch is 8, expected 4"; empty: none.
std::string first_difference(const nlohmann::ordered_json& got,
                             const nlohmann::ordered_json& expected) {
    for (const auto& [name, value] : got.items()) {
        const auto& other = expected.at(name);
        if (value == other) continue;
        if (value.is_structured()) return name + " are others than expected";
        return fmt::format("{} is {}, expected {}", name, shown(value), shown(other));
    }
    return {};
}

// Reads the parts of a checkpoint from its file.
class CheckpointReader {
public:
    explicit CheckpointReader(const SafetensorsReader& file) : file_(file) {}

    Checkpoint read() const {
        const std::string& training = metadata(training_key);
        for (const TensorEntry& tensor : file_.tensors()) {
            if (tensor.type == NumberType::float32) continue;
            throw_error<FormatError>(
                "{}: tensor {} has {} values, and a checkpoint has float32 only: go on from the "
                "file that was written",
                file_.name(), printable(tensor.name), name(tensor.type));
        }
        const Model model = take_model(file_);
        Checkpoint checkpoint{
            .config = config_from_text(training, model.rule, where(training_key)),
            .current = Parameters(model.weights),
            .anchor = Parameters(model.weights),
            .good = model.weights,
            .init_text = model.history.init,
        };
        // The sizes of a trainer's buffers follow from the configuration.
        if (checkpoint.config.output_bias != model.weights.has_output_bias()) {
            fail("output_bias is {}, but tensor net.2.bias is {}", checkpoint.config.output_bias,
                 model.weights.has_output_bias() ? "there" : "missing");
        }
        take_moments(checkpoint.current, "");
        take_weights(checkpoint.anchor.weights, "recovery.");
        take_moments(checkpoint.anchor, "recovery.");
        // Checkpoints of earlier versions have no good weights: then the current ones are.
        if (has_tensors("good.")) take_weights(checkpoint.good, "good.");
        if (has_tensors("init.")) {
            checkpoint.init = model.weights;
            take_weights(*checkpoint.init, "init.");
        }
        if (checkpoint.config.pool > 0) checkpoint.pool = pool(checkpoint.config);
        take_progress(checkpoint);
        take_target(checkpoint);
        return checkpoint;
    }

    CheckpointInfo read_info() const {
        Checkpoint checkpoint{.config = {},
                              .current = Parameters(Weights()),
                              .anchor = Parameters(Weights()),
                              .good = Weights()};
        const std::string& training = metadata(training_key);
        take_progress(checkpoint);
        return {.config = config_from_text(training, take_rule(file_), where(training_key)),
                .target = checkpoint.target_name,
                .has_target = file_.find(target_tensor) != nullptr,
                .iterations = checkpoint.progress.iteration,
                .wanted_iterations = checkpoint.wanted_iterations,
                .init = take_history(file_).init};
    }

private:
    template <class... Values>
    [[noreturn]] void fail(fmt::format_string<Values...> what, Values&&... values) const {
        throw_error<FormatError>("{}: {}; the file is damaged", file_.name(),
                                 fmt::format(what, std::forward<Values>(values)...));
    }

    std::string where(const char* key) const { return fmt::format("{}: {}", file_.name(), key); }

    const std::string& metadata(const char* key) const {
        const auto found = file_.metadata().find(key);
        if (found == file_.metadata().end()) {
            throw_error<FormatError>(
                "{} has no \"{}\" in its metadata: it is a model and not a checkpoint; resume from "
                "a checkpoint",
                file_.name(), key);
        }
        return found->second;
    }

    bool has_tensors(std::string_view prefix) const {
        return std::ranges::any_of(
            file_.tensors(), [&](const TensorEntry& t) { return t.name.starts_with(prefix); });
    }

    void take_weights(Weights& weights, const std::string& prefix) const {
        take_parameters(weights.all(), file_, prefix, weights.has_output_bias());
    }

    void take_moments(Parameters& parameters, const std::string& prefix) const {
        const bool output_bias = parameters.weights.has_output_bias();
        take_parameters(parameters.first_moments, file_, prefix + "adam.m.", output_bias);
        take_parameters(parameters.second_moments, file_, prefix + "adam.v.", output_bias);
        if (const float least = std::ranges::min(parameters.second_moments); least < 0) {
            fail("{}adam.v holds {}, expected squares", prefix, least);
        }
    }

    const TensorEntry& pool_tensor(const char* name, int pool) const {
        const TensorEntry* found = file_.find(name);
        if (found == nullptr) {
            throw_error<FormatError>(
                "{} has no tensor {}, expected since its training has a pool of {} states: it "
                "cannot continue without its pool",
                file_.name(), name, pool);
        }
        return *found;
    }

    void require_shape(const TensorEntry& got, const std::vector<std::int64_t>& expected,
                       const std::string& reason = "") const {
        if (got.shape == expected) return;
        fail("tensor {} has shape {}, expected {}{}", got.name, shape_text(got.shape),
             shape_text(expected), reason);
    }

    std::vector<float> values_of(const TensorEntry& tensor, std::uint64_t first,
                                 std::size_t count) const {
        std::vector<float> values(count);
        file_.read(values, tensor, first);
        return values;
    }

    // Reads the pool's cells and their values only where its counts are right, and then state by
    // state, so that a damaged file does not fill the memory.
    StatePool pool(const TrainingConfig& config) const {
        const TensorEntry& losses = pool_tensor("pool.loss", config.pool);
        const TensorEntry& counts = pool_tensor("pool.counts", config.pool);
        const TensorEntry& cells = pool_tensor("pool.cells", config.pool);
        const TensorEntry& values = pool_tensor("pool.values", config.pool);
        require_shape(losses, {config.pool});
        require_shape(counts, {config.pool});
        const auto all = std::int64_t(cells.size());
        require_shape(cells, {all});
        require_shape(values, {all, channels},
                      fmt::format(", as pool.cells has shape {}", shape_text(cells.shape)));

        const int grid_cells = config.grid() * config.grid();
        const std::vector<std::size_t> sizes = state_sizes(counts, grid_cells, all);
        const auto pool_size = std::size_t(config.pool);
        const std::vector<float> loss = values_of(losses, 0, pool_size);
        StatePool pool(config.pool, grid_cells);
        std::size_t first = 0;
        for (std::size_t i = 0; i < pool_size; ++i) {
            if (!std::isfinite(loss[i])) {
                fail("pool.loss holds {}, expected finite numbers", loss[i]);
            }
            pool.set_entry(int(i),
                           {.cells = cells_of(cells, first, sizes[i], grid_cells),
                            .values = values_of(values, first * channels, sizes[i] * channels),
                            .loss = loss[i]});
            first += sizes[i];
        }
        return pool;
    }

    // How many cells of each state are stored. They add up to `all`.
    std::vector<std::size_t> state_sizes(const TensorEntry& counts, int grid_cells,
                                         std::int64_t all) const {
        std::vector<std::size_t> sizes;
        std::int64_t sum = 0;
        for (const float count : values_of(counts, 0, counts.size())) {
            if (!(count >= 0 && count <= float(grid_cells)) || count != std::floor(count)) {
                fail("pool.counts holds {} at {}, expected whole numbers up to {}", count,
                     sizes.size(), grid_cells);
            }
            sizes.push_back(std::size_t(count));
            sum += std::int64_t(count);
        }
        if (sum != all) fail("pool.counts adds up to {}, expected {}", sum, all);
        return sizes;
    }

    std::vector<std::uint32_t> cells_of(const TensorEntry& tensor, std::size_t first,
                                        std::size_t count, int grid_cells) const {
        std::vector<std::uint32_t> cells;
        cells.reserve(count);
        for (const float cell : values_of(tensor, first, count)) {
            const bool in_order = cells.empty() || cell > float(cells.back());
            if (!(cell >= 0 && cell < float(grid_cells)) || cell != std::floor(cell) || !in_order) {
                fail(
                    "pool.cells holds {}, expected whole numbers below {} that ascend in each "
                    "state",
                    cell, grid_cells);
            }
            cells.push_back(std::uint32_t(cell));
        }
        return cells;
    }

    void take_progress(Checkpoint& checkpoint) const {
        JsonFields fields(metadata(progress_key), where(progress_key));
        TrainingProgress& progress = checkpoint.progress;
        checkpoint.target_name = fields.text("target");
        const std::string hash = fields.text("target_hash");
        if (hash.size() != 16 || hash.find_first_not_of("0123456789abcdef") != std::string::npos) {
            fields.fail("target_hash", printable(hash), "16 hexadecimal digits");
        }
        checkpoint.target_hash = std::stoull(hash, nullptr, 16);
        progress.iteration = fields.integer("iteration", 0, largest_count);
        checkpoint.current.updates = fields.integer("updates", 0, largest_count);
        progress.recoveries = int(fields.integer("recoveries", 0, 1000));
        progress.failures = int(fields.integer("failures", 0, 1000));
        progress.good_iterations = int(fields.integer("good_iterations", 0, largest_count));
        progress.learnt = fields.boolean("learnt");
        checkpoint.anchor.updates = fields.integer("recovery_updates", 0, largest_count);
        if (fields.has(wanted_key)) {
            checkpoint.wanted_iterations = fields.integer(wanted_key, 1, most_wanted_iterations);
        }
        const auto& losses = fields.take("recent_losses");
        if (!losses.is_array() || losses.size() > most_recent_losses) {
            fields.fail("recent_losses", std::string("of another kind"),
                        fmt::format("an array of at most {} numbers", most_recent_losses));
        }
        for (const auto& loss : losses) {
            if (!loss.is_number()) fields.fail("recent_losses", loss, "numbers only");
            progress.recent_losses.push_back(loss.get<double>());
        }
        fields.finish();
    }

    // After take_progress, which has its hash.
    void take_target(Checkpoint& checkpoint) const {
        const TensorEntry* tensor = file_.find(target_tensor);
        if (tensor == nullptr) return;
        const std::int64_t grid = checkpoint.config.grid();
        require_shape(*tensor, {grid, grid, visible_channels});
        checkpoint.target = values_of(*tensor, 0, tensor->size());
        for (const float value : checkpoint.target) {
            if (!(value >= 0 && value <= 1)) {
                fail("tensor {} holds {}, expected 0 to 1", target_tensor, value);
            }
        }
        if (hash_target(checkpoint.target) != checkpoint.target_hash) {
            fail("tensor {} has another hash than target_hash", target_tensor);
        }
    }

    const SafetensorsReader& file_;
};

}  // namespace

std::string first_difference(const TrainingConfig& got, const TrainingConfig& expected) {
    std::string in_config =
        first_difference(config_to_json(got, true), config_to_json(expected, true));
    if (!in_config.empty()) return in_config;
    if (got.start_cells != expected.start_cells) {
        constexpr std::size_t most = 4;
        const std::string shown = start_cells_text(got.start_cells, most);
        const std::string shown_expected = start_cells_text(expected.start_cells, most);
        if (shown == shown_expected) return "start_cells are others than expected";
        return fmt::format("start_cells is {}, expected {}", shown, shown_expected);
    }
    const std::string in_rule =
        first_difference(nlohmann::ordered_json::parse(rule_to_text(got.rule)),
                         nlohmann::ordered_json::parse(rule_to_text(expected.rule)));
    return in_rule.empty() ? "" : "rule's " + in_rule;
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
    put_weights(file, "recovery.", checkpoint.anchor.weights);
    put_moments(file, "recovery.", checkpoint.anchor);
    put_weights(file, "good.", checkpoint.good);
    if (checkpoint.init) put_weights(file, "init.", *checkpoint.init);
    if (checkpoint.config.pool > 0) put_pool(file, checkpoint.pool);
    if (!checkpoint.target.empty()) {
        const std::int64_t grid = checkpoint.config.grid();
        file.tensors.push_back({target_tensor, {grid, grid, visible_channels}, checkpoint.target});
    }
    nlohmann::ordered_json training = config_to_json(checkpoint.config, false);
    put_start_cells(training, checkpoint.config.start_cells);
    file.metadata[training_key] = dumped(training);
    // The hash is text, because JSON readers in other languages keep 53 bits of a number.
    nlohmann::ordered_json progress = {
        {"target", checkpoint.target_name},
        {"target_hash", fmt::format("{:016x}", checkpoint.target_hash)},
        {"iteration", checkpoint.progress.iteration},
        {"updates", checkpoint.current.updates},
        {"recoveries", checkpoint.progress.recoveries},
        {"failures", checkpoint.progress.failures},
        {"good_iterations", checkpoint.progress.good_iterations},
        {"learnt", checkpoint.progress.learnt},
        {"recovery_updates", checkpoint.anchor.updates},
        {"recent_losses", checkpoint.progress.recent_losses},
    };
    if (checkpoint.wanted_iterations > 0) progress[wanted_key] = checkpoint.wanted_iterations;
    file.metadata[progress_key] = dumped(progress);
    write_safetensors(path, file);
}

Checkpoint take_checkpoint(const SafetensorsReader& file) { return CheckpointReader(file).read(); }

Checkpoint load_checkpoint(const std::filesystem::path& path) {
    return take_checkpoint(SafetensorsReader(path));
}

CheckpointInfo checkpoint_info(const std::filesystem::path& path) {
    return CheckpointReader(SafetensorsReader(path)).read_info();
}

}  // namespace nca
