// SPDX-License-Identifier: MIT
#include "host/tool/arguments/options.hpp"
#include "host/core/throw_error.hpp"

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

void add_seed(CLI::App& command, std::uint32_t& seed) {
    add(command, "--seed", seed, "N", "of every random draw (0)")
        ->transform(int_range(0, std::numeric_limits<std::uint32_t>::max()));
}

void add_fire_rate(CLI::App& command, std::optional<float>& fire_rate) {
    add(command, "--fire-rate", fire_rate, "F",
        "chance that a cell updates in a step (the model's own)")
        ->check(real_range(0, 1, "a number in 0..1"));
}

}  // namespace nca::tool
