// SPDX-License-Identifier: MIT
#include "host/tool/arguments/options.hpp"
#include "host/core/rule_names.hpp"
#include "host/core/throw_error.hpp"

#include <algorithm>
#include <iterator>

namespace nca::tool {
namespace {

// Parses an option's text. The library's message for a wrong one becomes a UsageError.
template <class Parse>
auto option_value(const char* option, const std::string& text, Parse parse) {
    try {
        return parse(text);
    } catch (const InvalidArgument& error) {
        throw_error<UsageError>("{} {}: {}", option, text, error.what());
    }
}

// An option whose value is one of these names; the index of the name becomes the enumerator.
template <class Value, std::size_t count>
void add_choice(CLI::App& command, const char* option, std::optional<Value>& value,
                const char* const (&names)[count], const char* argument, const char* help) {
    const auto set = [option, &value, &names](const std::string& text) {
        const auto found = std::ranges::find(names, text);
        if (found == std::end(names)) {
            throw_error<UsageError>("{} {}: expected {}", option, text, fmt::join(names, " or "));
        }
        value = static_cast<Value>(found - std::begin(names));
    };
    command.add_option_function<std::string>(option, set, help)->type_name(argument);
}

// "36,20"
Place parse_start(const std::string& text) {
    const std::vector<std::string_view> parts = split(text, ',');
    const std::optional<int> x = parse_number<int>(parts.front());
    const std::optional<int> y = parse_number<int>(parts.back());
    if (parts.size() != 2 || !x || !y) {
        throw_error<UsageError>(
            "--seed-at {}: expected X,Y, a cell's column and row, such as 36,20", text);
    }
    return {*y, *x};
}

void add_number(CLI::App& command, const char* option, std::optional<float>& value,
                const char* help) {
    constexpr double largest = std::numeric_limits<float>::max();
    add(command, option, value, "F", help)
        ->check(real_range(-largest, largest, "a number within the range of a float"));
}

}  // namespace

std::vector<std::string_view> split(std::string_view text, char separator) {
    std::vector<std::string_view> parts;
    for (;;) {
        const std::size_t end = text.find(separator);
        parts.push_back(text.substr(0, end));
        if (end == std::string_view::npos) return parts;
        text.remove_prefix(end + 1);
    }
}

CLI::Validator real_range(double low, double high, const std::string& expected) {
    return CLI::Validator(
        [=](std::string& text) -> std::string {
            const std::optional<double> value = parse_number<double>(text);
            return value && *value >= low && *value <= high
                       ? ""
                       : fmt::format("got {}, expected {}", text, expected);
        },
        "");
}

CLI::Validator int_range(std::int64_t low, std::int64_t high) {
    return CLI::Validator(
        [low, high](std::string& text) -> std::string {
            const std::optional<std::int64_t> value = parse_number<std::int64_t>(text);
            if (!value || *value < low || *value > high) {
                return fmt::format("got {}, expected a whole number in {}..{}", text, low, high);
            }
            text = std::to_string(*value);
            return "";
        },
        "");
}

CLI::Validator not_empty() {
    return CLI::Validator(
        [](std::string& text) -> std::string {
            return text.empty() ? "the name is empty, give one or leave the option out" : "";
        },
        "");
}

CLI::Option* DeviceOptions::add_precision(CLI::App& command) {
    return add(command, "--precision", precision_, "NAME",
               "of the matrix products on CUDA: exact, precise or fast (precise where the device "
               "runs rollouts in bands, exact elsewhere); the CPU computes in float32 always");
}

void DeviceOptions::add_to(CLI::App& command) {
    add(command, "--device", name, "DEVICE", "auto (default), cpu, cuda or cuda:1");
    add(command, "--threads", threads_, "N", "of the CPU engine (0: one for each processor)")
        ->transform(int_range(0, 1024));
    add_precision(command);
}

Device DeviceOptions::parse() const {
    Device device = option_value("--device", name, Device::parse);
    device.threads = threads_;
    if (precision_ != "auto") {
        device.precision = option_value("--precision", precision_, parse_precision);
    }
    return device;
}

void add_load_options(CLI::App& command, LoadOptions& load) {
    static constexpr const char* no_yes[] = {"no", "yes"};
    const auto set_rule = [&load](const std::string& text) {
        if (std::ranges::find(rule_names, text) == std::end(rule_names)) {
            throw_error<UsageError>("--rule {}: expected {}", text, fmt::join(rule_names, ", "));
        }
        load.rule = text;
    };
    command
        .add_option_function<std::string>(
            "--rule", set_rule,
            "of a file without one: notebook, growing, or demo (growing with circular edges); "
            "guessed where it is not given")
        ->type_name("NAME");
    add_choice(command, "--input-order", load.input_order, input_order_names, "ORDER",
               "of the first layer's inputs in such a file: channel (channel * 3 + filter) or "
               "filter (filter * 16 + channel); guessed");
    command.add_flag("--transposed", load.transposed,
                     "the program that trained it exchanged x and y: without this its picture is "
                     "mirrored along the diagonal");
    add_rule_options(command, load, "of such a file, in place of the rule's: circular or zero");
    static constexpr const char* digits[] = {"0", "1"};
    add_choice(
        command, "--identity-filter", load.identity_filter, digits, "0|1",
        "0: the first filter is all zero, as the PyTorch notebook prints it (by the weights)");
    add_choice(command, "--premultiplied", load.premultiplied, no_yes, "no|yes",
               "whether colours are multiplied by alpha (notebook no, growing yes)");
    add_choice(command, "--start-cell", load.start_cell, start_cell_names, "CELL",
               "alpha or alpha_and_hidden");
}

void add_rule_options(CLI::App& command, LoadOptions& options, const char* edges_help) {
    add_choice(command, "--edges", options.edges, edges_names, "EDGES", edges_help);
    add_number(command, "--sobel-scale", options.sobel_scale,
               "of the filters -1 0 1, -2 0 2, -1 0 1 (notebook 1, growing 0.125)");
    add_choice(command, "--life", options.life, life_names, "LIFE", "post or pre_and_post");
    add_number(command, "--step-size", options.step_size, "factor of an update (1)");
}

void add_seed(CLI::App& command, std::uint32_t& seed) {
    add(command, "--seed", seed, "N", "of every random draw (0)")
        ->transform(int_range(0, std::numeric_limits<std::uint32_t>::max()));
}

void add_starts(CLI::App& command, std::vector<std::string>& starts, const std::string& help) {
    add(command, "--seed-at", starts, "X,Y", help)->take_all()->allow_extra_args(false);
}

std::vector<Place> parse_starts(const std::vector<std::string>& starts) {
    std::vector<Place> places;
    for (const std::string& text : starts) places.push_back(parse_start(text));
    return places;
}

void add_fire_rate(CLI::App& command, std::optional<float>& fire_rate, const char* otherwise) {
    add(command, "--fire-rate", fire_rate, "F",
        fmt::format("chance that a cell updates in a step ({})", otherwise))
        ->check(real_range(0, 1, "a number in 0..1"));
}

}  // namespace nca::tool
