// SPDX-License-Identifier: MIT
#include "cuda/bands/band_cut.hpp"

#include <nca/sizes.hpp>

#include <algorithm>
#include <cstddef>
#include <limits>

namespace nca::cuda {
namespace {

constexpr double impossible = std::numeric_limits<double>::infinity();
constexpr double cost_of_row = 3;  // in living cells

// Cuts rows 0 to height into so many bands so that their costs, combined by add from the first on,
// are least. cost(first, end) is impossible where no band may have these rows.
template <class Cost, class Add>
BandCut best_cut(int height, int bands, Cost cost, Add add, double& least) {
    const auto rows = std::size_t(height) + 1;
    // least of the first i rows in so many bands, and where the last of these begins.
    std::vector<std::vector<double>> best(std::size_t(bands) + 1,
                                          std::vector<double>(rows, impossible));
    std::vector<std::vector<int>> begin(best.size(), std::vector<int>(rows));
    best[0][0] = 0;
    for (std::size_t band = 1; band < best.size(); ++band) {
        for (int end = 1; end <= height; ++end) {
            for (int first = 0; first < end; ++first) {
                const double sum = add(best[band - 1][std::size_t(first)], cost(first, end));
                if (sum >= best[band][std::size_t(end)]) continue;
                best[band][std::size_t(end)] = sum;
                begin[band][std::size_t(end)] = first;
            }
        }
    }
    least = best.back().back();
    if (least == impossible) return {};
    BandCut cut;
    cut.bands = bands;
    cut.first_row[bands] = height;
    for (int band = bands; band > 0; --band) {
        cut.first_row[band - 1] = begin[std::size_t(band)][std::size_t(cut.first_row[band])];
    }
    return cut;
}

}  // namespace

BandCut cut_bands(int height, int bands, int most_rows, std::span<const double> row_load) {
    if (bands < 1) return {};
    std::vector<double> load_before(std::size_t(height) + 1);  // of the rows above
    for (std::size_t row = 0; row < row_load.size(); ++row) {
        load_before[row + 1] = load_before[row] + row_load[row];
    }
    const auto cost = [&](int first, int end) {
        const int rows = end - first;
        if (rows < fewest_band_rows || rows > most_rows) return impossible;
        return cost_of_row * rows + load_before[std::size_t(end)] - load_before[std::size_t(first)];
    };
    // First the least that the costliest band can cost. Then, of the cuts in which no band costs
    // more, that whose heights are nearest to equal: their squares have the least sum.
    double most = 0, squares = 0;
    best_cut(
        height, bands, cost, [](double a, double b) { return std::max(a, b); }, most);
    if (most == impossible) return {};
    const auto square = [&](int first, int end) {
        return cost(first, end) <= most ? double(end - first) * (end - first) : impossible;
    };
    return best_cut(
        height, bands, square, [](double a, double b) { return a + b; }, squares);
}

std::vector<double> row_load_of(std::span<const float> target, int height, int width, Edges edges) {
    const auto above = [&](int y, int x) {
        if (edges == Edges::circular) {
            y = (y + height) % height;
            x = (x + width) % width;
        }
        if (y < 0 || y >= height || x < 0 || x >= width) return false;
        const std::size_t cell = std::size_t(y) * width + x;
        return target[cell * visible_channels + alpha_channel] > living_threshold;
    };
    std::vector<double> load(static_cast<std::size_t>(height));
    for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
            bool living = false;
            for (int i = 0; i < 9; ++i) living = living || above(y + i / 3 - 1, x + i % 3 - 1);
            load[std::size_t(y)] += living;
        }
    }
    return load;
}

}  // namespace nca::cuda
