// SPDX-License-Identifier: MIT
#include "benchmarks/setting.hpp"

#include <nca/engine.hpp>
#include <nca/error.hpp>

#include <fmt/format.h>

#include <utility>

namespace nca::bench {
namespace {

// Why a device cannot have such grids in its precision and form; empty where it can.
std::string obstacle(const Device& device, int batch, int height, int width) {
    try {
        const auto engine = make_engine(device);
        const ChosenForm chosen = engine->rollout_form(batch, height, width);
        return device.rollout == RolloutForm::bands && chosen.form != RolloutForm::bands
                   ? fmt::format("the engine has another form: {}", chosen.text)
                   : "";
    } catch (const CudaError& error) {
        return error.what();
    }
}

}  // namespace

Row Setting::row_of(RowHead head, const Device& device) const {
    head.precision = gpu ? name(device.precision.value()) : "float32";
    Row row = bench::row_of(head);
    if (gpu) row["rollout"] = name_of(device.rollout);
    return row;
}

bool Setting::add_obstacle(Row row, const Device& device) const {
    if (!gpu) return false;
    std::string problem = obstacle(device, row["batch"], row["height"], row["width"]);
    if (problem.empty()) return false;
    row["problem"] = std::move(problem);
    report.add(row);
    return true;
}

}  // namespace nca::bench
