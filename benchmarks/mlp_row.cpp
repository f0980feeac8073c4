// SPDX-License-Identifier: MIT
#include "benchmarks/mlp_row.hpp"

#include "benchmarks/measure.hpp"
#include "host/cpu/kernels.hpp"

#include <nca/model.hpp>

#include <fmt/format.h>

#include <cmath>
#include <memory>

namespace nca::bench {

Row bench_mlp(int count) {
    constexpr int chunks = 500;
    auto weights = std::make_unique<cpu::PackedWeights>();
    Weights drawn(true);
    float value = 0;
    for (float& weight : drawn.all()) weight = 0.1F * std::sin(value += 1);
    cpu::pack(*weights, drawn.view());
    struct alignas(64) Rows {
        float p[cpu::chunk_rows * perception];
        float h[cpu::chunk_rows * hidden];
        float u[cpu::chunk_rows * channels];
    };
    auto rows = std::make_unique<Rows>();
    for (float& p : rows->p) p = std::sin(value += 1);
    const double peak = peak_arithmetic(1);
    const Timing timing = measure(count, [&] {
        for (int i = 0; i < chunks; ++i) {
            cpu::mlp_forward(rows->u, rows->h, *weights, rows->p, cpu::chunk_rows);
        }
    });
    const double operations =
        2.0 * chunks * cpu::chunk_rows * (perception * hidden + hidden * channels);
    const double rate = operations / (timing.median * 1e-3);
    fmt::print("dense forward MLP, one core, {}: {:.1f} of {:.1f} GFLOP/s, {:.1f} % of the peak\n",
               cpu::instruction_set(), rate * 1e-9, peak * 1e-9, 100 * rate / peak);
    return {{"gflops", rate * 1e-9}, {"peak_gflops", peak * 1e-9}, {"peak_fraction", rate / peak}};
}

}  // namespace nca::bench
