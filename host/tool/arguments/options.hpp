// SPDX-License-Identifier: MIT
#pragma once

// Options and checks that several commands share.

#include "host/tool/arguments/arguments.hpp"

#include <CLI/CLI.hpp>

#include <charconv>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace nca::tool {

// One command of nca. CLI11 parses its options, then finish makes its arguments of them.
struct Command {
    CLI::App* app;
    std::function<Arguments()> finish;  // throws UsageError and InvalidArgument
};
// command_line: all words of it, for the command that continues a stopped training.
Command add_train(CLI::App& app, const std::vector<std::string>& command_line);
Command add_grow(CLI::App& app);
Command add_gradcheck(CLI::App& app);
Command add_info(CLI::App& app);
Command add_convert(CLI::App& app);

inline constexpr int largest_count = std::numeric_limits<int>::max();

// Parses the whole text; nothing where it is not a number.
template <class Number>
std::optional<Number> parse_number(std::string_view text) {
    Number value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return value;
}

std::vector<std::string_view> split(std::string_view text, char separator);

// Accepts low..high. Like CLI::Range, but refuses NaN. expected: for the message.
CLI::Validator real_range(double low, double high, const std::string& expected);
// Accepts integers in low..high. Rewrites the text, because CLI11 would read 010 as eight.
CLI::Validator int_range(std::int64_t low, std::int64_t high);

// Refuses an empty text, such as "$name" where the variable is not set.
CLI::Validator not_empty();

// An option whose help shows `argument` for its value.
template <class Value>
CLI::Option* add(CLI::App& command, const char* name, Value& value, const char* argument,
                 const std::string& help) {
    CLI::Option* option = command.add_option(name, value, help)->type_name(argument);
    constexpr bool is_path = std::is_same_v<Value, std::filesystem::path> ||
                             std::is_same_v<Value, std::vector<std::filesystem::path>>;
    if constexpr (is_path) option->check(not_empty());
    return option;
}

// --device, --threads and --precision.
class DeviceOptions {
public:
    CLI::Option* add_precision(CLI::App& command);
    void add_to(CLI::App& command);
    Device parse() const;

    std::string name = "auto";

private:
    std::string precision_ = "auto";
    int threads_ = 0;
};

// The options for files without a rule. They write to `load`, which has to live as long as the
// command.
void add_load_options(CLI::App& command, LoadOptions& load);

// Those of them that a training has, too, for its rule. edges_help: of --edges.
void add_rule_options(CLI::App& command, LoadOptions& options, const char* edges_help);

void add_seed(CLI::App& command, std::uint32_t& seed);
// --seed-at, which may be repeated. parse_starts throws UsageError.
void add_starts(CLI::App& command, std::vector<std::string>& starts, const std::string& help);
std::vector<Place> parse_starts(const std::vector<std::string>& starts);
void add_fire_rate(CLI::App& command, std::optional<float>& fire_rate,
                   const char* otherwise = "the model's own");

}  // namespace nca::tool
