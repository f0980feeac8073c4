// SPDX-License-Identifier: MIT
#pragma once

// The tables that bench_step prints, from the json that it writes.

#include "benchmarks/measure.hpp"

#include <nlohmann/json.hpp>

#include <string>

namespace nca::bench {

using Row = nlohmann::ordered_json;

// What every row begins with.
struct RowHead {
    std::string name;
    std::string engine = {};
    std::string precision = {};
    int batch = 1;
    int height = 0;
    int width = 0;
    int steps = 1;
};
Row row_of(const RowHead& head);

Row to_json(const Timing& timing);

// A predicted time, and how many times as long the measured one is.
Row to_json(double predicted_seconds, double milliseconds);

enum class Table { training, inference };

// On a GPU rows have a precision, a form of the rollout and a prediction. A row without an entry
// has a dash in its place. A row with a "problem" says that instead of its figures.
void print_head(Table table, bool gpu);
void print_row(Table table, const Row& row, bool gpu);

}  // namespace nca::bench
