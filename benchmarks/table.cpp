// SPDX-License-Identifier: MIT
#include "benchmarks/table.hpp"

#include <fmt/format.h>

namespace nca::bench {
namespace {

std::string share(double part) { return part > 0 ? fmt::format("{:.1f}%", part * 100) : "-"; }

std::string cells_of(const Row& row) {
    return fmt::format("{}x{}x{}", row["batch"].get<int>(), row["height"].get<int>(),
                       row["width"].get<int>());
}

// A time of the row's rollout, as that of a step.
std::string step_time(const Row& row, const char* name) {
    if (!row.contains(name)) return "-";
    return fmt::format("{:.4f}", row[name]["median"].get<double>() / row["steps"].get<int>());
}

std::string training_time(const Row& row) {
    if (!row.contains("training_ms")) return "-";
    const Row& ms = row["training_ms"];
    return fmt::format("{:.3f} {:>7.3f}..{:<7.3f}", ms["median"].get<double>(),
                       ms["fastest"].get<double>(), ms["slowest"].get<double>());
}

// Of the training iteration, or of a step where the row has none.
std::string prediction_of(const Row& row) {
    if (!row.contains("prediction")) return fmt::format("{:>9} {:>7}", "-", "-");
    const Row& all = row["prediction"];
    const bool trains = all.contains("training");
    const Row& one = trains ? all["training"] : all["forward"];
    const double ms = one["ms"].get<double>() / (trains ? 1 : row["steps"].get<int>());
    return fmt::format("{:>9.4f} {:>7.2f}", ms, one["measured_to_predicted"].get<double>());
}

}  // namespace

Row to_json(const Timing& timing) {
    return {{"median", timing.median},
            {"fastest", timing.fastest},
            {"slowest", timing.slowest},
            {"count", timing.count}};
}

Row to_json(double predicted_seconds, double milliseconds) {
    const double predicted = predicted_seconds * 1e3;
    return {{"ms", predicted}, {"measured_to_predicted", milliseconds / predicted}};
}

Row row_of(const std::string& name, const std::string& engine, const std::string& precision,
           int batch, int height, int width, int steps) {
    return {{"name", name},     {"engine", engine}, {"precision", precision}, {"batch", batch},
            {"height", height}, {"width", width},   {"steps", steps}};
}

void print_header(bool gpu) {
    const auto line = [&](const char* a, const char* b, const char* c, const char* d, const char* e,
                          const char* f, const char* g, const char* h, const char* i,
                          const char* predicted, const char* ratio, const char* precision,
                          const char* form) {
        fmt::print("{:<24}", a);
        if (gpu) fmt::print(" {:<8} {:<11}", precision, form);
        fmt::print(" {:>12} {:>9} {:>9} {:>25}", b, c, d, e);
        if (gpu) fmt::print(" {:>9} {:>7}", predicted, ratio);
        fmt::print(" {:>13} {:>7} {:>7} {:>9}\n", f, g, h, i);
    };
    line("work", "cells", "forward", "fwd+bwd", "training iteration", "cell-steps/s", "of peak",
         "of peak", "memory", "predicted", "measured", "precis.", "rollout");
    line("", "", "ms/step", "ms/step", "ms, fastest..slowest", "", "arith.", "bandw.", "peak, MB",
         "ms", "to that", "", "");
}

void print_row(const Row& row, bool gpu) {
    fmt::print("{:<24}", row["name"].get<std::string>());
    if (gpu) {
        fmt::print(" {:<8} {:<11}", row["precision"].get<std::string>(), row.value("rollout", "-"));
    }
    fmt::print(" {:>12}", cells_of(row));
    if (row.contains("problem")) {
        fmt::print(" {}\n", row["problem"].get<std::string>());
        return;
    }
    fmt::print(" {:>9} {:>9} {:>25}", step_time(row, "forward_ms"),
               step_time(row, "forward_backward_ms"), training_time(row));
    if (gpu) fmt::print(" {}", prediction_of(row));
    const double memory = row.value("peak_memory_bytes", 0.0);
    fmt::print(" {:>13.3e} {:>7} {:>7} {:>9}\n", row.value("cell_steps_per_second", 0.0),
               share(row.value("peak_arithmetic_fraction", 0.0)),
               share(row.value("peak_bandwidth_fraction", 0.0)),
               memory > 0 ? fmt::format("{:.0f}", memory * 1e-6) : "-");
}

}  // namespace nca::bench
