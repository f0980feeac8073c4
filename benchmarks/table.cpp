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

std::string prediction_of(const Row& row) {
    if (!row.contains("prediction")) return fmt::format("{:>9} {:>7}", "-", "-");
    const Row& one = row["prediction"]["training"];
    return fmt::format("{:>9.4f} {:>7.2f}", one["ms"].get<double>(),
                       one["measured_to_predicted"].get<double>());
}

// What every row begins with.
void print_beginning(const Row& row, bool gpu) {
    fmt::print("{:<24}", row["name"].get<std::string>());
    if (gpu) {
        fmt::print(" {:<8} {:<11}", row["precision"].get<std::string>(), row.value("rollout", "-"));
    }
    fmt::print(" {:>12}", cells_of(row));
}

// In units of `unit`.
std::string figure(const Row& row, const char* key, int digits, double unit = 1) {
    if (!row.contains(key)) return "-";
    return fmt::format("{:.{}f}", row[key].get<double>() / unit, digits);
}

struct Column {
    const char* above;
    const char* below;
    int width;
    bool gpu;  // only there
    std::string (*text)(const Row&);
};

// Of an inference row, after its cells.
constexpr Column inference_columns[] = {
    {"ms/step", "", 9, false, [](const Row& row) { return step_time(row, "forward_ms"); }},
    {"ms/step", "1 a call", 9, false,
     [](const Row& row) {
         if (!row.contains("single_step_ms")) return std::string("-");
         return fmt::format("{:.4f}", row["single_step_ms"]["median"].get<double>());
     }},
    {"predicted", "ms/step", 9, true,
     [](const Row& row) {
         if (!row.contains("prediction")) return std::string("-");
         const double ms = row["prediction"]["forward"]["ms"].get<double>();
         return fmt::format("{:.4f}", ms / row["steps"].get<int>());
     }},
    {"measured", "to that", 8, true,
     [](const Row& row) {
         if (!row.contains("prediction")) return std::string("-");
         return figure(row["prediction"]["forward"], "measured_to_predicted", 2);
     }},
    {"cell-steps/s", "", 12, false,
     [](const Row& row) {
         return fmt::format("{:.3e}", row["cell_steps_per_second"].get<double>());
     }},
    {"MB/step", "", 9, false, [](const Row& row) { return figure(row, "bytes_per_step", 1, 1e6); }},
    {"GB/s", "", 8, false, [](const Row& row) { return figure(row, "bytes_per_second", 1, 1e9); }},
    {"GB/s of", "a copy", 8, false,
     [](const Row& row) { return figure(row, "copy_bytes_per_second", 1, 1e9); }},
    {"of that", "", 7, false,
     [](const Row& row) { return share(row.value("copy_fraction", 0.0)); }},
    {"of peak", "arith.", 7, false,
     [](const Row& row) { return share(row.value("peak_arithmetic_fraction", 0.0)); }},
    {"warp instr.", "/128 cells", 11, true,
     [](const Row& row) { return figure(row, "instructions_per_128_cells", 0); }},
};

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

void print_training_header(bool gpu) {
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

void print_training_row(const Row& row, bool gpu) {
    print_beginning(row, gpu);
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

void print_inference_header(bool gpu) {
    for (const bool above : {true, false}) {
        fmt::print("{:<24}", above ? "work" : "");
        if (gpu) fmt::print(" {:<8} {:<11}", above ? "precis." : "", above ? "rollout" : "");
        fmt::print(" {:>12}", above ? "cells" : "");
        for (const Column& column : inference_columns) {
            if (column.gpu && !gpu) continue;
            fmt::print(" {:>{}}", above ? column.above : column.below, column.width);
        }
        fmt::print("\n");
    }
}

void print_inference_row(const Row& row, bool gpu) {
    print_beginning(row, gpu);
    if (row.contains("problem")) {
        fmt::print(" {}\n", row["problem"].get<std::string>());
        return;
    }
    for (const Column& column : inference_columns) {
        if (column.gpu && !gpu) continue;
        fmt::print(" {:>{}}", column.text(row), column.width);
    }
    fmt::print("\n");
}

}  // namespace nca::bench
