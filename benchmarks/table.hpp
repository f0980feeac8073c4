// SPDX-License-Identifier: MIT
#pragma once

// The rows that bench_step prints, from the json that it writes.

#include "benchmarks/measure.hpp"

#include <nlohmann/json.hpp>

#include <string>

namespace nca::bench {

using Row = nlohmann::ordered_json;

Row to_json(const Timing& timing);

// How a measurement of `milliseconds` compares with what was predicted for it.
Row to_json(double predicted_seconds, double milliseconds);

// What every row has.
Row row_of(const std::string& name, const std::string& engine, const std::string& precision,
           int batch, int height, int width, int steps);

// On a GPU rows have a precision, a form of rollout and a prediction.
// A row without an entry has a dash there; one with a "problem" says that instead.
void print_training_header(bool gpu);
void print_training_row(const Row& row, bool gpu);
void print_inference_header(bool gpu);
void print_inference_row(const Row& row, bool gpu);

}  // namespace nca::bench
