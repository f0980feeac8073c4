// SPDX-License-Identifier: MIT
#pragma once

#include "benchmarks/measure.hpp"
#include "benchmarks/options.hpp"
#include "benchmarks/prediction.hpp"
#include "benchmarks/report.hpp"

#include <nca/device.hpp>

#include <string>

namespace nca::bench {

// What all rows of a run have in common.
struct Setting {
    const Options& options;
    bool gpu = false;
    Machine machine;  // what the rows are measured against
    Report& report;

    // For predictions.
    Gpu card() const {
        return {.multiprocessors = machine.multiprocessors, .clock = machine.clock};
    }

    // A row of our engine on one of options.devices(), with its precision and form.
    Row row_of(RowHead head, const Device& device) const;
    // Adds the row where the device cannot have such grids in its precision and form, with the
    // reason. This is no failure. True where it has.
    bool add_obstacle(Row row, const Device& device) const;
};

}  // namespace nca::bench
