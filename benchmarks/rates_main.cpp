// SPDX-License-Identifier: MIT
// The program `rates`: a table of what the design assumes of a GPU and what this one does.
#include "benchmarks/rates.hpp"

#include <nca/error.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdio>
#include <exception>
#include <fstream>
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

nlohmann::ordered_json to_json(const RateReport& report) {
    nlohmann::ordered_json json = {{"device", report.device}};
    for (const Rate& rate : report.rates) {
        json["rates"][rate.key] =
            rate.problem.empty() ? nlohmann::ordered_json(rate.measured) : nullptr;
        nlohmann::ordered_json row = {{"key", rate.key}, {"what", rate.what}, {"unit", rate.unit}};
        if (rate.assumed != 0) row["assumed"] = rate.assumed;
        if (rate.problem.empty()) {
            row["measured"] = rate.measured;
        } else {
            row["problem"] = rate.problem;
        }
        json["rows"].push_back(row);
    }
    return json;
}

// Whether all that the device has could be measured.
bool run(int device, const std::string& path) {
    const RateReport report = measure_rates(device);
    fmt::print("{}\n{:<48} {:>9} {:>9}\n", report.device, "", "assumed", "measured");
    bool all = true;
    for (const Rate& rate : report.rates) {
        print(rate);
        all = all && (rate.problem.empty() || rate.lacking);
    }
    if (!path.empty()) {
        std::ofstream file(path);
        file << to_json(report).dump(1) << '\n';
        if (!file.flush()) throw IoError("cannot write " + path);
    }
    return all;
}

}  // namespace
}  // namespace nca::bench

int main(int argc, char** argv) {
    int device = 0;
    std::string json;
    CLI::App app("Measures the rates and latencies of a GPU that the kernels are designed by.");
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
