// SPDX-License-Identifier: MIT
// The program `rates`: a table of what the design assumes of a GPU and what this one does.
#include "benchmarks/rates.hpp"
#include "host/files/atomic_file.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>

namespace nca::bench {
namespace {

// Seconds as microseconds, for people.
std::string figure(const Rate& rate, double value) {
    if (value == 0) return "-";
    return rate.unit == "s" ? fmt::format("{:.3f}", value * 1e6) : fmt::format("{:.4g}", value);
}

void print(const Rate& rate) {
    fmt::print("{:<48} {:>9} {:>9}  {}{}\n", rate.what, figure(rate, rate.assumed),
               figure(rate, rate.measured), rate.unit == "s" ? "us" : rate.unit,
               rate.problem.empty() ? "" : ": " + rate.problem);
}

nlohmann::ordered_json to_json(const Rate& rate) {
    nlohmann::ordered_json row = {{"key", rate.key}, {"what", rate.what}, {"unit", rate.unit}};
    if (rate.assumed != 0) row["assumed"] = rate.assumed;
    if (rate.problem.empty()) {
        row["measured"] = rate.measured;
    } else {
        row["problem"] = rate.problem;
    }
    return row;
}

// Whether all that the device has could be measured. Each rate is printed and written at once,
// because what comes later may be cut off.
bool run(int device, const std::string& path) {
    nlohmann::ordered_json report = {{"device", device_name(device)}};
    fmt::print("{}\n{:<48} {:>9} {:>9}\n", device_name(device), "", "assumed", "measured");
    bool all = true;
    measure_rates(device, [&](const Rate& rate) {
        print(rate);
        std::fflush(stdout);
        all = all && (rate.problem.empty() || rate.lacking);
        report["rates"][rate.key] =
            rate.problem.empty() ? nlohmann::ordered_json(rate.measured) : nullptr;
        report["rows"].push_back(to_json(rate));
        if (path.empty()) return;
        const std::string text = report.dump(1) + "\n";
        write_file(path, {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
    });
    return all;
}

}  // namespace
}  // namespace nca::bench

int main(int argc, char** argv) {
    int device = 0;
    std::string json;
    CLI::App app("Measures the rates and latencies of a GPU for which the kernels were designed.");
    app.add_option("--device", device, "which CUDA device (0)");
    app.add_option("--json", json, "write the results to this file as well");
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    try {
        return nca::bench::run(device, json) ? 0 : 1;
    } catch (const std::exception& error) {
        fmt::print(stderr, "rates: {}\n", error.what());
        return 1;
    }
}
