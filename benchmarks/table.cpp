// SPDX-License-Identifier: MIT
#include "benchmarks/table.hpp"

#include <fmt/format.h>

#include <span>

namespace nca::bench {
namespace {

// Text functions of the columns: a dash where the row has no such entry.

std::string share(const Row& row, const char* key) {
    const double part = row.value(key, 0.0);
    return part > 0 ? fmt::format("{:.1f}%", part * 100) : "-";
}

// In units of `unit`.
std::string figure(const Row& row, const char* key, int digits, double unit = 1) {
    if (!row.contains(key)) return "-";
    return fmt::format("{:.{}f}", row[key].get<double>() / unit, digits);
}

// The median of a rollout's time, divided by its steps.
std::string step_time(const Row& row, const char* key) {
    if (!row.contains(key)) return "-";
    return figure(row[key], "median", 4, row["steps"].get<int>());
}

std::string training_time(const Row& row) {
    if (!row.contains("training_ms")) return "-";
    const Row& ms = row["training_ms"];
    return fmt::format("{:.3f} {:>7.3f}..{:<7.3f}", ms["median"].get<double>(),
                       ms["fastest"].get<double>(), ms["slowest"].get<double>());
}

std::string predicted(const Row& row, const char* what, const char* key, int digits,
                      double unit = 1) {
    if (!row.contains("prediction")) return "-";
    return figure(row["prediction"][what], key, digits, unit);
}

std::string cell_steps(const Row& row) {
    return fmt::format("{:.3e}", row.value("cell_steps_per_second", 0.0));
}

std::string memory(const Row& row) {
    return row.value("peak_memory_bytes", 0.0) > 0 ? figure(row, "peak_memory_bytes", 0, 1e6) : "-";
}

struct Column {
    const char* above;  // the two lines of the head
    const char* below;
    int width;
    bool gpu_only;
    std::string (*text)(const Row&);
};

constexpr Column training_columns[] = {
    {"forward", "ms/step", 9, false, [](const Row& row) { return step_time(row, "forward_ms"); }},
    {"fwd+bwd", "ms/step", 9, false,
     [](const Row& row) { return step_time(row, "forward_backward_ms"); }},
    {"training iteration", "ms, fastest..slowest", 25, false, training_time},
    {"predicted", "ms", 9, true,
     [](const Row& row) { return predicted(row, "training", "ms", 4); }},
    {"measured", "to that", 7, true,
     [](const Row& row) { return predicted(row, "training", "measured_to_predicted", 2); }},
    {"cell-steps/s", "", 13, false, cell_steps},
    {"of peak", "arith.", 7, false,
     [](const Row& row) { return share(row, "peak_arithmetic_fraction"); }},
    {"of peak", "bandw.", 7, false,
     [](const Row& row) { return share(row, "peak_bandwidth_fraction"); }},
    {"memory", "peak, MB", 9, false, memory},
};

constexpr Column inference_columns[] = {
    {"ms/step", "", 9, false, [](const Row& row) { return step_time(row, "forward_ms"); }},
    {"ms/step", "1 a call", 9, false,
     [](const Row& row) {
         return row.contains("single_step_ms") ? figure(row["single_step_ms"], "median", 4) : "-";
     }},
    {"predicted", "ms/step", 9, true,
     [](const Row& row) { return predicted(row, "forward", "ms", 4, row["steps"].get<int>()); }},
    {"measured", "to that", 8, true,
     [](const Row& row) { return predicted(row, "forward", "measured_to_predicted", 2); }},
    {"cell-steps/s", "", 12, false, cell_steps},
    {"MB/step", "", 9, false, [](const Row& row) { return figure(row, "bytes_per_step", 1, 1e6); }},
    {"GB/s", "", 8, false, [](const Row& row) { return figure(row, "bytes_per_second", 1, 1e9); }},
    {"GB/s of", "a copy", 8, false,
     [](const Row& row) { return figure(row, "copy_bytes_per_second", 1, 1e9); }},
    {"of that", "", 7, false, [](const Row& row) { return share(row, "copy_fraction"); }},
    {"of peak", "arith.", 7, false,
     [](const Row& row) { return share(row, "peak_arithmetic_fraction"); }},
    {"warp instr.", "/128 cells", 11, true,
     [](const Row& row) { return figure(row, "instructions_per_128_cells", 0); }},
};

std::span<const Column> columns_of(Table table) {
    if (table == Table::training) return training_columns;
    return inference_columns;
}

// The first columns, which both tables have.
void print_first(const std::string& name, const std::string& precision, const std::string& form,
                 const std::string& cells, bool gpu) {
    fmt::print("{:<24}", name);
    if (gpu) fmt::print(" {:<8} {:<11}", precision, form);
    fmt::print(" {:>12}", cells);
}

// text: of a column.
template <class Text>
void print_columns(Table table, bool gpu, Text text) {
    for (const Column& column : columns_of(table)) {
        if (gpu || !column.gpu_only) fmt::print(" {:>{}}", text(column), column.width);
    }
    fmt::print("\n");
}

}  // namespace

Row row_of(const RowHead& head) {
    return {{"name", head.name},   {"engine", head.engine}, {"precision", head.precision},
            {"batch", head.batch}, {"height", head.height}, {"width", head.width},
            {"steps", head.steps}};
}

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

void print_head(Table table, bool gpu) {
    print_first("work", "precis.", "rollout", "cells", gpu);
    print_columns(table, gpu, [](const Column& column) { return column.above; });
    print_first("", "", "", "", gpu);
    print_columns(table, gpu, [](const Column& column) { return column.below; });
}

void print_row(Table table, const Row& row, bool gpu) {
    const std::string cells = fmt::format("{}x{}x{}", row["batch"].get<int>(),
                                          row["height"].get<int>(), row["width"].get<int>());
    print_first(row["name"], row["precision"], row.value("rollout", "-"), cells, gpu);
    if (row.contains("problem")) {
        fmt::print(" {}\n", row["problem"].get<std::string>());
    } else {
        print_columns(table, gpu, [&](const Column& column) { return column.text(row); });
    }
}

}  // namespace nca::bench
